"""The multiplicative, angular and cosine margins of SphereFace, ArcFace and CosFace in one loss."""

from typing import Any

import keras
import tensorflow as tf

from .cosines import angle
from .loss_layer import require
from .margin_softmax import MarginSoftmaxLoss


@keras.saving.register_keras_serializable(package="margin_centre_face")
class CombinedMarginLoss(MarginSoftmaxLoss):
    """Separates identities by the margins of SphereFace, ArcFace and CosFace together.

    This is a `MarginSoftmaxLoss`. With `theta` the angle between an embedding and its own centre, the target
    is

        cos(margin_a * theta + margin) - margin_b

    Where `margin_a * theta + margin > pi` the target rises again, as in the original. The target of
    `ArcFaceLoss` does not.

    References: [ArcFace](https://arxiv.org/abs/1801.07698), also for the defaults (CM1); margin-centre-face,
    `losses/face_losses.py::combine_loss_val`

    Args:
        num_identities: number of identities, at least 1.
        margin_a: factor of the angle, greater than 0.
        margin: added to the angle, radians in `[0, pi)`.
        margin_b: subtracted from the cosine, in `[0, 2)`.
        scale: factor of the cosines before the softmax, greater than 0.
        **kwargs: arguments of `CentreLayer`.

    Returns:
        The terms of `MarginSoftmaxLoss`.
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
