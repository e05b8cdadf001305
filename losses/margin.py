"""Distance between the own and the nearest other centre."""

import keras
import tensorflow as tf

from .arguments import require
from .centre_layer import CentreLayer
from .cosines import (
    cosines_to,
    is_highest,
    own_entries,
    replace_own_entries,
    softmax_cross_entropy,
)


@keras.saving.register_keras_serializable(package="margin_centre_face")
class MarginLoss(CentreLayer):
    """Pulls an embedding to its own centre and away from the nearest other one.

    With `theta_j` the angle between an embedding and centre `j`, and `y` its identity, the loss of one
    sample is

        2 - (cos(theta_y) - max(0, cos(theta_j), j != y))

    The 0 in the maximum comes from the original, which multiplies the own entry by 0 instead of leaving
    it out: a centre that is more than 90 degrees away pushes no more.

    Everything is computed in float32 whatever the dtype policy.

    References:
    - margin-centre-face, `losses/face_losses.py::margin_loss`

    Args:
        num_identities: int > 0.
        seed: int for the initial centres. Defaults to `0`.
        **kwargs: of `keras.layers.Layer`.

    Call arguments:
        embeddings: float, shape `(batch, dim)`; need not be normalised.
        identities: int, shape `(batch,)`, in `[0, num_identities)`.

    Returns:
        dict of float32, each of shape `(batch,)`:
        `loss`: in `[1, 4]`;
        `cross_entropy`: of the softmax of the cosines, to compare with other losses; it is no part
        of the loss;
        `cosine`: to the own centre, in `[-1, 1]`;
        `accuracy`: 1 where the own centre is the nearest, else 0.

    Raises:
        ValueError: `num_identities` is out of range, labels are to be smoothed, or the identities are not
            integers.
        tf.errors.InvalidArgumentError: an identity is outside `[0, num_identities)`.

    Example:

    >>> layer = MarginLoss(num_identities=10)
    >>> terms = layer(np.ones((4, 8), "float32"), np.array([0, 1, 2, 9]))
    >>> terms["loss"].shape
    TensorShape([4])
    """

    def __init__(self, num_identities, seed=0, **kwargs):
        super().__init__(num_identities, seed, **kwargs)
        require(
            not self.label_smoothing, "label_smoothing", "0, as there is no softmax", self.label_smoothing
        )

    def call(self, embeddings, identities):
        embeddings, identities, centres = self._taken(embeddings, identities)
        cosines = cosines_to(centres, embeddings)
        cosine = own_entries(cosines, identities)
        others = replace_own_entries(cosines, identities, tf.zeros_like(cosine))
        return {
            "loss": 2.0 - (cosine - tf.reduce_max(others, axis=1)),
            "cross_entropy": softmax_cross_entropy(identities, cosines),
            "cosine": cosine,
            "accuracy": is_highest(cosines, identities),
        }
