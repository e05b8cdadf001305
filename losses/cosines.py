"""Cosines to centres, angles with a margin, and the softmax over them."""

import math

import tensorflow as tf

from .products import cross_entropy, unit_products
from .shards import ShardedCosines, Shards


def cosines_to(centres, embeddings):
    """Cosine of every embedding to every centre.

    Args:
        centres: float32, shape `(dim, num_centres)`.
        embeddings: float32, shape `(batch, dim)`.

    Returns:
        float32 `(batch, num_centres)`, 0 where an embedding or a centre is 0. Of
        `losses.shards.Shards`, `ShardedCosines`.
    """
    directions = tf.math.l2_normalize(embeddings, axis=1)
    if isinstance(centres, Shards):
        return ShardedCosines(unit_products(directions, tf.convert_to_tensor(centres.own())), centres)
    return unit_products(directions, tf.convert_to_tensor(centres))


def own_entries(similarities, identities):
    """Each sample's entry for its own identity: `(batch, num_identities)` to `(batch,)`."""
    if isinstance(similarities, ShardedCosines):
        return similarities.own_entries(identities)
    return tf.gather_nd(similarities, _places(identities))


def replace_own_entries(similarities, identities, values):
    """The similarities with `values`, of shape `(batch,)`, for each sample's own identity."""
    return tf.tensor_scatter_nd_update(similarities, _places(identities), values)


def angle(cosine):
    """`theta` in `[0, pi]`, with finite gradients everywhere; within 4e-5 of it at the poles."""
    return tf.atan2(_sine(cosine), cosine)


def cosine_with_margin(cosine, margin):
    """`cos(theta + margin)` and its monotonic continuation, with finite gradients.

    The continuation, where `theta > pi - margin`, is `cos(theta) - margin * sin(margin)`.

    References:
    - margin-centre-face, `losses/face_losses.py::arcface_loss`

    Args:
        cosine: float32, shape `(batch,)`.
        margin: float32 in `[0, pi)`, radians; scalar or shape `(batch,)`.

    Returns:
        float32 `(batch,)`.
    """
    sine = _sine(cosine)
    inside = cosine > tf.cos(math.pi - margin)
    return tf.where(
        inside,
        cosine * tf.cos(margin) - sine * tf.sin(margin),
        cosine - margin * tf.sin(margin),
    )


def softmax_cross_entropy(identities, logits, label_smoothing=0.0):
    """Cross-entropy of a softmax to smoothed labels.

    The labels are `1 - label_smoothing` for the own identity, and `label_smoothing / num_identities` more for
    each, the own one included.

    References:
    - [Rethinking the Inception Architecture](https://arxiv.org/abs/1512.00567), section 7

    Args:
        identities: int32, shape `(batch,)`.
        logits: float32, shape `(batch, num_identities)`.
        label_smoothing: float in `[0, 1)`. Defaults to `0.0`.

    Returns:
        float32 `(batch,)`.
    """
    entropy = cross_entropy(logits, identities)
    if not label_smoothing:
        return entropy
    # -log of each probability is entropy + own - logit; no second softmax.
    others = entropy + own_entries(logits, identities) - tf.reduce_mean(logits, axis=1)
    return (1.0 - label_smoothing) * entropy + label_smoothing * others


def margin_softmax(cosines, cosine, target, identities, scale, label_smoothing=0.0, **penalties):
    """The terms of a softmax cross-entropy whose own logit has a margin.

    Args:
        cosines: float32, shape `(batch, num_identities)`.
        cosine: float32, shape `(batch,)`: `own_entries(cosines, identities)`.
        target: float32, shape `(batch,)`, what takes the place of `cosine` in the logits.
        identities: int32, shape `(batch,)`.
        scale: float > 0, of the logits.
        label_smoothing: float in `[0, 1)`. Defaults to `0.0`.
        **penalties: float32, shape `(batch,)`; they are added to the loss.

    Returns:
        dict of float32, each of shape `(batch,)`: `loss`, `cross_entropy`, the penalties, `cosine`,
        `accuracy` from the cosines and `margin_accuracy` from the logits.
    """
    if isinstance(cosines, ShardedCosines):
        entropy, accuracy, margin_accuracy = cosines.margin_softmax(cosine, target, identities, scale)
    else:
        # Scaled first: the copy is made by that, and its entries are replaced in place.
        logits = replace_own_entries(scale * cosines, identities, scale * target)
        entropy = softmax_cross_entropy(identities, logits, label_smoothing)
        accuracy, margin_accuracy = is_highest(cosines, identities), is_highest(logits, identities)
    return {
        "loss": sum(penalties.values(), entropy),
        "cross_entropy": entropy,
        **penalties,
        "cosine": cosine,
        "accuracy": accuracy,
        "margin_accuracy": margin_accuracy,
    }


def is_highest(similarities, identities):
    """1 where the own identity has the highest similarity, else 0; float32 `(batch,)`."""
    highest = tf.argmax(similarities, axis=1, output_type=tf.int32)
    return tf.cast(highest == identities, tf.float32)


def _sine(cosine):
    # At a pole the sine's slope is infinite: there the maximum cuts the gradient off.
    return tf.sqrt(tf.maximum(1.0 - cosine * cosine, 1e-9))


def _places(identities):
    return tf.stack([tf.range(tf.shape(identities)[0]), identities], axis=1)
