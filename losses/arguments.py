"""Checks of what is given to a loss, shared by all of them."""

import inspect

import tensorflow as tf


def require(condition, name, expected, received):
    """Raises a `ValueError` that names the argument, unless the condition holds."""
    if not condition:
        raise ValueError(f"{name}: expected {expected}, received {received}")


def constructor_arguments(layer):
    """The arguments of a layer's constructor, from its attributes of the same names."""
    names = list(inspect.signature(type(layer).__init__).parameters)[1:]
    return {name: getattr(layer, name) for name in names if name != "kwargs"}


def checked_identities(identities, num_identities=None):
    """Identities as int32.

    Args:
        identities: int, shape `(batch,)`.
        num_identities: int > 0; with it, their range is checked, too.

    Raises:
        ValueError: the identities are not integers.
        tf.errors.InvalidArgumentError: an identity is outside `[0, num_identities)`.
    """
    identities = tf.convert_to_tensor(identities)
    if not identities.dtype.is_integer:
        raise ValueError(f"identities: expected integers, received {identities.dtype.name}")
    if num_identities is None:
        return tf.cast(identities, tf.int32)
    in_range = tf.reduce_all((identities >= 0) & (identities < num_identities))
    # Some devices read zeros out of range; the loss would silently be wrong.
    check = tf.debugging.Assert(
        in_range,
        [f"identities: expected values in [0, {num_identities}), received", identities],
        summarize=1024,
    )
    with tf.control_dependencies([check]):  # before anything is looked up by them
        return tf.identity(tf.cast(identities, tf.int32))
