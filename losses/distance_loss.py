"""The base class of the losses that compare the embeddings of a batch with each other."""

from typing import Any

import tensorflow as tf

from .loss_layer import LossLayer, require
from .products import product
from .replicas import global_batch


class DistanceLoss(LossLayer):
    """Base class of the losses that compare the embeddings of the global batch with each other.

    Each replica must have the same number of embeddings. See `LossLayer` for call arguments and errors.

    Args:
        margin: margin of the distance, at least 0.
        normalise: whether to scale each embedding to unit length first.
        **kwargs: arguments of `keras.layers.Layer`.
    """

    # A part of the batch would lack the pairs with the other parts.
    needs_whole_batch = True
    compares_replicas = True

    def __init__(self, margin: float = 1.0, normalise: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        require(margin >= 0, "margin", "a number >= 0", margin)
        self.margin = margin
        self.normalise = normalise

    def global_distances(self, embeddings: tf.Tensor, squared: bool = False) -> tf.Tensor:
        """Returns the distances within the global batch: `(batch, dim)` to `(global_batch, global_batch)`."""
        embeddings = tf.cast(embeddings, tf.float32)
        if self.normalise:
            embeddings = tf.math.l2_normalize(embeddings, axis=1)
        return pairwise_distances(global_batch(embeddings), squared)


def pairwise_distances(embeddings: tf.Tensor, squared: bool = False) -> tf.Tensor:
    """Returns the Euclidean distance between every two embeddings.

    The diagonal is exactly 0. Where a distance is 0, its gradient is 0, too, because the slope of the square
    root is infinite there.

    References: margin-centre-face, `losses/triplet_loss.py::_pairwise_distances`

    Args:
        embeddings: float32 `(batch, dim)`.
        squared: whether to return squared distances.

    Returns:
        float32 `(batch, batch)`.
    """
    products = product(embeddings, embeddings, transpose_b=True)
    # From the same products, so that the distance of an embedding to itself is exactly 0.
    squares = tf.linalg.diag_part(products)
    distances = tf.maximum(squares[:, None] - 2.0 * products + squares[None, :], 0.0)
    if squared:
        return distances
    is_zero = tf.cast(distances == 0.0, tf.float32)
    return tf.sqrt(distances + 1e-16 * is_zero) * (1.0 - is_zero)
