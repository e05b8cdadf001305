"""Angular margin plus centre term: the loss that gives the project its name."""

from typing import Any

import keras
import tensorflow as tf

from .arcface import ArcFaceLoss
from .loss_layer import require


@keras.saving.register_keras_serializable(package="margin_centre_face")
class AngularCentreLoss(ArcFaceLoss):
    """Separates identities by an angular margin and pulls each embedding to its centre.

    The target is that of `ArcFaceLoss`, and the penalty is

        centre_weight * scale * (1 - cos(theta))

    References:
        - [ArcFace](https://arxiv.org/abs/1801.07698)
        - margin-centre-face, `losses/face_losses.py::arcface_loss`, and the centre term of `train_centre.py`

    Args:
        num_identities: number of identities, at least 1.
        margin: radians in `[0, pi)`. Defaults to `0.5`.
        scale: see `MarginSoftmaxLoss`, as for all other arguments, inputs and outputs. Defaults to `64.0`.
        centre_weight: weight of the penalty, at least 0. Defaults to `0.3`.

    Returns:
        The terms of `MarginSoftmaxLoss`, and `centre`: the penalty.
    """

    def __init__(
        self,
        num_identities: int,
        margin: float = 0.5,
        scale: float = 64.0,
        centre_weight: float = 0.3,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_identities, margin, scale, **kwargs)
        require(centre_weight >= 0, "centre_weight", "a number >= 0", centre_weight)
        self.centre_weight = centre_weight

    def penalties(self, cosine: tf.Tensor, norm: Any) -> dict[str, tf.Tensor]:
        return {"centre": self.centre_weight * self.scale * (1.0 - cosine)}
