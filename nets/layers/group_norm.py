"""Group normalisation of the original's model A."""

from typing import Any

import keras
import tensorflow as tf

_GROUPS = 32


@keras.saving.register_keras_serializable(package="margin_centre_face")
class GroupNorm(keras.layers.Layer):
    """Normalises each image over groups of neighbouring channels, at most 32 of them.

        y = scale * (x - mean) / sqrt(variance + epsilon) + offset

    The statistics are those of one image and one group, so training and inference are the same function. They
    are float32 under every dtype policy. The trainable `scale` and `offset` have the shape that they have in
    the original, `(1, channels, 1, 1)`.

    `keras.layers.GroupNormalization` cannot replace this layer. Its `scale` is a bool, but checkpoints have a
    variable of that name. It also folds the mean into the offset, which cancels digits if the mean is large.

    References:
    - [Group Normalization](https://arxiv.org/abs/1803.08494)
    - margin-centre-face, `nets/L_Resnet_E_IR_GBN.py`

    Args:
        epsilon: greater than 0.
        **kwargs: arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: float, shape `(batch, height, width, channels)`. The output has the same shape and dtype.

    Raises:
        ValueError: there are more than 32 channels, but not a multiple of 32.
    """

    def __init__(self, epsilon: float = 1e-5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.epsilon = epsilon

    def build(self, input_shape: tuple[int, ...]) -> None:
        channels = input_shape[-1]
        self.groups = min(_GROUPS, channels)
        if channels % self.groups:
            raise ValueError(
                f"{self.name}: expected a multiple of {self.groups} channels, received {channels}"
            )
        for name, initializer in (("scale", "ones"), ("offset", "zeros")):
            variable = self.add_weight(
                shape=(1, channels, 1, 1), initializer=initializer, dtype="float32", autocast=False, name=name
            )
            setattr(self, name, variable)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        height, width, channels = inputs.shape[1:]
        shape = (-1, height, width, self.groups, channels // self.groups)
        groups = tf.reshape(tf.cast(inputs, tf.float32), shape)
        mean, variance = tf.nn.moments(groups, (1, 2, 4), keepdims=True)
        normalised = (groups - mean) * tf.math.rsqrt(variance + self.epsilon)
        normalised = tf.reshape(normalised, (-1, height, width, channels))
        scale, offset = (tf.reshape(tf.convert_to_tensor(v), (channels,)) for v in (self.scale, self.offset))
        return tf.cast(normalised * scale + offset, inputs.dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "epsilon": self.epsilon}
