"""How much memory and disk a run needs, before it runs."""

import dataclasses
import math
import shutil
from pathlib import Path

from common.files import readable_size


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


FLOAT = 4  # bytes; centres are float32 whatever the precision of the net


# Copies of the centres that a step computes with, their gradient among them, at its fullest: measured by
# benchmarks.many_identities on a CPU, with an angular margin and momentum.
STEP_COPIES = 4


# Beside the copies that are left while the logits are at their fullest.
COPIES_BESIDE_LOGITS, LOGIT_COPIES = 3, 5


# Of all centres while a checkpoint of sampled ones is read: two as they are on disk, and one transposed.
RESTORE_COPIES = 3


# Offered to whom memory does not suffice.
RATES = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01)


@dataclasses.dataclass(frozen=True)
class CentreMemory:
    """Bytes on one device.

    Attributes:
        centres: of all identities.
        velocities: the optimizer's, one of each centre.
        logits: and their gradient.
        copies: what a step computes with besides: gradients of centres, and what they are summed up from.
    """

    centres: int
    velocities: int
    logits: int
    copies: int

    @property
    def total(self):
        return self.centres + self.velocities + self.logits + self.copies

    def __str__(self):
        parts = ((readable_size(size), name) for name, size in dataclasses.asdict(self).items())
        return f"{readable_size(self.total)} ({', '.join(f'{name} {size}' for size, name in parts)})"


def centre_memory(num_centres, dim, batch_size, sample_rate=1.0, num_shards=1):
    """What a head with centres takes on each device.

    Args:
        num_centres: int > 0, identities times centres of each.
        dim: int > 0, of the embeddings.
        batch_size: int > 0, of one device.
        sample_rate: float in `(0, 1]`, the share of the centres that a step sees.
        num_shards: int > 0, how many devices share the centres; each has logits of the global batch.

    Returns:
        `CentreMemory`; the truth lies within a fifth of it.
    """
    num_centres = math.ceil(num_centres / num_shards)
    batch_size *= num_shards
    all_of_them = FLOAT * num_centres * dim
    num_taken = math.ceil(round(sample_rate * num_centres, 6))
    taken, logits = FLOAT * num_taken * dim, FLOAT * num_taken * batch_size
    fullest = max(STEP_COPIES * taken, COPIES_BESIDE_LOGITS * taken + LOGIT_COPIES * logits)
    if sample_rate < 1:
        fullest = max(fullest, RESTORE_COPIES * all_of_them)
    return CentreMemory(all_of_them, all_of_them, 2 * logits, max(fullest - 2 * logits, 0))


def require_memory(num_centres, dim, batch_size, sample_rate, free, num_shards=1):
    """Refuses centres that do not fit.

    Args:
        num_centres, dim, batch_size, sample_rate, num_shards: see `centre_memory`.
        free: bytes that are free on each device, or `None` where it is not known.

    Returns:
        `CentreMemory`.

    Raises:
        ValueError: they need more; says how much, and what would fit.
    """
    need = centre_memory(num_centres, dim, batch_size, sample_rate, num_shards)
    if free is None or need.total <= free:
        return need
    fitting = [
        rate
        for rate in RATES
        if rate < sample_rate and centre_memory(num_centres, dim, batch_size, rate).total <= free
    ]
    if num_shards > 1:  # a device with all centres would have room for no sample
        advice = "give more devices, a smaller --batch_size or fewer identities"
    elif fitting:
        advice = f"--sample_rate {fitting[0]} would fit"
    else:
        advice = "no --sample_rate would fit; give a smaller --batch_size, fewer identities or more memory"
    raise ValueError(
        f"centres: expected them to fit into the {readable_size(free)} that a device has free, "
        f"{num_centres} of them need {need} on each; {advice}"
    )


# Layers whose gradient needs neither what comes in nor what goes out; `Flatten` is a view.
_KEEP_NOTHING = ("Add", "Flatten", "InputLayer", "ZeroPadding2D")


# Those that need what comes in; and a byte for each value, of whether it was kept.
_KEEP_INPUTS = ("BatchNorm", "Conv2D", "Dense", "PReLU")


_KEEP_MASK = "Dropout"


# Arrays of the logits' shape: products with the centres, probabilities, and their gradient.
_LOGIT_COPIES = 3


def num_bytes(variables):
    """Bytes of variables' values: int."""
    import tensorflow as tf  # not for those who only ask about centres

    return sum(math.prod(v.shape) * tf.as_dtype(v.dtype).size for v in variables)


