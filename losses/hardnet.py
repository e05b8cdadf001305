"""The hardest negative of each pair in a batch of pairs."""

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

    The first half of the global batch are anchors `a_i`, the second half their positives `p_i`. With `d` the
    distance of two embeddings, the loss of one pair is

        max(0, margin + d(a_i, p_i) - min(d(a_i, p_j), d(a_j, p_i) for j != i))

    where `j` are pairs of other identities. A pair without such `j` has a loss of 0. The original has a bug
    and mines nothing (row 36 of docs/fidelity.md).

    References: [Working hard to know your neighbor's margins](https://arxiv.org/abs/1705.10872);
    margin-centre-face, `losses/hard_loss.py::HardNet_loss`

    Args: see `DistanceLoss`.

    Returns:
        float32 terms of shape `(batch,)`, the same for both of a pair: `loss`; `positive`, distance of the
        two; `hardest_negative`, distance, 0 where there is none; `active`, 1 where the loss is > 0, else 0;
        `accuracy`, 1 where the positive is nearer than every negative, else 0.

    Raises:
        tf.errors.InvalidArgumentError: the halves of the global batch do not have the same identities.
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
    """Identities of the pairs, from those of anchors and positives."""
    half = tf.size(identities) // 2
    is_paired = tf.reduce_all(identities[:half] == identities[half : 2 * half])
    is_even = tf.size(identities) == 2 * half
    halves = "two equal halves, anchors and positives"
    return require_identities(is_paired & is_even, halves, identities)[:half]
