"""Triplets that are mined within the batch."""

import math

import keras
import tensorflow as tf

from .arguments import checked_identities, constructor_arguments, require
from .distances import pairwise_distances
from .replicas import global_batch, own_share
from .variants import MININGS


@keras.saving.register_keras_serializable(package="margin_centre_face")
class TripletLoss(keras.layers.Layer):
    """Makes embeddings of one identity nearer to each other than to any other identity.

    With `d` the distance of two embeddings, an anchor `a`, positives `p` of its identity (but itself)
    and negatives `n` of others, the loss of one batch is

        batch_hard: mean over a of max(0, margin + max over p of d(a, p) - min over n of d(a, n))
        batch_all:  mean over all (a, p, n) of margin + d(a, p) - d(a, n), where that is > 0

    times `weight`. Positives and negatives come from the global batch, whatever the number
    of replicas; no more memory is used than its distance matrices take.

    An anchor without a positive or without a negative has no triplet, and a loss of 0; so has a batch
    without an active triplet. The original's `batch_hard` makes up for the missing one: an anchor without
    a positive pushes negatives away, one without a negative costs at least the margin.

    Everything is computed in float32 whatever the dtype policy, and gradients are finite also where
    two embeddings are the same.

    References:
    - [FaceNet](https://arxiv.org/abs/1503.03832)
    - [In Defense of the Triplet Loss](https://arxiv.org/abs/1703.07737)
    - margin-centre-face, `losses/triplet_loss.py::batch_hard_triplet_loss` and
      `::batch_all_triplet_loss`; `train_triplet.py` for the defaults, and for normalising first

    Args:
        mining: `"batch_hard"` or `"batch_all"`. Defaults to `"batch_hard"`.
        margin: float >= 0, of the distance. Defaults to `0.3`.
        weight: float >= 0. Defaults to `10.0`.
        squared: bool, for squared distances. Defaults to `False`.
        normalise: bool, whether embeddings are brought to length 1 first. Defaults to `True`.
        **kwargs: of `keras.layers.Layer`.

    Call arguments:
        embeddings: float, shape `(batch, dim)`; as many on every replica.
        identities: int, shape `(batch,)`.
        margin: float or scalar tensor >= 0 in place of the constructor's.

    Returns:
        dict of float32, each of shape `(batch,)`, one entry per anchor:
        `loss`: `weight` times the next;
        `triplet`: the loss above is its mean over the global batch;
        `hardest_positive`, `hardest_negative`: distances, 0 where there is none;
        `active`: its mean over the global batch is the share of triplets with a loss > 0, of
        anchors for `batch_hard`.

    Raises:
        ValueError: an argument is out of range, or the identities are not integers.

    Example:

    >>> layer = TripletLoss(margin=0.5, weight=1.0)
    >>> terms = layer(np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]), np.array([0, 0, 1]))
    >>> terms["triplet"].numpy().tolist()
    [0.0, 0.5, 0.0]
    """

    # A part of a batch lacks the pairs with the other parts.
    needs_whole_batch = True

    def __init__(self, mining="batch_hard", margin=0.3, weight=10.0, squared=False, normalise=True, **kwargs):
        super().__init__(**{**kwargs, "autocast": False})
        require(mining in MININGS, "mining", f"one of {', '.join(MININGS)}", mining)
        require(margin >= 0, "margin", "a number >= 0", margin)
        require(weight >= 0, "weight", "a number >= 0", weight)
        self.mining = mining
        self.margin = margin
        self.weight = weight
        self.squared = squared
        self.normalise = normalise

    def call(self, embeddings, identities, margin=None):
        embeddings = tf.cast(embeddings, tf.float32)
        identities = checked_identities(identities)
        margin = tf.convert_to_tensor(self.margin if margin is None else margin, tf.float32)
        if self.normalise:
            embeddings = tf.math.l2_normalize(embeddings, axis=1)
        # Rows are this replica's anchors, columns the embeddings of all.
        distances = own_share(pairwise_distances(global_batch(embeddings), self.squared))
        everyone = global_batch(identities)
        same = identities[:, None] == everyone[None, :]
        itself = own_share(tf.cast(tf.eye(tf.size(everyone)), tf.bool))
        positives, negatives = same & ~itself, ~same

        hardest_positive = tf.reduce_max(tf.where(positives, distances, 0.0), axis=1)
        hardest_negative = tf.reduce_min(tf.where(negatives, distances, math.inf), axis=1)
        num_triplets = _count(positives) * _count(negatives)
        if self.mining == "batch_hard":
            excess = tf.maximum(hardest_positive - hardest_negative + margin, 0.0)
            triplet = tf.where(num_triplets > 0, excess, 0.0)
            active = tf.cast(triplet > 0, tf.float32)
            candidates = tf.cast(num_triplets > 0, tf.float32)
        else:
            triplet, active = _all_triplets(distances, positives, negatives, margin)
            triplet *= _per_sample(active)
            candidates = num_triplets
        return {
            "loss": self.weight * triplet,
            "triplet": triplet,
            "hardest_positive": hardest_positive,
            "hardest_negative": tf.where(tf.reduce_any(negatives, axis=1), hardest_negative, 0.0),
            "active": active * _per_sample(candidates),
        }

    def get_config(self):
        return {**super().get_config(), **constructor_arguments(self)}


def _all_triplets(distances, positives, negatives, margin):
    """Sum of every anchor's losses > 0, and how many there are; both float32 `(batch,)`."""
    known = tf.stop_gradient(distances)
    # A triplet is active where its negative is nearer than its positive reaches.
    reach = tf.where(positives, known + margin, -math.inf)
    nearness = tf.where(negatives, known, math.inf)
    num_columns = tf.shape(distances)[1]
    of_positive = tf.searchsorted(tf.sort(nearness), reach, side="left")
    of_negative = num_columns - tf.searchsorted(tf.sort(reach), nearness, side="right")
    # The counts are constant wherever the loss has a gradient, so that it is linear in the distances:
    # no (batch, batch, batch) is needed.
    active = tf.reduce_sum(tf.cast(of_positive, tf.float32), axis=1)
    weights = tf.cast(of_positive - of_negative, tf.float32)
    return tf.reduce_sum(weights * distances, axis=1) + margin * active, active


def _count(mask):
    return tf.reduce_sum(tf.cast(mask, tf.float32), axis=1)


def _per_sample(counts):
    """What turns a sum over `counts` things into a mean over the global batch; 0 for no things."""
    counts = global_batch(counts)
    return tf.math.divide_no_nan(tf.cast(tf.size(counts), tf.float32), tf.reduce_sum(counts))
