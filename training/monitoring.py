"""Watches a training run without changing it: warnings, reports, time limit, profile."""

from __future__ import annotations

import contextlib
import logging
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from common.files import write_file
from dataset.pipeline import TrainingBatches

logger = logging.getLogger(__name__)

# The profiled steps, counted from 1 in this process. Earlier steps trace graphs and fill buffers.
FIRST_PROFILED, LAST_PROFILED = 10, 20

# A net has collapsed if the root mean square cosine of different images is above this. Untrained nets have
# 0.78 to 0.84 (ir32, ir50, iresnet18 on LFW), trained nets 0.3 to 0.4. At 1 all embeddings lie on one line.
# At 0.99 they lie within 8 degrees of one line, too close to be told apart.
COLLAPSED = 0.99

# The number of embeddings that are compared with each other. It is enough for three digits of the mean.
_MAX_COMPARED = 1000

_MIN_LENGTH = 1e-6  # shorter embeddings count as zero


class RunMonitor:
    """Watches the time limit, and logs bad images and failed validations.

    Args:
        max_minutes: time limit in minutes, counted from now; greater than 0, or `None` for no limit.
    """

    def __init__(self, max_minutes: float | None):
        self.max_minutes = max_minutes
        self._start = time.monotonic()
        self._num_logged = 0
        self._num_failures: dict[str, int] = {}

    def is_time_up(self) -> bool:
        """Tells whether the time limit has passed."""
        return self.max_minutes is not None and time.monotonic() - self._start >= 60 * self.max_minutes

    def log_bad_images(self, step: int, batches: TrainingBatches) -> None:
        """Logs the bad images that were found since the last call."""
        bad_images = list(batches.bad_images.values())
        for reason in bad_images[self._num_logged :]:
            logger.warning("step %d  bad image, replaced by another one: %s", step, reason)
        if len(bad_images) > self._num_logged:
            logger.warning("step %d  %d bad image(s) so far", step, len(bad_images))
        self._num_logged = len(bad_images)

    def log_failed_validation(self, step: int, name: str, error: Exception) -> dict[str, float]:
        """Logs a failed validation, and returns its scalars for TensorBoard."""
        self._num_failures[name] = count = self._num_failures.get(name, 0) + 1
        logger.warning(
            "step %d  validation on %s failed, %d time(s) so far. Training continues; models keep the last "
            "score in their names. %s",
            *(step, name, count, error),
        )
        return {f"validation/{name}_failures": count}


def check_embeddings(name: str, embeddings: np.ndarray) -> tuple[dict[str, float], list[str]]:
    """Measures whether the embeddings of a validation set have collapsed.

    The measure is the root mean square of the cosines of all pairs of different images. It is 1 if all
    embeddings are equal up to their signs. The mean of the cosines would not show different signs.

    Args:
        name: name of the validation set.
        embeddings: float `(num_images, dim)`, finite, not normalised; at least two images.

    Returns:
        `(scalars, warnings)`: values for TensorBoard, and a sentence for each problem.
    """
    lengths = np.linalg.norm(embeddings.astype(np.float64), axis=1)
    num_zero = int(np.count_nonzero(lengths < _MIN_LENGTH))
    num_rows = min(_MAX_COMPARED, len(embeddings))
    rows = np.unique(np.linspace(0, len(embeddings) - 1, num_rows).astype(int))
    directions = embeddings[rows].astype(np.float64) / np.maximum(lengths[rows], _MIN_LENGTH)[:, None]
    cosines = (directions @ directions.T)[np.triu_indices(len(rows), 1)]
    rms_cosine = float(np.sqrt(np.square(cosines).mean()))
    warnings = []
    if rms_cosine > COLLAPSED:
        warnings.append(
            f"{name}: all embeddings are nearly equal. Two different images have a cosine of "
            f"{rms_cosine:.4f} (root mean square; an untrained net has about 0.8, a trained "
            "net 0.3). Such a net cannot tell people apart. Try a lower learning rate, --warmup_steps, "
            "--clip_norm, for triplets --mining batch_all, or a start from a trained net. Check "
            "first_batch.png: does it show faces with the right labels?"
        )
    if num_zero:
        warnings.append(
            f"{name}: {num_zero} of {len(embeddings)} embeddings are zero. They have "
            "no direction, so they count as different from every other image."
        )
    prefix = f"validation/{name}"
    return {f"{prefix}_rms_cosine": rms_cosine, f"{prefix}_zero_embeddings": num_zero}, warnings


@contextlib.contextmanager
def profiled(train_step: Callable, folder: Path | None) -> Iterator[Callable]:
    """Yields a function that calls `train_step` and profiles calls 10 to 20, inclusive.

    Args:
        train_step: function that trains one step.
        folder: folder for the profile. It is written to `plugins/profile`, where TensorBoard's profile plugin
            (`pip install tensorboard-plugin-profile`) looks for it. `None` profiles nothing.
    """
    num_steps = 0

    def stop():
        tf.profiler.experimental.stop()
        logger.info("Profile of steps %d to %d: %s", FIRST_PROFILED, num_steps, folder)

    def step(*batch, **options):
        nonlocal num_steps
        num_steps += 1
        if num_steps == FIRST_PROFILED:
            tf.profiler.experimental.start(str(folder))
            profile.callback(stop)
        with tf.profiler.experimental.Trace("train", step_num=num_steps, _r=1):
            terms = train_step(*batch, **options)
        if num_steps == LAST_PROFILED:
            for value in terms.values():
                float(value)  # waits: the device may be steps behind
            profile.close()
        return terms

    with contextlib.ExitStack() as profile:
        yield train_step if folder is None else step


class StopSignals:
    """Records SIGINT and SIGTERM. A second signal ends the program at once.

    Attributes:
        received: number of the first signal, or `None`.
    """

    def __init__(self) -> None:
        self.received: int | None = None

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        """Records signals that arrive inside the block. After the block they act as before."""

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
    """Returns the path of the first variable that holds NaN or infinity, or `None`.

    The loss can be finite while weights are not: training does not use the moving statistics of batch
    normalisation.
    """
    for variable in variables:
        value = tf.convert_to_tensor(variable)
        if value.dtype.is_floating and not bool(tf.reduce_all(tf.math.is_finite(value))):
            return variable.path
    return None


def write_bad_step(folder: Path, step: int, terms: dict[str, float], batches: TrainingBatches) -> str:
    """Lists the images of a step in `nan_step_{step:08d}.txt`.

    The images follow from the data, the seed and the step, so nothing has to be stored for this report.

    Args:
        folder: folder of the file.
        step: number of the step as in the log, counted from 1; its batch is `step - 1`.
        terms: the terms that the step returned.
        batches: the training data.

    Returns:
        A sentence for the error that ends the run.
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
    try:
        write_file(path, "\n".join(lines) + "\n")
    except OSError as error:
        return f"The images of the step cannot be listed: {error}."
    return f"The images of the step are listed in {path}."
