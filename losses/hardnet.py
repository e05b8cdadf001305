"""HardNet: pairs of embeddings, each with the hardest negative in the batch."""

import math
from typing import Any

import keras
import tensorflow as tf

from .distance_loss import DistanceLoss
from .loss_layer import checked_identities, require_identities
from .replicas import global_batch, own_share


@keras.saving.register_keras_serializable(package="margin_centre_face")
class HardNetLoss(DistanceLoss):
    """Brings the two embeddings of a pair nearer to each other than either is to the other pairs.

    The first half of the global batch contains the anchors `a_i`, the second half their positives `p_i` in
    the same order. With `d` the distance of two embeddings, the loss of pair `i` is

        max(0, margin + d(a_i, p_i) - min over j of min(d(a_i, p_j), d(a_j, p_i)))

    where `j` runs over the pairs of other identities. If there is no such pair, the loss is 0. In the
    original, a bug disables the mining (row 36 of docs/fidelity.md).

    References: [Working hard to know your neighbor's margins](https://arxiv.org/abs/1705.10872);
    margin-centre-face, `losses/hard_loss.py::HardNet_loss`

    Args:
        margin: margin of the distance, at least 0.
        normalise: whether to scale each embedding to unit length first.
        **kwargs: arguments of `keras.layers.Layer`.

    Returns:
        dict of float32 tensors of shape `(batch,)`. Both embeddings of a pair have the same values.

        - `loss`
        - `positive`: distance between the two embeddings of the pair
        - `hardest_negative`: distance to the nearest negative, 0 if there is no negative
        - `active`: 1 where the loss is > 0, else 0
        - `accuracy`: 1 where the positive is nearer than every negative, else 0

    Raises:
        ValueError: an argument is out of range, or the identities are not integers.
        tf.errors.InvalidArgumentError: the halves of the global batch do not have the same identities.

    Example:

    >>> import numpy as np
    >>> from losses import HardNetLoss
    >>> embeddings = np.tile(np.eye(2, dtype="float32"), (2, 1))
    >>> terms = HardNetLoss()(embeddings, np.array([0, 1, 0, 1]))
    >>> terms["accuracy"].numpy().tolist()
    [1.0, 1.0, 1.0, 1.0]
    """

    def call(self, embeddings: Any, identities: Any, margin: Any = None) -> dict[str, tf.Tensor]:
        margin = tf.convert_to_tensor(self.margin if margin is None else margin, tf.float32)
        identities = _pair_identities(global_batch(checked_identities(identities)))
        num_pairs = tf.size(identities)
        # Rows are anchors, columns are positives.
        distances = self.global_distances(embeddings)[:num_pairs, num_pairs:]

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
        # The mean over both halves is the mean over the pairs.
        return self.with_loss(
            **{name: own_share(tf.concat([values, values], 0)) for name, values in terms.items()}
        )


def _pair_identities(identities):
    """Checks that both halves have the same identities and returns the first half."""
    half = tf.size(identities) // 2
    is_paired = tf.reduce_all(identities[:half] == identities[half : 2 * half])
    is_even = tf.size(identities) == 2 * half
    halves = "two equal halves, anchors and positives"
    return require_identities(is_paired & is_even, halves, identities)[:half]
