"""The hardest negative of a whole batch of pairs."""

import math

import keras
import tensorflow as tf

from .arguments import checked_identities, constructor_arguments, require
from .distances import pairwise_distances
from .replicas import global_batch, own_share


@keras.saving.register_keras_serializable(package="margin_centre_face")
class HardNetLoss(keras.layers.Layer):
    """Makes two embeddings of an identity nearer to each other than either to anyone in the other half.

    The first half of the batch are anchors `a_i`, the second their positives `p_i`. With `d` the
    distance of two embeddings, the loss of one pair is

        max(0, margin + d(a_i, p_i) - min(d(a_i, p_j), d(a_j, p_i), j != i))

    where `j` are pairs of other identities. A pair without any has a loss of 0. Under several replicas
    the halves are those of the global batch.

    The original builds a matrix of the diagonal with four axes instead of two (`tf.diag` of a matrix
    in place of its diagonal), so that nothing is mined: it gives the mean of
    `max(0, margin + d(a_l, p_l) - d(a_k, p_l) * (k != i) * (l != i))` over all `i, k, l`. No script of
    the original uses it.

    Everything is computed in float32 whatever the dtype policy, and gradients are finite also where
    two embeddings are the same.

    References:
    - [Working hard to know your neighbor's margins](https://arxiv.org/abs/1705.10872)
    - margin-centre-face, `losses/hard_loss.py::HardNet_loss`

    Args:
        margin: float >= 0, of the distance. Defaults to `1.0`.
        normalise: bool, whether embeddings are brought to length 1 first, as in the paper.
            Defaults to `True`.
        **kwargs: of `keras.layers.Layer`.

    Call arguments:
        embeddings: float, shape `(batch, dim)`; as many on every replica.
        identities: int, shape `(batch,)`; both halves of the global batch are the same.
        margin: float or scalar tensor >= 0 in place of the constructor's.

    Returns:
        dict of float32, each of shape `(batch,)`; both of a pair have its values:
        `loss`;
        `positive`: distance of the two;
        `hardest_negative`: distance, 0 where there is none;
        `active`: 1 where the loss is > 0, else 0;
        `accuracy`: 1 where the positive is nearer than every negative, else 0.

    Raises:
        ValueError: an argument is out of range, or the identities are not integers.
        tf.errors.InvalidArgumentError: the halves of the batch are not of the same identities.

    Example:

    >>> layer = HardNetLoss()
    >>> terms = layer(np.array([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), np.array([0, 1, 0, 1]))
    >>> terms["accuracy"].numpy().tolist()
    [1.0, 0.0, 1.0, 0.0]
    """

    # A part of a batch lacks the pairs with the other parts.
    needs_whole_batch = True

    def __init__(self, margin=1.0, normalise=True, **kwargs):
        super().__init__(**{**kwargs, "autocast": False})
        require(margin >= 0, "margin", "a number >= 0", margin)
        self.margin = margin
        self.normalise = normalise

    def call(self, embeddings, identities, margin=None):
        embeddings = tf.cast(embeddings, tf.float32)
        margin = tf.convert_to_tensor(self.margin if margin is None else margin, tf.float32)
        if self.normalise:
            embeddings = tf.math.l2_normalize(embeddings, axis=1)
        identities = _pairs(global_batch(checked_identities(identities)))
        num_pairs = tf.size(identities)
        # Rows are anchors, columns positives.
        distances = pairwise_distances(global_batch(embeddings))[:num_pairs, num_pairs:]

        positive = tf.linalg.diag_part(distances)
        others = identities[:, None] != identities[None, :]
        negatives = tf.where(others, distances, math.inf)
        hardest = tf.minimum(tf.reduce_min(negatives, axis=0), tf.reduce_min(negatives, axis=1))
        loss = tf.maximum(margin + positive - hardest, 0.0)
        terms = {
            "loss": loss,
            "positive": positive,
            "hardest_negative": tf.where(tf.reduce_any(others, axis=1), hardest, 0.0),
            "active": tf.cast(loss > 0, tf.float32),
            "accuracy": tf.cast(positive < hardest, tf.float32),
        }
        # The mean over both halves is that over the pairs.
        return {name: own_share(tf.tile(values, [2])) for name, values in terms.items()}

    def get_config(self):
        return {**super().get_config(), **constructor_arguments(self)}


def _pairs(identities):
    """Identities of the pairs, from those of a batch of anchors and positives."""
    half = tf.size(identities) // 2
    anchors = identities[:half]
    is_paired = tf.reduce_all(identities[: 2 * half] == tf.tile(anchors, [2]))
    check = tf.debugging.Assert(
        is_paired & (tf.size(identities) == 2 * half),
        ["identities: expected two equal halves, anchors and positives, received", identities],
        summarize=1024,
    )
    with tf.control_dependencies([check]):
        return tf.identity(anchors)
