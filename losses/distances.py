"""Distances between all embeddings of a batch."""

import tensorflow as tf


def pairwise_distances(embeddings, squared=False):
    """Euclidean distance between every two embeddings.

    Taken from the matrix of inner products and cut off at 0. Where a distance is 0, so is its gradient:
    the root's slope there is infinite.

    References:
    - margin-centre-face, `losses/triplet_loss.py::_pairwise_distances`

    Args:
        embeddings: float32, shape `(batch, dim)`.
        squared: bool, for the squared distance. Defaults to `False`.

    Returns:
        float32 `(batch, batch)`, exactly 0 on the diagonal.

    Example:

    >>> pairwise_distances(tf.constant([[0.0, 0.0], [3.0, 4.0]])).numpy().tolist()
    [[0.0, 5.0], [5.0, 0.0]]
    """
    products = tf.matmul(embeddings, embeddings, transpose_b=True)
    # From the same products, so that an embedding is at distance 0 of itself.
    squares = tf.linalg.diag_part(products)
    distances = tf.maximum(squares[:, None] - 2.0 * products + squares[None, :], 0.0)
    if squared:
        return distances
    is_zero = tf.cast(distances == 0.0, tf.float32)
    return tf.sqrt(distances + 1e-16 * is_zero) * (1.0 - is_zero)
