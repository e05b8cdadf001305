"""Estimates of the memory and disk space that a run needs, before it starts."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from common.files import readable_size
from losses.variants import num_sampled

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from training.trainer import Trainer

_FLOAT = 4  # bytes; centres are float32 whatever the precision of the net

# Copies of the sampled centres, their gradient among them, when a step uses most memory. Measured by
# benchmarks.many_identities on a CPU, with an angular margin and momentum.
_STEP_COPIES = 4
_COPIES_BESIDE_LOGITS, _LOGIT_COPIES = 3, 5  # the same while the logits use most memory, and arrays of logits
_RESTORE_COPIES = 3  # of all centres while a checkpoint is restored: two as on disk, one transposed
_LOGITS_OF_STEP = 3  # arrays: products with the centres, probabilities, and their gradient

_RATES = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01)  # values of --sample_rate that an error may suggest

# Layers whose gradient needs neither inputs nor outputs (`Flatten` is a view), or inputs only.
_KEEP_NOTHING = ("Add", "Flatten", "InputLayer", "ZeroPadding2D")
_KEEP_INPUTS = ("BatchNorm", "Conv2D", "Dense", "PReLU")


def host_memory(root: Path = Path("/")) -> int | None:
    """Returns the bytes that this process can still take, or `None` where they are not known: not on Linux.

    Args:
        root: folder that holds `proc` and `sys`.
    """
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
        limit, used = "max", 0  # not in a container of cgroup version 2
    if limit != "max":
        sizes.append(max(int(limit) - used, 0))
    return min(sizes, default=None)


def device_memory(strategy: tf.distribute.Strategy, gpu_memory: Sequence[int] = ()) -> int | None:
    """Returns the bytes that each replica's device has free, or `None` where it is not known.

    Devices of the host share its memory.

    Args:
        strategy: the devices.
        gpu_memory: what `training.gpus.prepare_gpus` returned.
    """
    import tensorflow as tf

    gpus = tf.config.list_logical_devices("GPU")
    # The default strategy does not name its one device: the first GPU, if there is one.
    num_devices, on_host = 1, not gpus
    if strategy.num_replicas_in_sync > 1:
        devices = strategy.extended.worker_devices  # of this process
        num_devices, on_host = len(devices), "CPU" in devices[0].upper()
    if on_host:
        free = host_memory()
        return None if free is None else free // num_devices
    get_info = tf.config.experimental.get_memory_info
    free = [size - get_info(f"GPU:{number}")["current"] for number, size in enumerate(gpu_memory)]
    return min(free, default=None)


@dataclass(frozen=True)
class CentreMemory:
    """Bytes that the centres of a head take on one device, within a fifth.

    Attributes:
        centres: the centres that the device holds. Their velocities take the same again.
        sampled: the centres that a step computes with.
        logits: one array of logits.
    """

    centres: int
    sampled: int
    logits: int

    @property
    def copies(self) -> int:
        """The gradients of the centres, and other copies of them and of the logits."""
        step = _STEP_COPIES * self.sampled
        beside_logits = _COPIES_BESIDE_LOGITS * self.sampled + _LOGIT_COPIES * self.logits
        return max(max(step, beside_logits, _RESTORE_COPIES * self.centres) - 2 * self.logits, 0)

    @property
    def total(self) -> int:
        """Centres, velocities, logits with their gradient, and copies."""
        return 2 * self.centres + 2 * self.logits + self.copies

    def __str__(self) -> str:
        centres, logits, copies = map(readable_size, (self.centres, 2 * self.logits, self.copies))
        parts = f"centres {centres}, velocities {centres}, logits {logits}, copies {copies}"
        return f"{readable_size(self.total)} ({parts})"


def centre_memory(
    num_centres: int, dim: int, batch_size: int, sample_rate: float = 1.0, num_shards: int = 1
) -> CentreMemory:
    """Estimates the memory of a head with centres, on each device.

    Args:
        num_centres: number of identities times centres per identity.
        dim: size of the embeddings.
        batch_size: images of one device.
        sample_rate: share of the centres that a step computes with, in `(0, 1]`.
        num_shards: number of devices that share the centres; each has logits of the global batch.
    """
    num_held = math.ceil(num_centres / num_shards)
    num_seen = num_sampled(num_held, sample_rate)
    logits = _FLOAT * num_seen * batch_size * num_shards
    return CentreMemory(_FLOAT * num_held * dim, _FLOAT * num_seen * dim, logits)


def require_memory(
    num_centres: int, dim: int, batch_size: int, sample_rate: float, free: int | None, num_shards: int = 1
) -> CentreMemory:
    """Raises `ValueError` if the centres need more than `free` bytes, if these are known, on each device.

    The other arguments and the result are those of `centre_memory`.
    """
    memory = centre_memory(num_centres, dim, batch_size, sample_rate, num_shards)
    if free is None or memory.total <= free:
        return memory
    fitting = [
        rate
        for rate in _RATES
        if rate < sample_rate and centre_memory(num_centres, dim, batch_size, rate).total <= free
    ]
    if num_shards > 1:  # --sample_rate does not go with shards
        advice = "Use more devices, a smaller --batch_size or fewer identities."
    elif fitting:
        advice = f"--sample_rate {fitting[0]} would fit."
    else:
        advice = "No --sample_rate would fit. Use a smaller --batch_size, fewer identities or more memory."
    raise ValueError(
        f"{num_centres} centres need {memory} on each device, but {readable_size(free)} are free. {advice}"
    )


def step_memory(trainer: Trainer, batch_size: int) -> dict[str, int]:
    """Estimates the memory of a training step on one device, in bytes, by what it is for.

    All activations, see `activation_bytes`, are in memory when the gradient begins. The working memory of
    convolutions and of the head comes on top, and what an allocator leaves unused between arrays. So the sum
    is a lower bound; docs/many_identities.md says by how much.

    Args:
        trainer: has net, head and optimizer.
        batch_size: images of one device.
    """
    backbone, head = trainer.backbone, trainer.head
    parts = [part for part in (backbone, head, trainer.options.distillation) if part is not None]
    weights = num_bytes(variable for part in parts for variable in part.variables)
    gradients = num_bytes(variable for part in parts for variable in part.trainable_variables)
    velocities = num_bytes(trainer.optimizer.variables)
    logits = 0
    if hasattr(head, "num_centres"):
        num_shards = trainer.strategy.num_replicas_in_sync if head.sharded else 1
        dim = head.centres_shape[0]
        centres = centre_memory(head.num_centres, dim, batch_size, head.sample_rate, num_shards)
        logits = _LOGITS_OF_STEP * centres.logits
        gradients -= centres.centres - centres.sampled
        if head.sharded:  # In the lists of variables a scalar stands for the shards.
            weights += centres.centres
            gradients += centres.centres
            velocities += centres.centres
    average = trainer.options.average
    return {
        "weights": weights,
        "gradients": gradients,
        "optimizer": velocities,
        "batch": _FLOAT * batch_size * math.prod(backbone.input_shape[1:]),
        "activations": batch_size * activation_bytes(backbone),
        "logits": logits,
        "average": 0 if average is None else num_bytes(average.net.variables),
    }


def activation_bytes(backbone: keras.Model) -> int:
    """Returns the bytes that one image leaves behind in the forward pass, because the gradient needs them.

    Every tensor counts once: the inputs of convolutions, dense layers, norms and PReLUs, one byte for each
    value of a dropout, and inputs and outputs of all other layers except those that need nothing (sums,
    padding). The image itself is not counted.
    """
    import tensorflow as tf

    kept, images = {}, {id(tensor) for tensor in backbone.inputs}
    for layer in backbone.layers:
        kind = type(layer).__name__
        inputs, outputs = tf.nest.flatten(layer.input), tf.nest.flatten(layer.output)
        if kind == "Dropout":
            kept[layer.name] = math.prod(outputs[0].shape[1:])
        elif kind not in _KEEP_NOTHING:
            for tensor in inputs if kind in _KEEP_INPUTS else [*inputs, *outputs]:
                kept[id(tensor)] = math.prod(tensor.shape[1:]) * tf.as_dtype(layer.compute_dtype).size
    return sum(size for key, size in kept.items() if key not in images)


def num_bytes(variables: Iterable[keras.Variable]) -> int:
    """Returns the bytes of the variables' values."""
    import tensorflow as tf

    return sum(math.prod(v.shape) * tf.as_dtype(v.dtype).size for v in variables)


def num_exports(first_step: int, max_steps: int, interval: int) -> int:
    """Returns how many SavedModels a run writes whatever its scores: one per interval, and one at its end."""
    return max_steps // interval - first_step // interval + (max_steps % interval > 0)


def check_disk(planned: list[tuple[Path, int, str]]) -> list[str]:
    """Raises `ValueError` if files that a run will write do not fit on their disks.

    Args:
        planned: `(folder, bytes, what)` for each; the folder need not exist, `what` is for the messages.

    Returns:
        One line per file system, for the log.
    """
    by_device = {}
    for folder, size, what in planned:
        folder = folder.absolute()
        while not folder.exists():
            folder = folder.parent
        by_device.setdefault(folder.stat().st_dev, []).append((folder, size, what))
    lines = []
    for parts in by_device.values():
        folder, what = parts[0][0], " and ".join(what for _, _, what in parts)
        needed, free = sum(size for _, size, _ in parts), shutil.disk_usage(folder).free
        text = f"{what} need {readable_size(needed)}, {readable_size(free)} free at {folder}"
        if needed > free:
            raise ValueError(
                f"{folder}: {text}. Free some space, lower --saver_maxkeep or raise --ckpt_interval."
            )
        lines.append(f"disk: {text}")
    return lines
