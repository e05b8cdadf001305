"""Base of the losses over distances within a batch."""

from typing import Any

import tensorflow as tf

from .loss_layer import LossLayer, require
from .products import product
from .replicas import global_batch


class DistanceLoss(LossLayer):
    """Base of the losses that compare the embeddings of the global batch; see `LossLayer` for their call.

    Each replica must have the same number of embeddings.

    Args:
        margin: margin of the distance, at least 0.
        normalise: whether embeddings are divided by their lengths first.
        **kwargs: arguments of `keras.layers.Layer`.
    """

    needs_whole_batch = True  # a part of a batch lacks the pairs with the other parts
    compares_replicas = True

    def __init__(self, margin: float = 1.0, normalise: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        require(margin >= 0, "margin", "a number >= 0", margin)
        self.margin = margin
        self.normalise = normalise

    def global_distances(self, embeddings: tf.Tensor, squared: bool = False) -> tf.Tensor:
        """Distances between all embeddings of the global batch: float32 `(global_batch, global_batch)`."""
        embeddings = tf.cast(embeddings, tf.float32)
        if self.normalise:
            embeddings = tf.math.l2_normalize(embeddings, axis=1)
        return pairwise_distances(global_batch(embeddings), squared)


def pairwise_distances(embeddings: tf.Tensor, squared: bool = False) -> tf.Tensor:
    """Euclidean distance between every two embeddings: `(batch, dim)` to `(batch, batch)`, float32.

    The diagonal is exactly 0. Where a distance is 0, so is the gradient: the slope of the root is infinite.

    References: margin-centre-face, `losses/triplet_loss.py::_pairwise_distances`
    """
    products = product(embeddings, embeddings, transpose_b=True)
    # Taken from the same products, so that an embedding has distance 0 to itself.
    squares = tf.linalg.diag_part(products)
    distances = tf.maximum(squares[:, None] - 2.0 * products + squares[None, :], 0.0)
    if squared:
        return distances
    is_zero = tf.cast(distances == 0.0, tf.float32)
    return tf.sqrt(distances + 1e-16 * is_zero) * (1.0 - is_zero)
