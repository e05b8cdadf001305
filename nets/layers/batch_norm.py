"""Batch normalisation with the moving statistics of the original, computed by the fused kernel."""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf


class _Update(NamedTuple):
    """A moving statistic, and the value that it moves towards: `factor * statistic`.

    Attributes:
        moving: the variable, `(channels,)`.
        momentum: share of the old value to keep.
        statistic: that of the batch, `(channels,)`.
        factor: float32 `()`.
    """

    moving: tf.Variable
    momentum: float
    statistic: tf.Tensor
    factor: tf.Tensor


_delayed: contextvars.ContextVar[list[_Update] | None] = contextvars.ContextVar("delayed", default=None)


@contextlib.contextmanager
def move_statistics_together() -> Iterator[None]:
    """Collects the updates of all moving statistics inside the block, and applies them together at its end.

    On a GPU, launching an operation on a few hundred numbers takes longer than the operation itself.
    """
    updates: list[_Update] = []
    token = _delayed.set(updates)
    try:
        yield
    finally:
        _delayed.reset(token)
    if updates:
        _move(updates)


@keras.saving.register_keras_serializable(package="margin_centre_face")
class BatchNorm(keras.layers.Layer):
    """Normalises every channel (the last axis) over all other axes.

        y = gamma * (x - mean) / sqrt(variance + epsilon) + beta

    Training uses the statistics of the batch. Inference uses the moving statistics. As in the original, the
    moving variance follows the *biased* variance of the batch. With `unbiased=True` it follows the unbiased
    one, as in PyTorch. The fused kernel returns the unbiased variance (Bessel's correction), which this layer
    converts exactly.

    Variables and statistics are float32 under every dtype policy. Inputs and outputs have the policy's
    compute dtype. With several replicas, each normalises by the statistics of its own share of the batch, and
    the moving statistics are averaged when they are read. After `synchronise_batch_norm`, every replica
    normalises by the statistics of the global batch, as a single device does.

    References:
    - [Batch Normalization](https://arxiv.org/abs/1502.03167)
    - margin-centre-face, `nets/L_Resnet_E_IR_fix_issue9.py` (TensorLayer's `BatchNormLayer`)

    Args:
        momentum: share of the old moving statistics that a step keeps, in `[0, 1)`.
        epsilon: greater than 0.
        gamma_initializer: Keras initializer of `gamma`.
        train_gamma: whether `gamma` is trained. `False` keeps its initial or loaded value.
        unbiased: whether the moving variance follows the unbiased variance of the batch.
        **kwargs: arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: float, shape `(batch, channels)` or `(batch, height, width, channels)`. Every replica must get
            the same number of images.
        training: whether to normalise by the statistics of the batch and move the moving statistics. Defaults
            to `False`.

    Returns:
        The shape and dtype of the inputs.

    Raises:
        ValueError: the inputs do not have 2 or 4 axes.

    Example:

    >>> import numpy as np
    >>> from nets import BatchNorm
    >>> BatchNorm()(np.array([[1.0], [3.0]], "float32"), training=True).numpy().round(3).tolist()
    [[-1.0], [1.0]]
    """

    def __init__(
        self,
        momentum: float = 0.9,
        epsilon: float = 2e-5,
        gamma_initializer: Any = "ones",
        train_gamma: bool = True,
        unbiased: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.momentum = momentum
        self.epsilon = epsilon
        self.gamma_initializer = keras.initializers.get(gamma_initializer)
        self.train_gamma = train_gamma
        self.unbiased = unbiased
        self.synchronised = False  # it belongs to the training run, so it is not part of the configuration

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        if len(input_shape) not in (2, 4):
            raise ValueError(f"{self.name}: expected 2 or 4 axes, received shape {tuple(input_shape)}")

        def variable(name, initializer, **kwargs):
            kwargs |= {"dtype": "float32", "autocast": False, "name": name}
            return keras.Variable(keras.initializers.get(initializer), (input_shape[-1],), **kwargs)

        # Every step writes them, but few steps read them. So each replica keeps its own until they are read.
        moving = {"trainable": False, "aggregation": "mean", "synchronization": "on_read"}
        self.beta = variable("beta", "zeros")
        self.gamma = variable("gamma", self.gamma_initializer, trainable=self.train_gamma)
        self.moving_mean = variable("moving_mean", "zeros", **moving)
        self.moving_variance = variable("moving_variance", "ones", **moving)

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        flat = len(inputs.shape) == 2
        images = inputs[:, None, None, :] if flat else inputs
        # A frozen layer keeps its statistics, like Keras's own batch normalisation.
        use_batch = bool(training) and self.trainable
        is_global = use_batch and self.synchronised and num_replicas() > 1
        outputs = self._normalise_by_global_batch(images) if is_global else self._normalise(images, use_batch)
        return outputs[:, 0, 0, :] if flat else outputs

    def _normalise(self, images, use_batch):
        scale, offset = self._scale_and_offset(images, use_batch)
        normalised = tf.raw_ops.FusedBatchNormV3(
            x=images,
            scale=scale,
            offset=offset,
            mean=[] if use_batch else tf.convert_to_tensor(self.moving_mean),
            variance=[] if use_batch else tf.convert_to_tensor(self.moving_variance),
            epsilon=self.epsilon,
            is_training=use_batch,
        )
        if use_batch:
            count = tf.cast(tf.reduce_prod(tf.shape(images)[:-1]), tf.float32)
            factor = tf.ones([]) if self.unbiased else (count - 1.0) / count
            self._move(normalised.batch_mean, normalised.batch_variance, factor)
        return normalised.y

    def _normalise_by_global_batch(self, images):
        # The fused kernel has no gradient with respect to statistics that are passed to it. This form has
        # one, even through the collective operation.
        values = tf.cast(images, tf.float32)
        mean, variance = global_moments(values)
        scale, offset = self._scale_and_offset(images, True, (mean, variance))
        # Subtract the mean first. Folding it into the offset would cancel digits.
        outputs = (values - mean) * (tf.math.rsqrt(variance + self.epsilon) * scale) + offset
        count = tf.cast(tf.reduce_prod(tf.shape(images)[:-1]) * num_replicas(), tf.float32)
        self._move(mean, variance, count / (count - 1.0) if self.unbiased else tf.ones([]))
        return tf.cast(outputs, images.dtype)

    def _scale_and_offset(self, images, use_batch, moments=None):
        """Returns factor and offset of normalised values. A synchronised layer passes the global moments."""
        return tf.convert_to_tensor(self.gamma), tf.convert_to_tensor(self.beta)

    def _move(self, mean, variance, variance_factor):
        updates = [
            _Update(self.moving_mean.value, self.momentum, mean, tf.ones([])),
            _Update(self.moving_variance.value, self.momentum, variance, variance_factor),
        ]
        delayed = _delayed.get()
        if delayed is None:
            _move(updates)
        else:
            delayed.extend(updates)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "epsilon": self.epsilon,
            "gamma_initializer": keras.initializers.serialize(self.gamma_initializer),
            "train_gamma": self.train_gamma,
            "unbiased": self.unbiased,
        }


