"""Says where the forms of layers apply that are faster on CPUs only."""

import tensorflow as tf

from .batch_norm import num_replicas


def trains_on_one_cpu() -> bool:
    """Returns whether a step is computed by one replica on the CPU."""
    return num_replicas() == 1 and not tf.config.list_logical_devices("GPU")
