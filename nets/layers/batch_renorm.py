"""Batch renormalisation, which makes training more like inference."""

from typing import Any

import keras
import tensorflow as tf

from .batch_norm import BatchNorm


@keras.saving.register_keras_serializable(package="margin_centre_face")
class BatchRenorm(BatchNorm):
    """Batch normalisation that training corrects towards the moving statistics.

    With `mean` and `variance` of the batch, training computes

        r = clip(sqrt(variance + epsilon) / sqrt(moving_variance + epsilon), rmin, rmax)
        d = clip((mean - moving_mean) / sqrt(moving_variance + epsilon), -dmax, dmax)
        y = gamma * ((x - mean) / sqrt(variance + epsilon) * r + d) + beta

    No gradient flows through `r` and `d`. If nothing is clipped, this normalises by the moving statistics.
    The original keeps a second pair of moving averages for `r` and `d`. Its momenta are equal, so both pairs
    have the same values, and this layer keeps one.

    References:
    - [Batch Renormalization](https://arxiv.org/abs/1702.03275)
    - margin-centre-face, `nets/L_Resnet_E_IR_RBN.py`

    Args:
        momentum, epsilon: see `BatchNorm`, also for inputs, outputs and errors.
        rmin, rmax: range of `r`, with `0 <= rmin <= 1 <= rmax`.
        dmax: largest absolute value of `d`, at least 0.
        **kwargs: other arguments of `BatchNorm`.
    """

    def __init__(
        self,
        momentum: float = 0.9,
        epsilon: float = 1e-3,
        rmin: float = 0.3333,
        rmax: float = 3.0,
        dmax: float = 5.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(momentum, epsilon, **kwargs)
        self.rmin = rmin
        self.rmax = rmax
        self.dmax = dmax

    def _scale_and_offset(self, images, use_batch, moments=None):
        gamma, beta = super()._scale_and_offset(images, use_batch)
        if not use_batch:
            return gamma, beta
        if moments is None:
            moments = tf.nn.moments(tf.cast(images, tf.float32), (0, 1, 2))
        mean, variance = (tf.stop_gradient(moment) for moment in moments)
        moving_stddev = tf.sqrt(self.moving_variance.value + self.epsilon)
        r = tf.clip_by_value(tf.sqrt(variance + self.epsilon) / moving_stddev, self.rmin, self.rmax)
        d = tf.clip_by_value((mean - self.moving_mean.value) / moving_stddev, -self.dmax, self.dmax)
        return gamma * r, beta + gamma * d

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rmin": self.rmin, "rmax": self.rmax, "dmax": self.dmax}
