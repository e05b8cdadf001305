"""Warnings, reports, time limit and profile of a training run. Nothing here changes the training."""

from __future__ import annotations

import contextlib
import logging
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from common.files import write_file

logger = logging.getLogger(__name__)

# The profiled steps, counted from 1 in this process: the steps before them trace graphs and fill buffers.
FIRST_PROFILED, LAST_PROFILED = 10, 20

# Root mean square cosine of different images above which a net has collapsed. Untrained nets have 0.78 to
# 0.84 (ir32, ir50, iresnet18 on LFW), trained nets 0.3 to 0.4; 1 means one line for all images. At 0.99
# images lie within 8 degrees of one line, too close to be told apart.
COLLAPSED = 0.99

# Embeddings that are compared with each other: enough for three digits of the mean.
_MAX_COMPARED = 1000

_MIN_LENGTH = 1e-6  # shorter embeddings count as zero


class RunMonitor:
    """Reports bad steps, bad images and failed validations, and keeps the time limit.

    Args:
        logs_path: folder for reports of steps that are not finite. Defaults to no reports.
        max_minutes: time limit of the run, greater than 0. Defaults to no limit.
        profile_path: folder for a TensorBoard profile. Defaults to no profile.

    Attributes:
        embeddings: `EmbeddingMonitor` of the validation sets.
    """

    def __init__(
        self,
        logs_path: Path | None = None,
        max_minutes: float | None = None,
        profile_path: Path | None = None,
    ):
        self.logs_path = logs_path
        self.max_minutes = max_minutes
        self.embeddings = EmbeddingMonitor()
        self._profiler = None if profile_path is None else StepProfiler(profile_path)
        self._start = time.monotonic()
        self._num_logged = 0
        self._num_failures: dict[str, int] = {}

    def is_time_up(self) -> bool:
        """Tells whether the time limit has passed, counted from the construction of this object."""
        return self.max_minutes is not None and time.monotonic() - self._start >= 60 * self.max_minutes

    def profile(self, train_step: Callable) -> Callable:
        """Returns the same function, with the profiler around it if there is one."""
        return train_step if self._profiler is None else self._profiler.wrap(train_step)

    def close(self) -> None:
        """Ends a profile if the run stopped in the middle of it."""
        if self._profiler is not None:
            self._profiler.close()

    def report_bad_step(self, step: int, terms: dict[str, float], batches: Any) -> str:
        """Writes which images a step was made of; returns a sentence for the error, or an empty string."""
        if self.logs_path is None or not hasattr(batches, "records_of"):
            return ""
        try:
            path = write_bad_step(self.logs_path, step, terms, batches)
        except OSError as error:
            return f" The images of the step cannot be listed: {error}."
        return f" The images of the step are listed in {path}."

    def log_bad_images(self, step: int, batches: Any) -> None:
        """Logs every bad image of the batches that was not logged before."""
        bad_images = list(getattr(batches, "bad_images", {}).values())
        for reason in bad_images[self._num_logged :]:
            logger.warning("step %d  bad image, replaced by another one: %s", step, reason)
        if len(bad_images) > self._num_logged:
            logger.warning("step %d  %d bad image(s) so far", step, len(bad_images))
        self._num_logged = len(bad_images)

    def scalars(self, batches: Any) -> dict[str, float]:
        """Returns the scalars about the batches for TensorBoard."""
        return {"data/bad_images": len(getattr(batches, "bad_images", {}))}

    def log_embeddings(self, step: int, name: str) -> dict[str, float]:
        """Logs what is wrong with the newest embeddings of a validation set; returns their scalars."""
        for warning in self.embeddings.warnings(name):
            logger.warning("step %d  %s", step, warning)
        return self.embeddings.scalars(name)

    def log_failed_validation(self, step: int, name: str, error: Exception) -> dict[str, float]:
        """Logs a validation that failed; returns scalars for TensorBoard."""
        self._num_failures[name] = self._num_failures.get(name, 0) + 1
        logger.warning(
            "step %d  validation on %s failed, %d time(s) so far. Training continues; models keep the last "
            "score in their names. %s",
            step,
            name,
            self._num_failures[name],
            error,
        )
        return {f"validation/{name}_failures": self._num_failures[name]}


