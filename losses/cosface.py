"""CosFace: an additive margin on the cosine."""

from typing import Any

import keras
import tensorflow as tf

from .margin_softmax import MarginSoftmaxLoss


@keras.saving.register_keras_serializable(package="margin_centre_face")
class CosFaceLoss(MarginSoftmaxLoss):
    """Separates identities by a margin on the cosine.

    This is a `MarginSoftmaxLoss`. With `theta` the angle between an embedding and its own centre, the target
    is

        cos(theta) - margin

    References: [CosFace](https://arxiv.org/abs/1801.09414); margin-centre-face,
    `losses/face_losses.py::cosineface_losses`, also for the defaults of margin and scale

    Args:
        num_identities: number of identities, at least 1.
        margin: a cosine in `[0, 2)`.
        scale: factor of the cosines before the softmax, greater than 0.
        **kwargs: arguments of `CentreLayer`.

    Returns:
        The terms of `MarginSoftmaxLoss`.
    """

    can_be_sharded = True
    margin_range = "a cosine in [0, 2)"
    margin_limit = 2.0

    def __init__(self, num_identities: int, margin: float = 0.4, scale: float = 30.0, **kwargs: Any) -> None:
        super().__init__(num_identities, margin, scale, **kwargs)

    def target(self, cosine: tf.Tensor, margin: tf.Tensor, norm: Any) -> tf.Tensor:
        return cosine - margin
