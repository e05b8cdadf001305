"""Products of float32 matrices that no device rounds to fewer bits."""

import tensorflow as tf

# The bits of a float32 that TF32 drops.
_DROPPED = 0x1FFF


def matmul(
    left: tf.Tensor, right: tf.Tensor, transpose_a: bool = False, transpose_b: bool = False
) -> tf.Tensor:
    """`tf.matmul` without TF32, in which GPUs round float32 factors to 10 bits of mantissa.

    TensorFlow knows TF32 only as a switch for the whole process, which a float32 net needs for its speed. So
    where it is on, each factor is split into two numbers that lose nothing or little by the rounding. The
    error of the three products is that of float32. On GPUs the result has no gradient: see `product`.
    """
    transposed = {"transpose_a": transpose_a, "transpose_b": transpose_b}
    if not (has_gpus() and tf.config.experimental.tensor_float_32_execution_enabled()):
        return tf.matmul(left, right, **transposed)
    (high, low), (other_high, other_low) = _parts(left), _parts(right)
    rest = tf.matmul(high, other_low, **transposed) + tf.matmul(low, other_high, **transposed)
    return tf.matmul(high, other_high, **transposed) + rest


def product(left: tf.Tensor, right: tf.Tensor, transpose_b: bool = False) -> tf.Tensor:
    """`matmul` with a gradient."""

    @tf.custom_gradient
    def with_gradient(left, right):
        def gradient(upstream):
            if transpose_b:
                return matmul(upstream, right), matmul(upstream, left, transpose_a=True)
            return matmul(upstream, right, transpose_b=True), matmul(left, upstream, transpose_a=True)

        return matmul(left, right, transpose_b=transpose_b), gradient

    return with_gradient(left, right)


def has_gpus() -> bool:
    """Returns whether TensorFlow uses a GPU."""
    return bool(tf.config.list_logical_devices("GPU"))


def _parts(values):
    """Two float32 with the sum `values`. TF32 holds the first; in the second it rounds the last bits."""
    high = tf.bitcast(tf.bitwise.bitwise_and(tf.bitcast(values, tf.int32), ~_DROPPED), tf.float32)
    return high, values - high
