"""Cosines to centres, angles with a margin, and the softmax over them."""

import math

import tensorflow as tf


def cosines_to(centres, embeddings):
    """Cosine of every embedding to every centre.

    Args:
        centres: float32, shape `(dim, num_centres)`.
        embeddings: float32, shape `(batch, dim)`.

    Returns:
        float32 `(batch, num_centres)`, 0 where an embedding or a centre is 0.
    """
    directions = tf.math.l2_normalize(embeddings, axis=1)
    return directions @ tf.math.l2_normalize(tf.convert_to_tensor(centres), axis=0)


def own_entries(similarities, identities):
    """Each sample's entry for its own identity: `(batch, num_identities)` to `(batch,)`."""
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


def margin_softmax(cosines, cosine, target, identities, scale, **penalties):
    """The terms of a softmax cross-entropy whose own logit has a margin.

    Args:
        cosines: float32, shape `(batch, num_identities)`.
        cosine: float32, shape `(batch,)`: `own_entries(cosines, identities)`.
        target: float32, shape `(batch,)`, what takes the place of `cosine` in the logits.
        identities: int32, shape `(batch,)`.
        scale: float > 0, of the logits.
        **penalties: float32, shape `(batch,)`; they are added to the loss.

    Returns:
        dict of float32, each of shape `(batch,)`: `loss`, `cross_entropy`, the penalties, `cosine`,
        `accuracy` from the cosines and `margin_accuracy` from the logits.
    """
    logits = scale * replace_own_entries(cosines, identities, target)
    cross_entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(identities, logits)
    return {
        "loss": sum(penalties.values(), cross_entropy),
        "cross_entropy": cross_entropy,
        **penalties,
        "cosine": cosine,
        "accuracy": is_highest(cosines, identities),
        "margin_accuracy": is_highest(logits, identities),
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