def _move(updates):
    sizes = [update.moving.shape[0] for update in updates]
    old = tf.concat([tf.convert_to_tensor(update.moving) for update in updates], 0)
    batch = tf.concat([update.statistic for update in updates], 0)
    factors = tf.stack([update.factor for update in updates])
    batch *= tf.gather(factors, np.repeat(np.arange(len(sizes)), sizes))
    rates = np.repeat(np.array([1.0 - update.momentum for update in updates], np.float32), sizes)
    moved = tf.split(old - rates * (old - batch), sizes)
    for update, values in zip(updates, moved, strict=True):
        update.moving.assign(values)


def synchronise_batch_norm(model: keras.Model) -> int:
    """Makes every `BatchNorm` of a model use the statistics of the global batch. Returns their number."""
    layers = [layer for layer in model.layers if isinstance(layer, BatchNorm)]
    for layer in layers:
        layer.synchronised = True
    return len(layers)


def global_moments(images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns mean and biased variance over the images of all replicas, both float32 `(channels,)`.

    One all-reduce exchanges the mean and variance of each replica. Gradients flow through it. The variance is
    `mean(variances + (means - mean)^2)`, which cancels no digits, unlike `mean(x^2) - mean(x)^2`.

    References:
    - Chan, Golub, LeVeque: Updating Formulae and a Pairwise Algorithm for Computing Sample Variances (1979)

    Args:
        images: float32 `(batch, height, width, channels)`, the same number on every replica.
    """
    moments = tf.stack(tf.nn.moments(images, (0, 1, 2)))
    if num_replicas() > 1:
        context = tf.distribute.get_replica_context()
        # Each replica adds its own row to zeros: a gather that every collective library supports.
        row = tf.one_hot(context.replica_id_in_sync_group, num_replicas())
        moments = context.all_reduce("SUM", row[:, None, None] * moments)
    else:
        moments = moments[None]
    means, variances = moments[:, 0], moments[:, 1]
    mean = tf.reduce_mean(means, axis=0)
    return mean, tf.reduce_mean(variances + tf.square(means - mean), axis=0)


def num_replicas() -> int:
    """Returns the number of replicas that compute together, 1 outside of `strategy.run`."""
    context = tf.distribute.get_replica_context()
    return 1 if context is None else context.num_replicas_in_sync
