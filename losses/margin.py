"""The margin loss: the own cosine against the highest other cosine, without a softmax."""

from typing import Any

import keras
import tensorflow as tf

from .centre_layer import CentreLayer
from .cosines import cosines_to, is_highest, own_entries, replace_own_entries, softmax_cross_entropy
from .loss_layer import require


@keras.saving.register_keras_serializable(package="margin_centre_face")
class MarginLoss(CentreLayer):
    """Pulls an embedding to its own centre and away from the nearest other one.

    Let `theta_j` be the angle between an embedding and centre `j`, and `y` the identity of the embedding. The
    loss of one sample is

        2 - (cos(theta_y) - max(0, cos(theta_j) for j != y))

    The 0 comes from the original, which multiplies the own entry by 0 instead of leaving it out. So a centre
    that is more than 90 degrees away does not push.

    References: margin-centre-face, `losses/face_losses.py::margin_loss`

    Args:
        num_identities: number of identities, at least 1.
        **kwargs: arguments of `CentreLayer`. `label_smoothing` must be 0, and the loss cannot be sharded.

    Returns:
        dict of float32 tensors of shape `(batch,)`.

        - `loss`: in `[1, 4]`
        - `cross_entropy`: that of a softmax over the cosines, to compare with other losses
        - `cosine`: cosine to the own centre
        - `accuracy`: 1 where the own centre is the nearest, else 0
    """

    def __init__(self, num_identities: int, **kwargs: Any) -> None:
        super().__init__(num_identities, **kwargs)
        expected = "0, because this loss has no softmax"
        require(self.label_smoothing == 0, "label_smoothing", expected, self.label_smoothing)

    def call(self, embeddings: Any, identities: Any) -> dict[str, tf.Tensor]:
        embeddings, identities, centres = self.prepare(embeddings, identities)
        cosines = cosines_to(centres, embeddings)
        cosine = own_entries(cosines, identities)
        others = replace_own_entries(cosines, identities, tf.zeros_like(cosine))
        return self.with_loss(
            loss=2.0 - (cosine - tf.reduce_max(others, axis=1)),
            cross_entropy=softmax_cross_entropy(identities, cosines),
            cosine=cosine,
            accuracy=is_highest(cosines, identities),
        )
