"""Matrix products with the full precision of float32 on every device."""

import tensorflow as tf

# The bits of a float32 that TF32 drops.
_DROPPED = 0x1FFF


def matmul(
    left: tf.Tensor, right: tf.Tensor, transpose_a: bool = False, transpose_b: bool = False
) -> tf.Tensor:
    """Computes `tf.matmul` with the precision of float32, even where TF32 is on.

    With TF32, GPUs round float32 factors to 10 bits of mantissa. TensorFlow can switch TF32 off only for the
    whole process, which would slow down float32 nets. So if TF32 is on, this function splits each factor into
    two numbers that lose little or nothing when they are rounded. The sum of three products is then as exact
    as float32. On GPUs the result has no gradient; use `product` if you need one.

    Args:
        left, right: float32 matrices.
        transpose_a, transpose_b: whether to transpose `left` and `right` first.
    """
    transposed = {"transpose_a": transpose_a, "transpose_b": transpose_b}
    if not (has_gpus() and tf.config.experimental.tensor_float_32_execution_enabled()):
        return tf.matmul(left, right, **transposed)
    (high, low), (other_high, other_low) = _parts(left), _parts(right)
    rest = tf.matmul(high, other_low, **transposed) + tf.matmul(low, other_high, **transposed)
    return tf.matmul(high, other_high, **transposed) + rest


def product(left: tf.Tensor, right: tf.Tensor, transpose_b: bool = False) -> tf.Tensor:
    """Computes `matmul` with a gradient."""

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
    """Splits values into sums of two float32 numbers.

    TF32 represents the first number exactly and rounds only the last bits of the second.
    """
    high = tf.bitcast(tf.bitwise.bitwise_and(tf.bitcast(values, tf.int32), ~_DROPPED), tf.float32)
    return high, values - high
