"""Dropout whose masks follow from a seed and from a counter that is saved with the weights."""

from typing import Any

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="margin_centre_face")
class Dropout(keras.layers.Layer):
    """Keeps each value with probability `keep_prob` and scales it by `1 / keep_prob`.

    The mask of an image depends only on the seed, the number of earlier draws and the image's place in the
    global batch. Each replica draws the masks of the global batch and takes its share, so the number of
    replicas does not matter. Keras's own layer draws the same mask on every replica. It also keeps its random
    state outside of `tf.train.Checkpoint`, so a resumed run would differ.

    References:
    - margin-centre-face, `nets/L_Resnet_E_IR_fix_issue9.py` (`E_Dropout`, `keep=0.4`)

    Args:
        keep_prob: probability of keeping a value, in `(0, 1]`.
        seed: seed of the masks.
        **kwargs: arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: float, shape `(batch, ...)`, the same shape on every replica.
        training: whether to drop values. Defaults to `False`, which returns the inputs.

    Returns:
        The shape and dtype of the inputs.

    Raises:
        ValueError: `keep_prob` is out of range.
    """

    def __init__(self, keep_prob: float = 0.4, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 < keep_prob <= 1:
            raise ValueError(f"keep_prob: expected a number in (0, 1], received {keep_prob}")
        self.keep_prob = keep_prob
        self.seed = seed

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        # Every replica has its own counter. It is int64, because code compiled for a GPU cannot use int32.
        self.draws = self.add_weight((), "zeros", "int64", trainable=False, name="draws")

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        if not training or self.keep_prob == 1:
            return inputs
        shape = self._mask_shape(tf.shape(inputs))
        kept = uniform_of_batch(self.draws, self.seed, shape[0], shape[1:]) < self.keep_prob
        # With a scalar in a `tf.where`, TensorFlow would no longer move the channels of convs: see `PReLU`.
        return inputs / self.keep_prob * tf.cast(kept, inputs.dtype)

    def _mask_shape(self, shape):
        return shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "keep_prob": self.keep_prob, "seed": self.seed}


@keras.saving.register_keras_serializable(package="margin_centre_face")
class DropPath(Dropout):
    """Keeps all values of an image or none. It leaves out a residual branch for some images.

    References:
    - [Deep Networks with Stochastic Depth](https://arxiv.org/abs/1603.09382)

    Args:
        keep_prob: probability of keeping an image, in `(0, 1]`.
        seed: seed of the masks.
        **kwargs: see `Dropout`, also for inputs and outputs.
    """

    def _mask_shape(self, shape):
        return tf.concat([shape[:1], tf.ones_like(shape[1:])], 0)


def uniform_of_batch(draws: keras.Variable, seed: int, batch_size: tf.Tensor, shape: Any) -> tf.Tensor:
    """Draws numbers in `[0, 1)` for the images of this replica, and counts the draw.

    Args:
        draws: number of earlier draws, an int64 variable of shape `()`.
        seed: seed of the draws.
        batch_size: number of images, the same on every replica.
        shape: shape of the numbers of one image.

    Returns:
        float32 `(batch_size, *shape)`.
    """
    context = tf.distribute.get_replica_context()
    draw = tf.convert_to_tensor(draws)
    # The factor keeps the masks of runs with one replica as they were in older versions.
    counter = tf.stack([draw, tf.constant(seed, tf.int64) * 65536])
    global_shape = tf.concat([[batch_size * context.num_replicas_in_sync], shape], 0)
    start = batch_size * context.replica_id_in_sync_group
    numbers = tf.random.stateless_uniform(global_shape, counter)[start : start + batch_size]
    draws.value.assign_add(1)
    return numbers
