"""Weights that are fit to be kept."""

import tensorflow as tf


def first_not_finite(variables):
    """Finds NaN and infinity in weights.

    A loss can be finite while they are not: the moving statistics of batch normalisation are not used
    in training.

    Args:
        variables: iterable of Keras variables, of any dtype.

    Returns:
        str, the path of the first variable that is not finite throughout; `None` if there is none.
    """
    for variable in variables:
        value = tf.convert_to_tensor(variable)
        if value.dtype.is_floating and not bool(tf.reduce_all(tf.math.is_finite(value))):
            return variable.path
    return None
