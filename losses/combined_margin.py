"""Multiplicative, angular and cosine margin in one."""

from typing import Any

import keras
import tensorflow as tf

from .cosines import angle
from .loss_layer import require
from .margin_softmax import MarginSoftmaxLoss


@keras.saving.register_keras_serializable(package="margin_centre_face")
class CombinedMarginLoss(MarginSoftmaxLoss):
    """Separates identities by the margins of SphereFace, ArcFace and CosFace together.

    The target is

        cos(margin_a * theta + margin) - margin_b

    It rises again past an angle of `pi`, as in the original. That of `ArcFaceLoss` does not.

    References: [ArcFace](https://arxiv.org/abs/1801.07698), also for the defaults (CM1); margin-centre-face,
    `losses/face_losses.py::combine_loss_val`

    Args:
        margin_a: factor of the angle, greater than 0.
        margin_b: a cosine in `[0, 2)`. Others: see `MarginSoftmaxLoss`, also for inputs and outputs.
    """

    can_be_sharded = True

    def __init__(
        self,
        num_identities: int,
        margin_a: float = 1.0,
        margin: float = 0.3,
        margin_b: float = 0.2,
        scale: float = 64.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_identities, margin, scale, **kwargs)
        require(margin_a > 0, "margin_a", "a number > 0", margin_a)
        require(0 <= margin_b < 2, "margin_b", "a cosine in [0, 2)", margin_b)
        self.margin_a = margin_a
        self.margin_b = margin_b

    def target(self, cosine: tf.Tensor, margin: tf.Tensor, norm: Any) -> tf.Tensor:
        return tf.cos(self.margin_a * angle(cosine) + margin) - self.margin_b
