"""What keeps an eye on a run while it trains."""

import logging
import time
from pathlib import Path

import numpy as np
import tensorflow as tf

from common.files import atomic_file

logger = logging.getLogger(__name__)


# Steps of this run, counted from 1: the first ones trace graphs and fill buffers.
FIRST, LAST = 10, 20


class StepProfiler:
    """Profiles steps 10 to 20 of a run, those two included. Changes no result.

    Args:
        folder: the profile is written to `plugins/profile` in it, where TensorBoard's profile plugin
            (`pip install tensorboard-plugin-profile`) looks for it.
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        self._count = 0
        self._is_on = False

    def wrap(self, train_step):
        """The same function from a batch to terms; the steps of this run are counted through it."""

        def step(images, identities):
            self._count += 1
            if self._count == FIRST:
                tf.profiler.experimental.start(str(self.folder))
                self._is_on = True
            with tf.profiler.experimental.Trace("train", step_num=self._count, _r=1):
                terms = train_step(images, identities)
            if self._count == LAST:
                for value in terms.values():
                    float(value)  # the device may be steps behind
                self.close()
            return terms

        return step

    def close(self):
        """Writes the profile, if one is being taken."""
        if self._is_on:
            tf.profiler.experimental.stop()
            self._is_on = False
            logger.info("profile of steps %d to %d of this run: %s", FIRST, self._count, self.folder)


# Root mean square cosine of different images over which a net has collapsed. Untrained nets have 0.78 to
# 0.84 (ir32, ir50, iresnet18 on LFW), trained ones 0.3 to 0.4, and 1 is the same line for all images. At
# 0.99 images lie within 8 degrees of one line, less than rounding to bfloat16 and the margin can part.
COLLAPSED = 0.99


# Embeddings that are compared with each other: enough for three digits of a mean.
_MOST_ROWS = 1000


_SHORTEST = 1e-6


class EmbeddingWatch:
    """Looks at the embeddings of every validation.

    The measure is the root mean square of the cosines of all pairs of different images: 1 where
    all embeddings are alike, and also where they are alike but for the sign, which a mean of the
    cosines does not show.
    """

    def __init__(self):
        self._rms_cosines = {}
        self._num_zero = {}
        self._sizes = {}

    def look(self, name, embeddings):
        """Measures the embeddings of one validation set.

        Args:
            name: str, of the set.
            embeddings: float `(num_images, dim)`, finite, not normalised; at least two of them.
        """
        lengths = np.linalg.norm(embeddings.astype(np.float64), axis=1)
        self._sizes[name] = len(embeddings)
        self._num_zero[name] = int(np.count_nonzero(lengths < _SHORTEST))
        rows = np.unique(np.linspace(0, len(embeddings) - 1, min(_MOST_ROWS, len(embeddings))).astype(int))
        directions = embeddings[rows].astype(np.float64) / np.maximum(lengths[rows], _SHORTEST)[:, None]
        cosines = (directions @ directions.T)[np.triu_indices(len(rows), 1)]
        self._rms_cosines[name] = float(np.sqrt(np.square(cosines).mean()))

    def scalars(self, name):
        """For TensorBoard: dict from str to float, empty if `look` has not seen the set."""
        if name not in self._sizes:
            return {}
        return {
            f"validation/{name}_rms_cosine": self._rms_cosines[name],
            f"validation/{name}_zero_embeddings": self._num_zero[name],
        }

    def warnings(self, name):
        """What is wrong with the newest embeddings of a set, in plain words: list of str."""
        found = []
        if self._rms_cosines.get(name, 0.0) > COLLAPSED:
            found.append(
                f"{name}: all embeddings are nearly alike: two different images have a cosine of "
                f"{self._rms_cosines[name]:.4f} (root mean square; an untrained net has about 0.8, a trained "
                "one 0.3). Such a net tells nobody apart. Try a lower learning rate, --warmup_steps or "
                "--clip_norm; for triplets --mining batch_all or a start from a trained net; and look at "
                "first_batch.png: are these faces, and are the labels right?"
            )
        if self._num_zero.get(name):
            found.append(
                f"{name}: {self._num_zero[name]} of {self._sizes[name]} embeddings are zero: they have no "
                "direction, and are scored as unlike everything"
            )
        return found


def write_bad_step(folder, step, terms, batches):
    """Writes which images a step was made of, so that they can be looked at.

    Batch `k` follows from the data, the seed and `k`: nothing has been kept for this.

    Args:
        folder: Path; made if it is not there.
        step: int > 0, counted as in the log: its batch is `step - 1`.
        terms: dict from str to float, what the step gave.
        batches: `dataset.pipeline.TrainingBatches`.

    Returns:
        Path of the file, `nan_step_{step:08d}.txt`.

    Raises:
        OSError: it cannot be written.
    """
    path = folder / f"nan_step_{step:08d}.txt"
    lines = [f"step {step}, which is batch {step - 1} counted from 0, gave", ""]
    lines += [f"  {name} {value:.6g}" for name, value in terms.items()]
    lines += ["", "It was made of these images, in this order:", ""]
    try:
        for position, place in enumerate(batches.records_of(step - 1)):
            what = (
                "a record that is not found again" if place is None else f"{place}, identity {place.identity}"
            )
            lines.append(f"  {position:4d}  {what}")
    except (ValueError, OSError, tf.errors.OpError) as error:
        lines.append(f"  they cannot be found out: {error}")
    if batches.bad_images:
        lines += ["", "Where one of these was among them, another image of the batch stood in its place:", ""]
        lines += [f"  {reason}" for reason in batches.bad_images.values()]
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        file.write(("\n".join(lines) + "\n").encode())
    return path


class Watch:
    """Counts, names and times what happens beside the training; changes nothing of it.

    Args:
        logs_path: folder for reports of steps that are not finite. Defaults to none, and no reports.
        max_minutes: float > 0, after which the run is to be stopped; `None` for never.
        profile_path: folder for a TensorBoard profile; `None` for none.

    Attributes:
        embeddings: `training.monitoring.EmbeddingWatch`, for the validations.

    Raises:
        ValueError: `max_minutes` is not positive.
    """

    def __init__(self, logs_path=None, max_minutes=None, profile_path=None):
        if max_minutes is not None and not max_minutes > 0:
            raise ValueError(f"--max_minutes: expected more than 0, received {max_minutes}")
        self.logs_path = None if logs_path is None else Path(logs_path)
        self.max_minutes = max_minutes
        self.embeddings = EmbeddingWatch()
        self._profiler = None if profile_path is None else StepProfiler(profile_path)
        self._start = time.monotonic()
        self._num_warned = 0
        self._failures = {}

    def is_over(self):
        """Whether the time is up; it runs from when the watch was made."""
        return self.max_minutes is not None and time.monotonic() - self._start >= 60 * self.max_minutes

    def profiled(self, train_step):
        """The same function, which is profiled if that was asked for."""
        return train_step if self._profiler is None else self._profiler.wrap(train_step)

    def close(self):
        """Ends a profile that the run was too short for."""
        if self._profiler is not None:
            self._profiler.close()

    def report_bad_step(self, step, terms, batches):
        """Writes which images made a step that is not finite; returns half a sentence for the error."""
        if self.logs_path is None or not hasattr(batches, "records_of"):
            return ""
        try:
            path = write_bad_step(self.logs_path, step, terms, batches)
        except OSError as error:
            return f"the images of the step cannot be listed: {error}; "
        return f"the images of the step are listed in {path}; "

    def warn_of_bad_images(self, step, batches):
        """Logs every bad image of the batches that was not logged before."""
        bad = list(getattr(batches, "bad_images", {}).values())
        for reason in bad[self._num_warned :]:
            logger.warning("step %d  bad image, another one is trained on in its place: %s", step, reason)
        if len(bad) > self._num_warned:
            logger.warning("step %d  %d bad image(s) so far", step, len(bad))
        self._num_warned = len(bad)

    def scalars(self, batches):
        """For TensorBoard: dict from str to float."""
        return {"data/bad_images": len(getattr(batches, "bad_images", {}))}

    def warn_of_embeddings(self, step, name):
        """Logs what is wrong with the newest embeddings of a validation set; returns scalars of them."""
        for warning in self.embeddings.warnings(name):
            logger.warning("step %d  %s", step, warning)
        return self.embeddings.scalars(name)

    def validation_failed(self, step, name, error):
        """Logs a validation that could not be done; returns scalars."""
        self._failures[name] = self._failures.get(name, 0) + 1
        logger.warning(
            "step %d  validation on %s failed, %d time(s) so far; training goes on, and models keep its last "
            "score in their names: %s",
            step,
            name,
            self._failures[name],
            error,
        )
        return {f"validation/{name}_failures": self._failures[name]}
