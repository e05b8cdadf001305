"""Batch normalisation with the original's moving statistics, on the fused kernel."""

import keras
import tensorflow as tf

from .global_moments import global_moments, num_replicas


@keras.saving.register_keras_serializable(package="margin_centre_face")
class BatchNorm(keras.layers.Layer):
    """Normalises every channel (the last axis) over all other axes.

    `y = gamma * (x - mean) / sqrt(variance + epsilon) + beta`, with the batch's statistics
    while training and the moving ones otherwise. The moving variance takes the *biased* batch
    variance, as the original's does. The fused kernel normalises by that one too, but
    hands out the unbiased one (Bessel's correction), which is undone here exactly.
    PyTorch's moving variance takes the unbiased one: `unbiased=True`.

    All four variables and the statistics are float32 under every dtype policy; inputs and
    outputs have the policy's compute dtype. Under several replicas each normalises by the
    statistics of its own share, and the moving ones are averaged when they are read; after
    `synchronise_batch_norm` all normalise by those of the global batch, as one device does.

    References:
    - [Batch Normalization](https://arxiv.org/abs/1502.03167)
    - margin-centre-face, `nets/L_Resnet_E_IR_fix_issue9.py` (TensorLayer's `BatchNormLayer`)

    Args:
        momentum: float in `[0, 1)`, the share of the old moving statistics that is kept.
            Defaults to `0.9`.
        epsilon: float > 0, added to the variance. Defaults to `2e-5`.
        gamma_initializer: Keras initializer. Defaults to `"ones"`.
        train_gamma: bool; `False` keeps `gamma` as it is initialised or loaded.
        unbiased: bool; `True` moves the variance towards the unbiased batch variance. Defaults to `False`.
        **kwargs: of `keras.layers.Layer`.

    Call arguments:
        inputs: float, shape `(batch, channels)` or `(batch, height, width, channels)`; as many on every
            replica.
        training: bool.

    Returns:
        The same shape and dtype.

    Attributes:
        synchronised: bool, whether the statistics are those of the global batch. How a net is trained, not
            what it is: so it is no part of the configuration. `False` at first.

    Example:

    >>> layer = BatchNorm()
    >>> float(abs(layer(np.ones((4, 2), "float32"), training=True)).numpy().max())
    0.0
    """

    def __init__(
        self,
        momentum=0.9,
        epsilon=2e-5,
        gamma_initializer="ones",
        train_gamma=True,
        unbiased=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.momentum = momentum
        self.epsilon = epsilon
        self.gamma_initializer = keras.initializers.get(gamma_initializer)
        self.train_gamma = train_gamma
        self.unbiased = unbiased
        self.synchronised = False

    def build(self, input_shape):
        if len(input_shape) not in (2, 4):
            raise ValueError(f"{self.name}: expected 2 or 4 axes, received shape {tuple(input_shape)}")

        def variable(name, initializer, **kwargs):
            return keras.Variable(
                keras.initializers.get(initializer),
                shape=(input_shape[-1],),
                dtype="float32",
                autocast=False,
                name=name,
                **kwargs,
            )

        # Written on every step and read rarely: each replica keeps its own until somebody reads.
        moving = {"trainable": False, "aggregation": "mean", "synchronization": "on_read"}
        self.beta = variable("beta", "zeros")
        self.gamma = variable("gamma", self.gamma_initializer, trainable=self.train_gamma)
        self.moving_mean = variable("moving_mean", "zeros", **moving)
        self.moving_variance = variable("moving_variance", "ones", **moving)

    def call(self, inputs, training=False):
        flat = len(inputs.shape) == 2
        images = inputs[:, None, None, :] if flat else inputs
        # A frozen layer keeps its statistics, as everywhere in Keras.
        use_batch = bool(training) and self.trainable
        if use_batch and self.synchronised and num_replicas() > 1:
            outputs = self._normalise_by_global_batch(images)
            return outputs[:, 0, 0, :] if flat else outputs
        scale, offset = self._scale_and_offset(images, use_batch)
        normalised = tf.raw_ops.FusedBatchNormV3(
            x=images,
            scale=scale,
            offset=offset,
            mean=tf.constant([], tf.float32) if use_batch else tf.convert_to_tensor(self.moving_mean),
            variance=tf.constant([], tf.float32) if use_batch else tf.convert_to_tensor(self.moving_variance),
            epsilon=self.epsilon,
            is_training=use_batch,
        )
        if use_batch:
            self._move(self.moving_mean, normalised.batch_mean)
            variance = normalised.batch_variance
            if not self.unbiased:
                count = tf.cast(tf.reduce_prod(tf.shape(images)[:-1]), tf.float32)
                variance = variance * ((count - 1.0) / count)
            self._move(self.moving_variance, variance)
        return normalised.y[:, 0, 0, :] if flat else normalised.y

    def _normalise_by_global_batch(self, images):
        # The fused kernel has no gradient for statistics that it is given; this form has, through the
        # collective, too.
        values = tf.cast(images, tf.float32)
        mean, variance = global_moments(values)
        scale, offset = self._scale_and_offset(images, True, (mean, variance))
        # Centred first: a product with `mean` folded into the offset would cancel digits.
        outputs = (values - mean) * (tf.math.rsqrt(variance + self.epsilon) * scale) + offset
        self._move(self.moving_mean, mean)
        if self.unbiased:
            count = tf.cast(tf.reduce_prod(tf.shape(images)[:-1]) * num_replicas(), tf.float32)
            variance = variance * (count / (count - 1.0))
        self._move(self.moving_variance, variance)
        return tf.cast(outputs, images.dtype)

    def _scale_and_offset(self, images, use_batch, moments=None):
        """What the normalised values are multiplied by, and what is added then.

        `moments` are mean and variance of the global batch, where the layer is synchronised.
        """
        return tf.convert_to_tensor(self.gamma), tf.convert_to_tensor(self.beta)

    def _move(self, moving, batch_statistic):
        moving.value.assign_sub((1.0 - self.momentum) * (moving.value - batch_statistic))

    def get_config(self):
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "epsilon": self.epsilon,
            "gamma_initializer": keras.initializers.serialize(self.gamma_initializer),
            "train_gamma": self.train_gamma,
            "unbiased": self.unbiased,
        }


def synchronise_batch_norm(model):
    """Makes all batch normalisation of a model use the statistics of the global batch.

    Args:
        model: `keras.Model`; its layers are changed.

    Returns:
        int, the number of layers that do so.
    """
    layers = [layer for layer in model.layers if isinstance(layer, BatchNorm)]
    for layer in layers:
        layer.synchronised = True
    return len(layers)