class EmbeddingMonitor:
    """Measures whether the embeddings of the validation sets have collapsed.

    The measure is the root mean square of the cosines of all pairs of different images. It is 1 if all
    embeddings are equal, also if only their signs differ, which the mean of the cosines would not show.
    """

    def __init__(self) -> None:
        self._rms_cosines: dict[str, float] = {}
        self._num_zero: dict[str, int] = {}
        self._num_images: dict[str, int] = {}

    def measure(self, name: str, embeddings: np.ndarray) -> None:
        """Measures the embeddings of one validation set.

        Args:
            name: name of the set.
            embeddings: float `(num_images, dim)`, finite, not normalised; at least two images.
        """
        lengths = np.linalg.norm(embeddings.astype(np.float64), axis=1)
        self._num_images[name] = len(embeddings)
        self._num_zero[name] = int(np.count_nonzero(lengths < _MIN_LENGTH))
        num_rows = min(_MAX_COMPARED, len(embeddings))
        rows = np.unique(np.linspace(0, len(embeddings) - 1, num_rows).astype(int))
        directions = embeddings[rows].astype(np.float64) / np.maximum(lengths[rows], _MIN_LENGTH)[:, None]
        cosines = (directions @ directions.T)[np.triu_indices(len(rows), 1)]
        self._rms_cosines[name] = float(np.sqrt(np.square(cosines).mean()))

    def scalars(self, name: str) -> dict[str, float]:
        """Returns scalars for TensorBoard; none if the set was not measured."""
        if name not in self._num_images:
            return {}
        return {
            f"validation/{name}_rms_cosine": self._rms_cosines[name],
            f"validation/{name}_zero_embeddings": self._num_zero[name],
        }

    def warnings(self, name: str) -> list[str]:
        """Returns what is wrong with the newest embeddings of a set."""
        found = []
        if self._rms_cosines.get(name, 0.0) > COLLAPSED:
            found.append(
                f"{name}: all embeddings are nearly equal. Two different images have a cosine of "
                f"{self._rms_cosines[name]:.4f} (root mean square; an untrained net has about 0.8, a trained "
                "net 0.3). Such a net cannot tell people apart. Try a lower learning rate, --warmup_steps, "
                "--clip_norm, for triplets --mining batch_all, or a start from a trained net. Check "
                "first_batch.png: does it show faces with the right labels?"
            )
        if self._num_zero.get(name):
            found.append(
                f"{name}: {self._num_zero[name]} of {self._num_images[name]} embeddings are zero. They have "
                "no direction and are scored as unlike everything."
            )
        return found


class StepProfiler:
    """Profiles steps 10 to 20 of this process, both included.

    Args:
        folder: the profile goes to `plugins/profile` in it, where TensorBoard's profile plugin
            (`pip install tensorboard-plugin-profile`) looks for it.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._num_steps = 0
        self._is_on = False

    def wrap(self, train_step: Callable) -> Callable:
        """Returns a function that counts its calls, profiles some of them, and calls `train_step`."""

        def step(images, identities):
            self._num_steps += 1
            if self._num_steps == FIRST_PROFILED:
                tf.profiler.experimental.start(str(self.folder))
                self._is_on = True
            with tf.profiler.experimental.Trace("train", step_num=self._num_steps, _r=1):
                terms = train_step(images, identities)
            if self._num_steps == LAST_PROFILED:
                for value in terms.values():
                    float(value)  # waits: the device may be steps behind
                self.close()
            return terms

        return step

    def close(self) -> None:
        """Writes the profile if one is being taken."""
        if self._is_on:
            tf.profiler.experimental.stop()
            self._is_on = False
            logger.info("Profile of steps %d to %d: %s", FIRST_PROFILED, self._num_steps, self.folder)


class StopSignals:
    """Notes SIGINT and SIGTERM. A second signal ends the program at once.

    Attributes:
        received: number of the first signal, or `None`.
    """

    def __init__(self) -> None:
        self.received: int | None = None

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        """Notes signals inside the block. After it they act as before."""

        def handle(number, _frame):
            if self.received is not None:
                raise KeyboardInterrupt
            self.received = number

        handlers = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)


def first_non_finite(variables: Iterable[keras.Variable]) -> str | None:
    """Finds NaN and infinity in weights.

    The loss can be finite while weights are not: training does not use the moving statistics of batch
    normalisation.

    Returns:
        Path of the first variable that holds NaN or infinity, or `None`.
    """
    for variable in variables:
        value = tf.convert_to_tensor(variable)
        if value.dtype.is_floating and not bool(tf.reduce_all(tf.math.is_finite(value))):
            return variable.path
    return None


def write_bad_step(folder: Path, step: int, terms: dict[str, float], batches: Any) -> Path:
    """Writes which images a step was made of.

    They follow from the data, the seed and the step: nothing was stored for this report.

    Args:
        folder: created if it is missing.
        step: number of the step as in the log, counted from 1; its batch is `step - 1`.
        terms: the terms that the step returned.
        batches: `dataset.pipeline.TrainingBatches`.

    Returns:
        Path of the file, `nan_step_{step:08d}.txt`.

    Raises:
        OSError: the file cannot be written.
    """
    path = folder / f"nan_step_{step:08d}.txt"
    lines = [f"Step {step} (batch {step - 1}, counted from 0) returned:", ""]
    lines += [f"  {name} {value:.6g}" for name, value in terms.items()]
    lines += ["", "Its images, in the order of the batch:", ""]
    try:
        for position, record in enumerate(batches.records_of(step - 1)):
            text = "record not found" if record is None else f"{record}, identity {record.identity}"
            lines.append(f"  {position:4d}  {text}")
    except (ValueError, OSError, tf.errors.OpError) as error:
        lines.append(f"  The images cannot be listed: {error}")
    if batches.bad_images:
        lines += ["", "If one of these bad images was drawn, another image of the batch replaced it:", ""]
        lines += [f"  {reason}" for reason in batches.bad_images.values()]
    write_file(path, "\n".join(lines) + "\n")
    return path