def activation_bytes(backbone):
    """What one image leaves behind on the way forward, because the gradient needs it.

    Every tensor counts once, whoever needs it: the inputs of convolutions, dense layers, norms and PReLUs,
    a byte for each value of a dropout, and both sides of all other layers but those that need
    nothing (sums, padding).

    Args:
        backbone: `keras.Model` of layers in a graph.

    Returns:
        int, bytes; the image is not among them.
    """
    import tensorflow as tf

    kept, images = {}, {id(tensor) for tensor in backbone.inputs}
    for layer in backbone.layers:
        kind = type(layer).__name__
        inputs, outputs = (_as_list(tensors) for tensors in (layer.input, layer.output))
        if kind == _KEEP_MASK:
            kept[layer.name] = math.prod(outputs[0].shape[1:])
        if kind in (*_KEEP_NOTHING, _KEEP_MASK):
            continue
        for tensor in inputs if kind in _KEEP_INPUTS else [*inputs, *outputs]:
            kept[id(tensor)] = math.prod(tensor.shape[1:]) * tf.as_dtype(layer.compute_dtype).size
    return sum(size for key, size in kept.items() if key not in images)


def memory_needs(backbone, head, optimizer, batch_size, num_replicas=1):
    """Memory of a training step on one device, by what it is for.

    Activations, see `activation_bytes`, are all there when the gradient begins. What convolutions and the
    head work in comes on top, and what an allocator leaves unused between arrays, so the sum is a lower
    bound; docs/many_identities.md says by how much.

    Args:
        backbone: `keras.Model`.
        head: loss layer.
        optimizer: built Keras optimizer.
        batch_size: int > 0, images of one device.
        num_replicas: int > 0, devices, of which each holds a part of a head that is `sharded`.

    Returns:
        dict from str to int, bytes.
    """
    weights = num_bytes([*backbone.variables, *head.variables])
    gradients = num_bytes([*backbone.trainable_variables, *head.trainable_variables])
    optimizer_bytes = num_bytes(optimizer.variables)
    logits = 0
    if hasattr(head, "num_centres"):
        share = 1 / num_replicas if head.sharded else head.sample_rate
        batch_of_logits = batch_size * (num_replicas if head.sharded else 1)
        num_taken = math.ceil(round(share * head.num_centres, 6))
        logits = _LOGIT_COPIES * 4 * batch_of_logits * num_taken
        taken = 4 * num_taken * head.centres_shape[0]
        if head.sharded:  # what stands for them in the lists of variables is a scalar
            weights, gradients, optimizer_bytes = (
                size + taken for size in (weights, gradients, optimizer_bytes)
            )
        else:
            gradients += taken - num_bytes([head.centres])
    return {
        "weights": weights,
        "gradients": gradients,
        "optimizer": optimizer_bytes,
        "batch": 4 * batch_size * math.prod(backbone.input_shape[1:]),
        "activations": batch_size * activation_bytes(backbone),
        "logits": logits,
    }


def num_exports(first_step, max_steps, interval):
    """SavedModels that a run writes in any case: one per interval, and one at its end.

    Args:
        first_step: int >= 0, steps that are done.
        max_steps: int > `first_step`.
        interval: int > 0.
    """
    due = max_steps // interval - first_step // interval
    return due + (max_steps % interval > 0)


def check_disk(needs):
    """Looks whether files that a run will write have room.

    Args:
        needs: list of `(folder, bytes, what)`: a Path that need not exist yet, an int, a str for the message.

    Returns:
        list of str, one line per file system.

    Raises:
        ValueError: there is not enough room.
    """
    by_device = {}
    for folder, size, what in needs:
        folder = folder.absolute()
        while not folder.exists():
            folder = folder.parent
        by_device.setdefault(folder.stat().st_dev, []).append((folder, size, what))
    lines = []
    for parts in by_device.values():
        folder, need, free = (
            parts[0][0],
            sum(size for _, size, _ in parts),
            shutil.disk_usage(parts[0][0]).free,
        )
        what = " and ".join(what for _, _, what in parts)
        if need > free:
            raise ValueError(
                f"{folder}: expected {readable_size(need)} free for {what}, "
                f"received {readable_size(free)} free; "
                "--saver_maxkeep and --ckpt_interval say how many SavedModels there will be"
            )
        lines.append(f"disk: {what} need {readable_size(need)}, {readable_size(free)} free at {folder}")
    return lines


def _as_list(tensors):
    return list(tensors) if isinstance(tensors, (list, tuple)) else [tensors]
