"""How much memory is free for a run."""

from pathlib import Path


def host_memory(root="/"):
    """Bytes that this process can still take, by what the system and its container say.

    Args:
        root: folder that `proc` and `sys` lie in.

    Returns:
        int, or `None` where it is not known: not on Linux.
    """
    root = Path(root)
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    sizes = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    group = root / "sys/fs/cgroup"
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
    except OSError:
        limit = "max"  # no container of version 2
    if limit != "max":
        sizes.append(max(int(limit) - used, 0))
    return min(sizes, default=None)


def device_memory(strategy):
    """Bytes that each replica's device has free.

    Devices of the host share its memory. Of a GPU it is known only where a limit has been set
    (`tf.config.set_logical_device_configuration`): without one TensorFlow takes what there is, and does
    not say how much.

    Args:
        strategy: `tf.distribute.Strategy`.

    Returns:
        int, or `None` where it is not known.
    """
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    # The default strategy does not name its one device: the first GPU, if there is one.
    num_devices, on_host = 1, not gpus
    if strategy.num_replicas_in_sync > 1:
        devices = strategy.extended.worker_devices  # of this process
        num_devices, on_host = len(devices), "CPU" in devices[0].upper()
    if on_host:
        free = host_memory()
        return None if free is None else free // num_devices
    free = []
    for number, gpu in enumerate(gpus):
        for logical in tf.config.get_logical_device_configuration(gpu) or ():
            if logical.memory_limit is None:
                return None
            used = tf.config.experimental.get_memory_info(f"GPU:{number}")["current"]
            free.append(logical.memory_limit * 2**20 - used)
    return min(free, default=None)
