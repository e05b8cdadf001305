"""Fail-fast checks before training starts."""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import tensorflow as tf

from common.files import readable_size, write_file
from dataset.pipeline import TrainingBatches
from nets.importers.training_checkpoint import checkpoint_folders
from training.checkpoints import NUM_KEPT, model_folders
from training.memory import check_disk, device_memory, num_bytes, num_exports, step_memory
from training.options import OutputOptions
from training.trainer import Trainer

logger = logging.getLogger(__name__)

_MOST_IMAGES, _MOST_COLUMNS = 64, 8
_SMALLEST_CELL = 96  # width in pixels; smaller images are enlarged
_STRIP = 16  # height in pixels of the label below each image
# Above this ratio of step speed to input speed, the device will wait for the input now and then.
_TIGHT_RATIO = 0.8
_PROCESSOR = Path("/proc/cpuinfo")
_GRAPH_BYTES = 12_000_000  # The graph of a SavedModel takes up to 12 MB with the nets of this project.


def check_run(
    trainer: Trainer,
    batches: TrainingBatches,
    output: OutputOptions,
    first_step: int,
    max_steps: int,
    gpu_memory: Sequence[int] = (),
) -> None:
    """Logs data, memory and disk space of a run that is about to start. It takes a second or two.

    Args:
        trainer: has net, head and optimizer.
        batches: the training data.
        output: intervals and folders.
        first_step: number of steps that are done.
        max_steps: the last step.
        gpu_memory: what `training.gpus.prepare_gpus` returned.

    Raises:
        ValueError: a disk has too little space for the checkpoints and models of the run.
    """
    for line in _describe_data(batches):
        logger.info("%s", line)
    _log_memory(trainer, batches, gpu_memory)
    for line in _check_disk_space(trainer, output, first_step, max_steps):
        logger.info("%s", line)


def check_precision(precision: str) -> None:
    """Warns if steps in 16 bits take longer than in float32: on x86 processors without AVX-512.

    Args:
        precision: `"float32"`, `"mixed_bfloat16"` or `"mixed_float16"`.
    """
    if precision == "float32" or tf.config.list_logical_devices("GPU") or not _PROCESSOR.exists():
        return
    features = re.search(r"^flags\s*:(.*)$", _PROCESSOR.read_text(), re.MULTILINE)
    if features and "avx512f" not in features[1].split():
        logger.warning(
            "--precision %s is slower than float32 here, because this processor has no AVX-512. "
            "Leave out --precision.",
            precision,
        )


def check_first_batch(batches: TrainingBatches, step: int, folder: Path) -> None:
    """Checks the labels of the batch of a step, and draws the batch to `first_batch.png` in a folder.

    Raises:
        ValueError: an identity has no centre in the loss layer.
    """
    sources = batches.sources
    shares, identities, *_ = next(batches.start_at(step))
    images = np.concatenate([share.to_input(batches.image_size) for share in shares])
    identities = np.concatenate(identities)
    check_labels(identities, sources.num_identities)
    numbers = np.searchsorted(sources.label_offsets, identities, side="right") - 1
    labels = [
        f"{sources.manifests[number].source} {identity - sources.label_offsets[number]}"
        for number, identity in zip(numbers, identities, strict=True)
    ]
    path = folder / "first_batch.png"
    write_batch_picture(path, images, labels, getattr(batches.sampler, "images_per_identity", 1))
    counts = len(images), len(np.unique(identities))
    logger.info("first batch: %d images of %d identities, drawn to %s", *counts, path)


def measure_speed(trainer: Trainer, batches: TrainingBatches, step: int, seconds: float = 5.0) -> None:
    """Measures and logs the speed of input and step, for `seconds` each. This changes the weights."""
    stream = batches.start_at(step)
    batch = next(stream)
    input_rate = input_speed(stream, len(batches.rows), seconds)
    del stream  # ends its threads
    step_rate = step_speed(trainer.train_step, batch, len(batches.rows), seconds)
    is_on_processor = not tf.config.list_logical_devices("GPU")
    logger.info("speed: %s", verdict(input_rate, step_rate, is_on_processor))


def _describe_data(batches):
    for number, manifest in enumerate(batches.sources.manifests):
        order = "RGB" if number in batches.options.rgb_sources else "BGR"
        mirrored = "mirrored at random" if batches.options.mirror else "not mirrored"
        (height, width), (input_height, input_width) = manifest.image_size, batches.image_size
        yield (
            f"data: {manifest.source}: {manifest.num_images} images of {manifest.num_identities} identities, "
            f"{height}x{width}, in {len(manifest.shards)} shard(s) of {readable_size(manifest.num_bytes)}; "
            f"the net gets {order} of {input_height}x{input_width}, {mirrored}"
        )


def _log_memory(trainer, batches, gpu_memory):
    num_replicas = trainer.strategy.num_replicas_in_sync
    size = batches.sampler.batch_size // num_replicas // trainer.options.accumulate
    needs = step_memory(trainer, size)
    total = sum(needs.values())
    taken = sum(needs[name] for name in ("weights", "optimizer", "average"))
    free = device_memory(trainer.strategy, gpu_memory)
    parts = ", ".join(f"{name} {readable_size(value)}" for name, value in needs.items() if value)
    logger.info(
        "memory: at least %s for a step of %d images on each of %d device(s): %s; in use: %s; free: %s",
        *(readable_size(total), size, num_replicas, parts, readable_size(taken)),
        "unknown" if free is None else readable_size(free),
    )
    if free is not None and total - taken > free:
        logger.warning(
            "The step may not fit into memory. Give a smaller --batch_size, a larger --accumulate, or "
            "--precision mixed_bfloat16."
        )


