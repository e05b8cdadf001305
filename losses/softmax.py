"""The plain softmax classifier."""

import keras
import tensorflow as tf

from .centre_layer import CentreLayer
from .cosines import is_highest, own_entries, softmax_cross_entropy
from .products import products, unit_products


@keras.saving.register_keras_serializable(package="margin_centre_face")
class SoftmaxLoss(CentreLayer):
    """Tells identities apart by inner products with their centres, without a margin or a bias.

    With `x` an embedding, `w_j` centre `j`, and `y` its identity, the loss of one sample is

        softmax_xent(x . w_y, x . w_j, j != y)

    the centres being divided by their lengths first if `normalise_centres` is set. The embeddings are
    taken as they are.

    Everything is computed in float32 whatever the dtype policy.

    References:
    - margin-centre-face, `losses/face_losses.py::softmax_loss`; `w_norm` is `normalise_centres`

    Args:
        num_identities: int > 0.
        normalise_centres: bool. Defaults to `False`.
        seed: int for the initial centres. Defaults to `0`.
        **kwargs: of `keras.layers.Layer`.

    Call arguments:
        embeddings: float, shape `(batch, dim)`.
        identities: int, shape `(batch,)`, in `[0, num_identities)`.

    Returns:
        dict of float32, each of shape `(batch,)`:
        `loss` and `cross_entropy`: of the softmax;
        `cosine`: to the own centre, in `[-1, 1]`;
        `accuracy`: 1 where the own logit is the highest, else 0.

    Raises:
        ValueError: `num_identities` is out of range, or the identities are not integers.
        tf.errors.InvalidArgumentError: an identity is outside `[0, num_identities)`.

    Example:

    >>> layer = SoftmaxLoss(num_identities=10, normalise_centres=True)
    >>> terms = layer(np.ones((4, 8), "float32"), np.array([0, 1, 2, 9]))
    >>> terms["loss"].shape
    TensorShape([4])
    """

    def __init__(self, num_identities, normalise_centres=False, seed=0, **kwargs):
        super().__init__(num_identities, seed, **kwargs)
        self.normalise_centres = normalise_centres

    def call(self, embeddings, identities):
        embeddings, identities, centres = self._taken(embeddings, identities)
        logits = (unit_products if self.normalise_centres else products)(embeddings, centres)
        cross_entropy = softmax_cross_entropy(identities, logits, self.label_smoothing)
        lengths = tf.norm(embeddings, axis=1)
        if not self.normalise_centres:
            lengths *= tf.norm(tf.gather(centres, identities, axis=1), axis=0)
        return {
            "loss": cross_entropy,
            "cross_entropy": cross_entropy,
            # For the log only: the lengths have no gradient at 0.
            "cosine": tf.stop_gradient(tf.math.divide_no_nan(own_entries(logits, identities), lengths)),
            "accuracy": is_highest(logits, identities),
        }
