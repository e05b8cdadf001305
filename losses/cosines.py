"""Cosines to centres, angles with a margin, and the softmax over them."""

import math
from typing import Any

import tensorflow as tf

from .custom_gradients import cross_entropy, own_indices, unit_products
from .shards import ShardedCosines, Shards


def cosines_to(centres: Any, embeddings: tf.Tensor) -> Any:
    """Returns the cosine of every embedding to every centre.

    Args:
        centres: float32 `(dim, num_centres)`, or `Shards`.
        embeddings: float32 `(batch, dim)`.

    Returns:
        float32 `(batch, num_centres)`, 0 where an embedding or a centre is 0. For `Shards`: `ShardedCosines`.
    """
    directions = tf.math.l2_normalize(embeddings, axis=1)
    if isinstance(centres, Shards):
        return ShardedCosines(unit_products(directions, tf.convert_to_tensor(centres.own())), centres)
    return unit_products(directions, centres)


def own_entries(similarities: Any, identities: tf.Tensor) -> tf.Tensor:
    """Returns each sample's similarity to its own identity: `(batch, num_identities)` to `(batch,)`."""
    if isinstance(similarities, ShardedCosines):
        return similarities.own_entries(identities)
    return tf.gather_nd(similarities, own_indices(identities))


def replace_own_entries(similarities: tf.Tensor, identities: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """Replaces each sample's similarity to its own identity by its entry of `values`, `(batch,)`."""
    return tf.tensor_scatter_nd_update(similarities, own_indices(identities), values)


def is_highest(similarities: tf.Tensor, identities: tf.Tensor) -> tf.Tensor:
    """Returns 1 where the own identity has the highest similarity, else 0: float32 `(batch,)`."""
    return tf.cast(tf.argmax(similarities, axis=1) == identities, tf.float32)


def angle(cosine: tf.Tensor) -> tf.Tensor:
    """Returns the angle in `[0, pi]`, with finite gradients. The error is at most 4e-5, near 0 and `pi`."""
    return tf.atan2(_sine(cosine), cosine)


def cosine_with_margin(cosine: tf.Tensor, margin: tf.Tensor) -> tf.Tensor:
    """Returns `cos(theta + margin)`, with finite gradients.

    Where `theta > pi - margin` it returns `cos(theta) - margin * sin(margin)`, which falls further as the
    angle grows.

    References: margin-centre-face, `losses/face_losses.py::arcface_loss`
    """
    sine = _sine(cosine)  # computed first, because the order of operations decides how gradients are rounded
    inside = cosine > tf.cos(math.pi - margin)
    shifted = cosine * tf.cos(margin) - sine * tf.sin(margin)
    return tf.where(inside, shifted, cosine - margin * tf.sin(margin))


def softmax_cross_entropy(
    identities: tf.Tensor, logits: tf.Tensor, label_smoothing: float = 0.0
) -> tf.Tensor:
    """Returns the softmax cross-entropy with smoothed labels: float32 `(batch,)`.

    The label of each identity is `label_smoothing / num_identities`, plus `1 - label_smoothing` for the own
    identity.

    References: [Rethinking the Inception Architecture](https://arxiv.org/abs/1512.00567), section 7

    Args:
        identities: int `(batch,)`.
        logits: float32 `(batch, num_identities)`.
        label_smoothing: in `[0, 1)`.
    """
    entropy = cross_entropy(logits, identities)
    if not label_smoothing:
        return entropy
    # The negative logarithm of each probability is entropy + own - logit, so no second softmax is needed.
    others = entropy + own_entries(logits, identities) - tf.reduce_mean(logits, axis=1)
    return (1.0 - label_smoothing) * entropy + label_smoothing * others


def _sine(cosine):
    # Bounded near angles of 0 and pi, where the slope of the root is infinite (row 4 of docs/fidelity.md).
    return tf.sqrt(tf.maximum(1.0 - cosine * cosine, 1e-9))
