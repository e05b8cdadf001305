"""Angular margin plus centre term: the loss that gives the project its name."""

from typing import Any

import keras
import tensorflow as tf

from .arcface import ArcFaceLoss
from .loss_layer import require


@keras.saving.register_keras_serializable(package="margin_centre_face")
class AngularCentreLoss(ArcFaceLoss):
    """Separates identities by an angular margin and pulls each embedding to its own centre.

    This is a `MarginSoftmaxLoss` with the target of `ArcFaceLoss`. With `theta` the angle between an
    embedding and its own centre, the penalty is

        centre_weight * scale * (1 - cos(theta))

    References: [ArcFace](https://arxiv.org/abs/1801.07698); margin-centre-face,
    `losses/face_losses.py::arcface_loss`, and the centre term of `train_centre.py`

    Args:
        num_identities: number of identities, at least 1.
        margin: radians in `[0, pi)`.
        scale: factor of the cosines before the softmax, greater than 0.
        centre_weight: weight of the penalty, at least 0.
        **kwargs: arguments of `CentreLayer`.

    Returns:
        The terms of `MarginSoftmaxLoss`, and `centre`: the penalty.

    Example:

    >>> import numpy as np
    >>> from losses import AngularCentreLoss
    >>> layer = AngularCentreLoss(num_identities=10, centre_weight=0.3)
    >>> terms = layer(np.ones((4, 8), "float32"), np.array([0, 1, 2, 9]))
    >>> list(terms)
    ['loss', 'cross_entropy', 'centre', 'cosine', 'accuracy', 'margin_accuracy']
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
