"""Sub-center ArcFace: several centres per identity."""

from typing import Any

import keras
import tensorflow as tf

from .arcface import ArcFaceLoss
from .loss_layer import require


@keras.saving.register_keras_serializable(package="margin_centre_face")
class SubCentreLoss(ArcFaceLoss):
    """Separates identities by an angular margin to the nearest of several sub-centres.

    Images with a wrong label gather at a sub-centre of their own, where they do less harm to the others. With
    `theta_jk` the angle between an embedding and sub-centre `k` of identity `j`, the loss is that of
    `ArcFaceLoss` with

        cos(theta_j) = max over k of cos(theta_jk)

    References: [Sub-center ArcFace](https://ibug.doc.ic.ac.uk/media/uploads/documents/eccv_1445.pdf)

    Args:
        num_identities: number of identities, at least 1.
        num_sub_centres: centres per identity, at least 1.
        margin: radians in `[0, pi)`.
        scale: factor of the cosines before the softmax, greater than 0.
        **kwargs: arguments of `CentreLayer`. A `SubCentreLoss` cannot be sharded.

    Returns:
        The terms of `MarginSoftmaxLoss`.
    """

    can_be_sharded = False

    def __init__(
        self,
        num_identities: int,
        num_sub_centres: int = 3,
        margin: float = 0.5,
        scale: float = 64.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_identities, margin, scale, **kwargs)
        require(num_sub_centres >= 1, "num_sub_centres", "at least 1", num_sub_centres)
        self.num_sub_centres = self.centres_per_identity = num_sub_centres

    def cosines(self, centres: Any, embeddings: tf.Tensor) -> tf.Tensor:
        to_sub_centres = super().cosines(centres, embeddings)
        shape = (tf.shape(embeddings)[0], -1, self.num_sub_centres)
        return tf.reduce_max(tf.reshape(to_sub_centres, shape), axis=2)
