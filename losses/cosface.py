"""Additive cosine margin."""

from typing import Any

import keras
import tensorflow as tf

from .margin_softmax import MarginSoftmaxLoss


@keras.saving.register_keras_serializable(package="margin_centre_face")
class CosFaceLoss(MarginSoftmaxLoss):
    """Separates identities by a margin of the cosine.

    The target is

        cos(theta) - margin

    References: [CosFace](https://arxiv.org/abs/1801.09414); margin-centre-face,
    `losses/face_losses.py::cosineface_losses`, also for scale and margin

    Args: see `MarginSoftmaxLoss`, also for inputs and outputs. The margin is a cosine in `[0, 2)`.
    """

    can_be_sharded = True
    margin_range = "a cosine in [0, 2)"
    margin_limit = 2.0

    def __init__(self, num_identities: int, margin: float = 0.4, scale: float = 30.0, **kwargs: Any) -> None:
        super().__init__(num_identities, margin, scale, **kwargs)

    def target(self, cosine: tf.Tensor, margin: tf.Tensor, norm: Any) -> tf.Tensor:
        return cosine - margin