def _check_disk_space(trainer, output, first_step, max_steps):
    weights = num_bytes(trainer.backbone.variables)
    size = weights + num_bytes([*trainer.head.variables, *trainer.optimizer.variables])
    if trainer.options.average is not None:
        size += weights
    # While a checkpoint is being written, there is one more than are kept.
    num_checkpoints = max(0, NUM_KEPT + 1 - len(checkpoint_folders(output.ckpt_path)))
    exports = num_exports(first_step, max_steps, output.ckpt_interval)
    num_models = min(exports, max(0, output.saver_maxkeep + 1 - len(model_folders(output.saved_model_path))))
    # A SavedModel holds the weights, and a second copy of the kernels, with the norms folded in.
    kernels = num_bytes(variable for variable in trainer.backbone.variables if len(variable.shape) == 4)
    model_size = weights + kernels + _GRAPH_BYTES
    checkpoints = f"{num_checkpoints} more checkpoint(s) of {readable_size(size)}"
    models = f"{num_models} more SavedModel(s) of {readable_size(model_size)}"
    planned_models = (output.saved_model_path, num_models * model_size, models)
    return check_disk([(output.ckpt_path, num_checkpoints * size, checkpoints), planned_models])


def check_labels(identities: np.ndarray, num_identities: int) -> None:
    """Raises `ValueError` if an identity of a batch is not in `[0, num_identities)`."""
    wrong = np.flatnonzero((identities < 0) | (identities >= num_identities))
    if len(wrong):
        raise ValueError(
            f"image {wrong[0]} of the first batch: expected an identity in [0, {num_identities}), "
            f"received {identities[wrong[0]]}. Check the converted data with "
            "python -m dataset.convert --check."
        )


def write_batch_picture(path: Path, images: np.ndarray, labels: Sequence[str], group: int = 1) -> None:
    """Draws the images of a batch with their labels below them, in the batch's order.

    Args:
        path: PNG file; its folder is created, and an existing file is replaced.
        images: float, shape `(batch, height, width, 3)`, as the net gets them: `(pixel - 127.5) / 128`, BGR.
            Images that are RGB by mistake look blue.
        labels: one per image.
        group: number of images that belong together. A group that fits into a row of the picture is not
            split.
    """
    pixels = np.clip(np.rint(np.asarray(images)[:_MOST_IMAGES] * 128.0 + 127.5), 0, 255).astype(np.uint8)
    height, width = pixels.shape[1:3]
    factor = max(1, math.ceil(_SMALLEST_CELL / width))
    height, width = height * factor, width * factor
    columns = min(len(pixels), _MOST_COLUMNS // group * group or _MOST_COLUMNS)
    rows = math.ceil(len(pixels) / columns)
    # White lines, two pixels wide, separate the cells.
    picture = np.full((rows * (height + _STRIP + 2), columns * (width + 2), 3), 255, np.uint8)
    for number, (image, label) in enumerate(zip(pixels, labels, strict=False)):
        row, column = divmod(number, columns)
        top, left = row * (height + _STRIP + 2), column * (width + 2)
        enlarged = cv2.resize(image, (width, height), interpolation=cv2.INTER_NEAREST)
        picture[top : top + height, left : left + width] = enlarged
        cell = picture[top + height : top + height + _STRIP, left : left + width]
        cv2.putText(cell, label, (2, 12), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (0, 0, 0), 1, cv2.LINE_AA)
    write_file(path, cv2.imencode(".png", picture)[1].tobytes())


def input_speed(stream: Iterator, batch_size: int, seconds: float = 5.0) -> float:
    """Measures how many images per second a stream of batches provides while nothing is trained."""
    return batch_size * _calls_per_second(lambda: next(stream), seconds)


def step_speed(train_step: Callable, batch: Sequence, batch_size: int, seconds: float = 5.0) -> float:
    """Measures how many images per second the device trains without input. Changes the weights."""

    def step():
        for value in train_step(*batch).values():
            float(value)  # waits: the device may be steps behind

    return batch_size * _calls_per_second(step, seconds)


def verdict(input_rate: float, step_rate: float, share_processor: bool) -> str:
    """Returns a sentence that compares the speeds of input and step.

    Args:
        input_rate: images per second that the input gives.
        step_rate: images per second that the training step takes.
        share_processor: whether the net computes on the processor that also decodes images.
    """
    speeds = f"the input gives {input_rate:.0f} images/s, a step takes {step_rate:.0f} images/s: "
    share = step_rate / input_rate
    if share_processor:
        needed = share / (1 + share)
        return f"{speeds}both use the same processor, and the input needs {needed:.0%} of its time"
    if share > 1:
        return (
            f"{speeds}the input starves the device, which will wait {1 - 1 / share:.0%} of the time. Use "
            "more cores, put the data on a local disk, or try --read sequential if random reads are slow."
        )
    if share > _TIGHT_RATIO:
        return f"{speeds}the input only just keeps up with the device"
    return f"{speeds}the input is {1 / share:.1f} times as fast as the device"


def _calls_per_second(call, seconds):
    """Returns the rate of calls. The first call does not count: it fills buffers or traces a graph."""
    call()
    start = time.perf_counter()
    count, passed = 0, 0.0
    while passed < seconds:
        call()
        count, passed = count + 1, time.perf_counter() - start
    return count / passed
