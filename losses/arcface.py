"""Additive angular margin."""

from typing import Any

import keras
import tensorflow as tf

from .cosines import cosine_with_margin
from .margin_softmax import MarginSoftmaxLoss


@keras.saving.register_keras_serializable(package="margin_centre_face")
class ArcFaceLoss(MarginSoftmaxLoss):
    """Separates identities by an angular margin.

    The target is

        cos(theta + margin)

    Where `theta > pi - margin` it continues as `cos(theta) - margin * sin(margin)`, which keeps it monotonic.
    `AngularCentreLoss` with a centre weight of 0 gives the same numbers.

    References: [ArcFace](https://arxiv.org/abs/1801.07698); margin-centre-face,
    `losses/face_losses.py::arcface_loss`

    Args: see `MarginSoftmaxLoss`, also for inputs and outputs.
    """

    can_be_sharded = True

    def target(self, cosine: tf.Tensor, margin: tf.Tensor, norm: Any) -> tf.Tensor:
        return cosine_with_margin(cosine, margin)
