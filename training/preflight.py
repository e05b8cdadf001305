"""Fail-fast checks before training starts."""

from __future__ import annotations

import itertools
import logging
import math
import time

import cv2
import numpy as np
import tensorflow as tf

from common.files import readable_size, write_file
from dataset.pipeline import TrainingBatches
from training.checkpoints import NUM_KEPT, Checkpoints
from training.memory import check_disk, num_bytes, num_exports, step_memory
from training.options import OutputOptions
from training.trainer import Trainer

logger = logging.getLogger(__name__)


_MOST_IMAGES = 64

_MOST_COLUMNS = 8

_SMALLEST_CELL = 96  # pixels wide; smaller images are enlarged

_STRIP = 16  # pixels for the label below each image


def write_batch_picture(path, images, labels, group=1):
    """Draws the images of a batch with their labels below them, in the batch's order.

    Args:
        path: Path of a PNG; its folder is made. An existing file is replaced.
        images: float `(batch, height, width, 3)` as the net gets them, `(pixel - 127.5) / 128`, BGR. One that
            holds RGB looks blue: so a wrong order of channels is seen.
        labels: sequence of str, one per image.
        group: int > 0, images that belong together; a group is not broken over two rows where
            it fits into one. Defaults to `1`.

    Raises:
        OSError: it cannot be written.
    """
    images = np.clip(np.rint(np.asarray(images)[:_MOST_IMAGES] * 128.0 + 127.5), 0, 255).astype(np.uint8)
    height, width = images.shape[1:3]
    factor = max(1, math.ceil(_SMALLEST_CELL / width))
    height, width = height * factor, width * factor
    columns = min(len(images), _MOST_COLUMNS // group * group or _MOST_COLUMNS)
    rows = math.ceil(len(images) / columns)
    # White lines of two pixels between the cells.
    picture = np.full((rows * (height + _STRIP + 2), columns * (width + 2), 3), 255, np.uint8)
    for number, (image, label) in enumerate(zip(images, labels, strict=False)):
        row, column = divmod(number, columns)
        top, left = row * (height + _STRIP + 2), column * (width + 2)
        picture[top : top + height, left : left + width] = cv2.resize(
            image, (width, height), interpolation=cv2.INTER_NEAREST
        )
        cell = picture[top + height : top + height + _STRIP, left : left + width]
        cv2.putText(cell, label, (2, 12), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (0, 0, 0), 1, cv2.LINE_AA)
    write_file(path, cv2.imencode(".png", picture)[1].tobytes())


# A device that takes more than this share of what the input can give will wait for it now and then.
_AMPLE = 0.8


def input_speed(batches, step, batch_size, seconds=5.0):
    """Images a second that the input gives while nothing is trained.

    Args:
        batches: object with `start_at(step)`.
        step: int >= 0, of the first batch.
        batch_size: int > 0.
        seconds: float > 0, how long to measure, after the first batch. Defaults to `5`.
    """
    stream = batches.start_at(step)
    next(stream)
    start = time.perf_counter()
    for count in itertools.count(1):
        next(stream)
        passed = time.perf_counter() - start
        if passed >= seconds:
            return count * batch_size / passed


def step_speed(train_step, images, identities, seconds=5.0):
    """Images a second that the device trains on where the input costs nothing. The weights change.

    Args:
        train_step: function of a batch that returns a dict of scalar tensors.
        images, identities: a batch.
        seconds: float > 0, how long to measure, after the first step. Defaults to `5`.
    """

    def step():
        # Fetched, as the device may be steps behind.
        return [float(value) for value in train_step(images, identities).values()]

    step()
    start = time.perf_counter()
    for count in itertools.count(1):
        step()
        passed = time.perf_counter() - start
        if passed >= seconds:
            return count * images.shape[0] / passed


def verdict(of_input, of_steps, share_processor):
    """What the two speeds mean.

    Args:
        of_input, of_steps: float > 0, images a second.
        share_processor: bool, the net computes on the processor that also decodes.

    Returns:
        str, a sentence.
    """
    speeds = f"the input gives {of_input:.0f} images/s, a step takes {of_steps:.0f} images/s: "
    share = of_steps / of_input
    if share_processor:
        return speeds + (
            f"both compute on the same processor, and about {share / (1 + share):.0%} of its time goes into "
            "the input"
        )
    if share > 1:
        return speeds + (
            f"the input starves the device, which will wait {1 - 1 / share:.0%} of the time; try more "
            "processor cores, data on a local disk, or --read sequential if its random reads are slow"
        )
    if share > _AMPLE:
        return speeds + "the input only just keeps up with the device"
    return speeds + f"the input is {1 / share:.1f} times as fast as the device"


# A SavedModel holds the weights, the kernels of convs once more with norms in them, and the graph: up to
# 12 MB with the nets that are here.
_GRAPH_BYTES = 12_000_000


class Preflight:
    """Checks data, labels, colours, memory and disk of a run that is about to start.

    Args:
        trainer: trains one step.
        batches: images of the run.
        checkpoints: checkpoints of the trainer's state.
        output: folders, and how many SavedModels there will be.
        first_step: steps done so far.
        max_steps: step to stop after.
    """

    def __init__(
        self,
        trainer: Trainer,
        batches: TrainingBatches,
        checkpoints: Checkpoints,
        output: OutputOptions,
        first_step: int,
        max_steps: int,
    ):
        self.trainer = trainer
        self.batches = batches
        self.checkpoints = checkpoints
        self.output = output
        self.first_step = first_step
        self.max_steps = max_steps
        self._batch = None

    def run(self, draw=True):
        """The part that takes a second or two; every run begins with it.

        Args:
            draw: bool, also fetch the first batch, check it and draw it to `first_batch.png`. Defaults
                to `True`.

        Raises:
            ValueError: labels out of range, no room on disk, a batch that cannot be read.
            OSError: a file that cannot be read or written.
        """
        for line in (*self._data(), self._memory(), *self._disk()):
            logger.info("%s", line)
        if draw:
            self._draw()

    def measure(self, seconds=5.0):
        """The part that takes longer: speeds of input and step.

        Changes the weights: for a run that ends here.

        Args:
            seconds: float > 0, for each of the two. Defaults to `5`.
        """
        images, identities = self._batch
        of_input = input_speed(self.batches, self.first_step, images.shape[0], seconds)
        of_steps = step_speed(self.trainer.train_step, images, identities, seconds)
        on_processor = not tf.config.list_logical_devices("GPU")
        logger.info("speed: %s", verdict(of_input, of_steps, on_processor))

    def _data(self):
        sources = self.batches.sources
        for number, manifest in enumerate(sources.manifests):
            order = "RGB" if number in self.batches.options.rgb_sources else "BGR"
            is_mirrored = "mirrored at random" if self.batches.options.mirror else "not mirrored"
            (height, width), (input_height, input_width) = manifest.image_size, self.batches.image_size
            yield (
                f"data: {manifest.source}: {manifest.num_images} images of {manifest.num_identities} "
                f"identities, {height}x{width}, in {len(manifest.shards)} shard(s) of "
                f"{readable_size(manifest.num_bytes)}; the net gets {order} of {input_height}x{input_width}, "
                f"{is_mirrored}"
            )

    def _memory(self):
        trainer = self.trainer
        num_replicas = trainer.strategy.num_replicas_in_sync
        size = self.batches.sampler.batch_size // num_replicas
        needs = step_memory(trainer.backbone, trainer.head, trainer.optimizer, size, num_replicas)
        if trainer.options.average is not None:
            needs["average"] = num_bytes(trainer.options.average.net.variables)
        parts = ", ".join(f"{name} {readable_size(value)}" for name, value in needs.items() if value)
        return (
            f"memory: at least {readable_size(sum(needs.values()))} for a step of {size} images on each of "
            f"{num_replicas} device(s): {parts}"
        )

    def _disk(self):
        trainer = self.trainer
        weights = num_bytes(trainer.backbone.variables)
        averaged = weights if trainer.options.average is not None else 0
        size = weights + averaged + num_bytes([*trainer.head.variables, *trainer.optimizer.variables])
        # One more than are kept, while it is being written.
        checkpoints = self._missing(NUM_KEPT + 1, self.checkpoints.folder.glob("step_*"))
        exports = num_exports(self.first_step, self.max_steps, self.output.ckpt_interval)
        models = min(
            exports, self._missing(self.output.saver_maxkeep + 1, self.output.saved_model_path.glob("iter_*"))
        )
        kernels = num_bytes(variable for variable in trainer.backbone.variables if len(variable.shape) == 4)
        model_size = weights + kernels + _GRAPH_BYTES
        return check_disk(
            [
                (
                    self.checkpoints.folder,
                    checkpoints * size,
                    f"{checkpoints} more checkpoint(s) of {readable_size(size)}",
                ),
                (
                    self.output.saved_model_path,
                    models * model_size,
                    f"{models} more SavedModel(s) of {readable_size(model_size)}",
                ),
            ]
        )

    def _missing(self, wanted, there):
        return max(0, wanted - len(list(there)))

    def _draw(self):
        sources = self.batches.sources
        stream = self.batches.start_at(self.first_step)
        self._batch = next(stream)
        stream.close()
        images, identities = (part.numpy() for part in self._batch)
        check_labels(identities, sources.num_identities)
        numbers = np.searchsorted(sources.label_offsets, identities, side="right") - 1
        labels = [
            f"{sources.manifests[number].source} {identity - sources.label_offsets[number]}"
            for number, identity in zip(numbers, identities, strict=True)
        ]
        path = self.output.summary_path / "first_batch.png"
        group = getattr(self.batches.sampler, "images_per_identity", 1)
        write_batch_picture(path, images, labels, group)
        logger.info(
            "first batch: %d images of %d identities, drawn to %s",
            len(images),
            len(np.unique(identities)),
            path,
        )


def check_labels(identities, num_identities):
    """Raises `ValueError` if an identity of a batch has no place in the loss layer.

    Args:
        identities: int array `(batch,)`.
        num_identities: int > 0.
    """
    out = (identities < 0) | (identities >= num_identities)
    if out.any():
        position = int(np.argmax(out))
        raise ValueError(
            f"image {position} of the first batch: expected an identity in [0, {num_identities}), "
            f"received {identities[position]}"
        )
