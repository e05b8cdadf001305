"""Draws numbers without replacement, with operations that a GPU supports."""

import math

import tensorflow as tf

_FIRST_KEY = 498247692  # `tf.random.experimental.index_shuffle` puts it before the two numbers of its seed
_CONSTANT, _SEQUENCE = 0xFFFFFFFC, 0x7369F885192C0EF5  # constants of the cipher's key schedule


def draw(num_drawn: int, num_values: int, key: tf.Tensor) -> tf.Tensor:
    """Draws distinct numbers: `tf.random.experimental.index_shuffle` of `0, 1, ..., num_drawn - 1`.

    TensorFlow's shuffle does not run on GPUs. On a machine with GPUs, this function computes the same numbers
    with other operations.

    Args:
        num_drawn: how many numbers to draw, at most `num_values`.
        num_values: the numbers are in `[0, num_values)`.
        key: seed of the draw, int64 `(2,)`.

    Returns:
        int64 `(num_drawn,)`.
    """
    if tf.config.list_logical_devices("GPU"):
        return draw_on_gpu(num_drawn, num_values, key)
    indices = tf.range(num_drawn, dtype=tf.int64)
    return tf.random.experimental.index_shuffle(indices, key, tf.constant(num_values - 1, tf.int64))


def draw_on_gpu(num_drawn: int, num_values: int, key: tf.Tensor) -> tf.Tensor:
    """Returns the same numbers as `draw`, on any device.

    The method is the Simon cipher with 4 rounds, then cycle walking. The cipher permutes blocks of an even
    number of bits, so it may map a number to one that is out of range. TensorFlow then applies the cipher
    again, until the number is in range. Here a table contains one step of this walk for every number. Numbers
    in range stay where they are. Indexing the table with itself doubles the number of steps. This is repeated
    until every walk is long enough to end in range.

    All numbers are int64, because TensorFlow runs int32 operations on the CPU even if there is a GPU.

    References: [Simon and Speck](https://eprint.iacr.org/2013/404); [cycle walking](
    https://www.cs.ucdavis.edu/~rogaway/papers/subset.pdf); TensorFlow, `core/kernels/random_index_shuffle.cc`
    """
    width = max(math.ceil(math.log2(max(num_values - 1, 1)) / 2), 8)  # bits of half a block
    num_blocks = 4**width
    half = tf.range(2**width, dtype=tf.int64)
    left, right = half[:, None], half[None, :]
    permuted = _joined(*_encrypt(left, right, _round_keys(key, width), width), width)
    numbers = _joined(left, right, width)
    walk = tf.where(numbers < num_values, numbers, permuted)
    for _ in range((num_blocks - num_values).bit_length()):
        walk = tf.gather(walk, walk)
    return tf.gather(walk, permuted[:num_drawn])


def _round_keys(key, width):
    """Returns the keys of the four rounds, each of `width` bits."""
    keys = [tf.constant(_FIRST_KEY, tf.int64), key[0], key[1]]
    keys = [tf.bitwise.bitwise_and(number, 2**width - 1) for number in keys]
    turned = [_rotated(keys[2], width - bits, width) for bits in (3, 4)]
    fixed = (_CONSTANT ^ (_SEQUENCE & 1)) & (2**width - 1)
    return [*keys, _xor(keys[0], *turned, tf.constant(fixed, tf.int64))]


def _encrypt(left, right, keys, width):
    for first, second in (keys[:2], keys[2:]):
        left = _xor(left, _mixed(right, width), first)
        right = _xor(right, _mixed(left, width), second)
    return left, right


def _joined(left, right, width):
    """Joins the halves of blocks: int64 `(num_blocks,)`."""
    high = tf.bitwise.left_shift(left, tf.constant(width, tf.int64))
    return tf.reshape(tf.bitwise.bitwise_or(high, right), [-1])


def _mixed(words, width):
    both = tf.bitwise.bitwise_and(_rotated(words, 1, width), _rotated(words, 8, width))
    return _xor(both, _rotated(words, 2, width))


def _rotated(words, bits, width):
    """Rotates words of `width` bits to the left."""
    high = tf.bitwise.left_shift(words, tf.constant(bits, tf.int64))
    low = tf.bitwise.right_shift(words, tf.constant(width - bits, tf.int64))
    return tf.bitwise.bitwise_and(tf.bitwise.bitwise_or(high, low), 2**width - 1)


def _xor(*words):
    result = words[0]
    for other in words[1:]:
        result = tf.bitwise.bitwise_xor(result, other)
    return result
