"""The triplet loss, with triplets mined within the batch."""

import math
from typing import Any

import keras
import tensorflow as tf

from .distance_loss import DistanceLoss
from .loss_layer import checked_identities, require
from .replicas import global_batch, own_share
from .variants import MININGS


@keras.saving.register_keras_serializable(package="margin_centre_face")
class TripletLoss(DistanceLoss):
    """Brings embeddings of one identity nearer to each other than to any other identity.

    Each embedding of the global batch is an anchor `a`. Its positives `p` are the other embeddings of its
    identity, and its negatives `n` are the embeddings of other identities. With `d` the distance of two
    embeddings, the loss of the batch is `weight` times

        batch_hard: mean over a of max(0, margin + max over p of d(a, p) - min over n of d(a, n))
        batch_all:  mean over all (a, p, n) of margin + d(a, p) - d(a, n), where that is > 0

    An anchor without a positive or without a negative has no triplet and a loss of 0 (row 35 of
    docs/fidelity.md). A batch without an active triplet also has a loss of 0. Memory grows with the square of
    the batch size for both kinds of mining.

    References: [FaceNet](https://arxiv.org/abs/1503.03832), [In Defense](https://arxiv.org/abs/1703.07737);
    margin-centre-face, `losses/triplet_loss.py::batch_hard_triplet_loss` and `::batch_all_triplet_loss`, and
    `train_triplet.py` for the defaults

    Args:
        mining: `"batch_hard"` or `"batch_all"`.
        margin: margin of the distance, at least 0.
        weight: factor of the loss, at least 0.
        squared: whether to square the distances.
        normalise: whether to scale each embedding to unit length first.
        **kwargs: arguments of `keras.layers.Layer`.

    Returns:
        dict of float32 tensors of shape `(batch,)`, one value per anchor.

        - `loss`: `weight` times `triplet`
        - `triplet`: its mean over the global batch is the formula above
        - `hardest_positive`, `hardest_negative`: distances, 0 if the anchor has no positive or no negative
        - `active`: its mean over the global batch is the share of triplets with a loss > 0; for
          `batch_hard`, the share of anchors

    Example:

    >>> import numpy as np
    >>> from losses import TripletLoss
    >>> layer = TripletLoss(mining="batch_all", margin=0.3)
    >>> terms = layer(np.eye(4, dtype="float32"), np.array([0, 0, 1, 1]))
    >>> terms["active"].numpy().tolist()
    [1.0, 1.0, 1.0, 1.0]
    """

    def __init__(
        self,
        mining: str = "batch_hard",
        margin: float = 0.3,
        weight: float = 10.0,
        squared: bool = False,
        normalise: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(margin, normalise, **kwargs)
        require(mining in MININGS, "mining", f"one of {', '.join(MININGS)}", mining)
        require(weight >= 0, "weight", "a number >= 0", weight)
        self.mining = mining
        self.weight = weight
        self.squared = squared

    def call(self, embeddings: Any, identities: Any, margin: Any = None) -> dict[str, tf.Tensor]:
        identities = checked_identities(identities)
        margin = tf.convert_to_tensor(self.margin if margin is None else margin, tf.float32)
        # Rows are the anchors of this replica, columns are all embeddings.
        distances = own_share(self.global_distances(embeddings, self.squared))
        all_identities = global_batch(identities)
        same = identities[:, None] == all_identities[None, :]
        itself = own_share(tf.cast(tf.eye(tf.size(all_identities)), tf.bool))
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
            triplet *= _mean_factor(active)
            candidates = num_triplets
        return self.with_loss(
            loss=self.weight * triplet,
            triplet=triplet,
            hardest_positive=hardest_positive,
            hardest_negative=tf.where(tf.reduce_any(negatives, axis=1), hardest_negative, 0.0),
            active=active * _mean_factor(candidates),
        )


def _all_triplets(distances, positives, negatives, margin):
    """Returns the sum and the number of each anchor's losses > 0; both float32 `(batch,)`."""
    constants = tf.stop_gradient(distances)
    # A triplet is active if its negative is nearer than its positive plus the margin.
    reach = tf.where(positives, constants + margin, -math.inf)
    nearness = tf.where(negatives, constants, math.inf)
    # int64, because TensorFlow runs int32 operations on the CPU even if there is a GPU.
    num_per_positive = tf.searchsorted(tf.sort(nearness), reach, "left", tf.int64)
    num_not_above = tf.searchsorted(tf.sort(reach), nearness, "right", tf.int64)
    num_per_negative = tf.cast(tf.shape(distances)[1], tf.int64) - num_not_above
    # The counts are constant wherever the loss has a gradient. So the sum is linear in the distances, and no
    # array of shape (batch, batch, batch) is needed.
    active = tf.reduce_sum(tf.cast(num_per_positive, tf.float32), axis=1)
    weights = tf.cast(num_per_positive - num_per_negative, tf.float32)
    return tf.reduce_sum(weights * distances, axis=1) + margin * active, active


def _count(mask):
    return tf.reduce_sum(tf.cast(mask, tf.float32), axis=1)


def _mean_factor(counts):
    """Returns the size of the global batch, divided by the sum of its counts.

    Let `counts` be the number of values that each sample has. Multiplied by this factor, the mean of the
    samples' sums becomes the mean of all values.
    """
    counts = global_batch(counts)
    return tf.math.divide_no_nan(tf.cast(tf.size(counts), tf.float32), tf.reduce_sum(counts))
