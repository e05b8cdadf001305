"""Estimates the memory and disk space that a run needs, before it starts."""

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

# The numbers of copies were measured by benchmarks.many_identities on a CPU, with an angular margin and
# momentum. Copies of the sampled centres, including their gradient, at the peak of a step that has few
# logits.
_STEP_COPIES = 4
# Copies of the sampled centres, and arrays of logits, at the peak of a step that has many logits.
_COPIES_WITH_LOGITS, _LOGIT_COPIES = 3, 5
# Copies of all centres while a checkpoint is restored: two as on disk, one transposed.
_RESTORE_COPIES = 3
# Arrays of logits in a step: products with the centres, probabilities, and their gradient.
_LOGITS_OF_STEP = 3

_RATES = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01)  # values of --sample_rate that an error may suggest

# Layers whose gradient needs neither inputs nor outputs (`Flatten` is a view), and layers whose gradient
# needs only the inputs.
_KEEP_NOTHING = ("Add", "Flatten", "InputLayer", "ZeroPadding2D")
_KEEP_INPUTS = ("BatchNorm", "Conv2D", "Dense", "PReLU")


def host_memory(root: Path = Path("/")) -> int | None:
    """Returns the bytes of memory that this process can still use, or `None` if unknown (outside Linux).

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
        limit, used = "max", 0  # The process is not in a container of cgroup version 2.
    if limit != "max":
        sizes.append(max(int(limit) - used, 0))
    return min(sizes, default=None)


def device_memory(strategy: tf.distribute.Strategy, gpu_memory: Sequence[int] = ()) -> int | None:
    """Returns the free bytes of each replica's device, or `None` if unknown.

    Devices on the host share its memory.

    Args:
        strategy: strategy of the run, which names the devices.
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
    """Bytes that the centres of a head need on one device, accurate to about 20 %.

    Attributes:
        centres: bytes of the centres that the device holds. Their velocities need the same amount again.
        sampled: bytes of the centres that a step computes with.
        logits: bytes of one array of logits.
    """

    centres: int
    sampled: int
    logits: int

    @property
    def copies(self) -> int:
        """Bytes of the gradients of the centres, and of temporary copies of centres and logits."""
        step = _STEP_COPIES * self.sampled
        with_logits = _COPIES_WITH_LOGITS * self.sampled + _LOGIT_COPIES * self.logits
        return max(max(step, with_logits, _RESTORE_COPIES * self.centres) - 2 * self.logits, 0)

    @property
    def total(self) -> int:
        """Bytes of centres, velocities, logits with their gradient, and copies."""
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
        dim: length of the embeddings.
        batch_size: number of images on one device.
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
    """Raises `ValueError` if the centres need more than `free` bytes on each device.

    `free` is `None` if it is unknown. The other arguments and the result are those of `centre_memory`.
    """
    memory = centre_memory(num_centres, dim, batch_size, sample_rate, num_shards)
    if free is None or memory.total <= free:
        return memory
    fitting = [
        rate
        for rate in _RATES
        if rate < sample_rate and centre_memory(num_centres, dim, batch_size, rate).total <= free
    ]
    if num_shards > 1:  # --sample_rate does not work with shards.
        advice = "Use more devices, a smaller --batch_size or fewer identities."
    elif fitting:
        advice = f"--sample_rate {fitting[0]} would fit."
    else:
        advice = "No --sample_rate would fit. Use a smaller --batch_size, fewer identities or more memory."
    raise ValueError(
        f"{num_centres} centres need {memory} on each device, but {readable_size(free)} are free. {advice}"
    )


def step_memory(trainer: Trainer, batch_size: int) -> dict[str, int]:
    """Estimates the memory of a training step on one device.

    All activations (see `activation_bytes`) are in memory when the backward pass begins. The working memory
    of convolutions and of the head, and gaps that the allocator leaves, come on top. So the sum is a lower
    bound. docs/many_identities.md says how far it is from the measured memory.

    Args:
        trainer: has net, head and optimizer.
        batch_size: number of images on one device.

    Returns:
        Bytes by purpose, such as `"weights"` and `"activations"`.
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
        if head.sharded:  # The lists of variables hold a scalar in place of the shards.
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
    """Returns the bytes of activations that the forward pass of one image keeps for the backward pass.

    Every tensor counts once. Convolutions, dense layers, norms and PReLUs keep their inputs. Dropout keeps
    one byte per value. Sums and padding keep nothing. All other layers keep inputs and outputs. The image
    itself is not counted.
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
    """Returns how many SavedModels a run writes at least: one per interval, and one at its end.

    Args:
        first_step: number of steps that are done.
        max_steps: the last step.
        interval: steps between models, `--ckpt_interval`.
    """
    return max_steps // interval - first_step // interval + (max_steps % interval > 0)


def check_disk(planned: list[tuple[Path, int, str]]) -> list[str]:
    """Raises `ValueError` if files that a run will write do not fit on their disks.

    Args:
        planned: `(folder, bytes, description)` for each kind of file. The folder need not exist.

    Returns:
        One line for the log per file system.
    """
    by_device = {}
    for folder, size, description in planned:
        folder = folder.absolute()
        while not folder.exists():
            folder = folder.parent
        by_device.setdefault(folder.stat().st_dev, []).append((folder, size, description))
    lines = []
    for parts in by_device.values():
        folder, files = parts[0][0], " and ".join(description for _, _, description in parts)
        needed, free = sum(size for _, size, _ in parts), shutil.disk_usage(folder).free
        text = f"{files} need {readable_size(needed)}, {readable_size(free)} free at {folder}"
        if needed > free:
            raise ValueError(
                f"{folder}: {text}. Free some space, lower --saver_maxkeep or raise --ckpt_interval."
            )
        lines.append(f"disk: {text}")
    return lines
