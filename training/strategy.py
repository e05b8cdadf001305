"""Where a run computes."""

import tensorflow as tf


def make_strategy(devices=None):
    """The one `tf.distribute.Strategy` of a program.

    Call it once: two strategies in one process clash in their all-reduce.

    Row 17 of docs/fidelity.md: the original is bound to GPU 3.

    Args:
        devices: list of device names, such as `["GPU:0", "GPU:1"]`. Defaults to all GPUs.

    Returns:
        A `MirroredStrategy` over the devices; the default strategy if there are fewer than
        two, on the GPU if there is one.
    """
    if devices is None:
        devices = [device.name for device in tf.config.list_logical_devices("GPU")]
    if len(devices) > 1:
        return tf.distribute.MirroredStrategy(devices)
    return tf.distribute.get_strategy()
