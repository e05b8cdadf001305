"""Products with centres, without a second copy of all of them."""

import tensorflow as tf

# Of `tf.math.l2_normalize`: shorter columns are divided by this, and their lengths have no gradient.
SHORTEST = 1e-6
# Rows that are squared at a time: what they make of 100,000 columns stays in a cache, and whatever the number
# of columns the next ones begin at an address that TensorFlow takes as it is, without a copy.
_ROWS = 16


@tf.custom_gradient
def products(vectors, columns):
    """The matrix product, as fast backwards as forwards.

    Args:
        vectors: float32, shape `(batch, dim)`.
        columns: float32, shape `(dim, num_columns)`, of which there are many more than `batch`.

    Returns:
        float32 `(batch, num_columns)`.
    """

    def gradient(upstream):
        # As TensorFlow writes it, `upstream @ columns^T`, it takes half as long again on a CPU.
        to_vectors = tf.transpose(tf.matmul(columns, upstream, transpose_b=True))
        return to_vectors, tf.matmul(vectors, upstream, transpose_a=True)

    return tf.matmul(vectors, columns), gradient


@tf.custom_gradient
def unit_products(vectors, columns):
    """The matrix product with columns of length 1: `vectors @ tf.math.l2_normalize(columns, axis=0)`.

    The products are scaled, which are fewer than the columns' entries; the gradient alike.

    Args:
        vectors: float32, shape `(batch, dim)`.
        columns: float32, shape `(dim, num_columns)`.

    Returns:
        float32 `(batch, num_columns)`.
    """
    # `tf.math.reduce_euclidean_norm` would be as fast, but XLA does not know it.
    squares = tf.add_n(
        [
            tf.reduce_sum(tf.square(columns[row : row + _ROWS]), axis=0)
            for row in range(0, columns.shape[0], _ROWS)
        ]
    )
    inverse = tf.math.rsqrt(tf.maximum(squares, SHORTEST**2))
    inner = tf.matmul(vectors, columns)

    def gradient(upstream):
        to_inner = upstream * inverse
        to_inverse = tf.reduce_sum(upstream * inner, axis=0)
        to_columns = tf.matmul(vectors, to_inner, transpose_a=True)
        with tf.control_dependencies([to_columns]):
            to_columns += columns * tf.where(squares >= SHORTEST**2, -to_inverse * inverse**3, 0.0)
        return tf.transpose(tf.matmul(columns, to_inner, transpose_b=True)), to_columns

    return inner * inverse, gradient


@tf.custom_gradient
def cross_entropy(logits, identities):
    """Cross-entropy of a softmax, from one pass of exponentials.

    Args:
        logits: float32, shape `(batch, num_identities)`.
        identities: int32, shape `(batch,)`.

    Returns:
        float32 `(batch,)`.
    """
    places = tf.stack([tf.range(tf.shape(identities)[0]), identities], axis=1)
    probabilities = tf.nn.softmax(logits)
    # The highest logit's probability is 1 over the sum of exponentials of what the others are below it: it
    # is never 0, as the own one may be.
    excess = tf.reduce_max(logits, axis=1) - tf.gather_nd(logits, places)
    entropy = excess - tf.math.log(tf.reduce_max(probabilities, axis=1))

    def gradient(upstream):
        to_logits = upstream[:, None] * probabilities
        return tf.tensor_scatter_nd_sub(to_logits, places, upstream), None

    return entropy, gradient
