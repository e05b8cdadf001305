"""ArcFace: an additive angular margin."""

from typing import Any

import keras
import tensorflow as tf

from .cosines import cosine_with_margin
from .margin_softmax import MarginSoftmaxLoss


@keras.saving.register_keras_serializable(package="margin_centre_face")
class ArcFaceLoss(MarginSoftmaxLoss):
    """Separates identities by an angular margin.

    This is a `MarginSoftmaxLoss`. With `theta` the angle between an embedding and its own centre, the target
    is

        cos(theta + margin)

    Where `theta > pi - margin` the target continues as `cos(theta) - margin * sin(margin)`, so that it always
    falls as the angle grows. `AngularCentreLoss` with `centre_weight=0` gives the same numbers.

    References: [ArcFace](https://arxiv.org/abs/1801.07698); margin-centre-face,
    `losses/face_losses.py::arcface_loss`

    Args:
        num_identities: number of identities, at least 1.
        margin: radians in `[0, pi)`.
        scale: factor of the cosines before the softmax, greater than 0.
        **kwargs: arguments of `CentreLayer`.

    Returns:
        The terms of `MarginSoftmaxLoss`.

    Example:

    >>> import numpy as np
    >>> from losses import ArcFaceLoss
    >>> layer = ArcFaceLoss(num_identities=10, margin=0.3)
    >>> terms = layer(np.ones((4, 8), "float32"), np.array([0, 1, 2, 9]))
    >>> list(terms)
    ['loss', 'cross_entropy', 'cosine', 'accuracy', 'margin_accuracy']
    """

    can_be_sharded = True

    def target(self, cosine: tf.Tensor, margin: tf.Tensor, norm: Any) -> tf.Tensor:
        return cosine_with_margin(cosine, margin)
