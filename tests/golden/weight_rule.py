"""Computes the weights of the golden nets from the name and the shape of each variable."""

import zlib

import numpy as np


def golden_weight(name, shape):
    """Returns the float32 array of `shape` for a variable of the original, by its TensorFlow 1 name."""
    rng = np.random.RandomState(zlib.crc32(name.encode()) & 0x7FFFFFFF)
    leaf = name.rsplit("/", 1)[-1]
    shape = tuple(shape)
    if leaf in ("W_conv2d", "W", "embedding_weights"):
        gain = 0.6 if leaf == "W_conv2d" else 1.0
        value = rng.standard_normal(shape) * np.sqrt(gain / int(np.prod(shape[:-1])))
    elif leaf == "gamma":
        value = 1.0 + 0.1 * rng.standard_normal(shape)
    elif leaf == "moving_variance":
        value = rng.uniform(0.5, 1.5, shape)
    elif leaf == "alphas":
        value = rng.uniform(0.0, 0.5, shape)
    else:
        value = 0.1 * rng.standard_normal(shape)
    return value.astype(np.float32)


def load_golden_weights(backbone):
    """Assigns the rule's values to all variables of a backbone.

    Returns:
        dict from TensorFlow 1 name to Keras variable.
    """
    from nets.importers.tf1_weights import tf1_variables

    variables = tf1_variables(backbone)
    for name, variable in variables.items():
        variable.assign(golden_weight(name, variable.shape))
    return variables
