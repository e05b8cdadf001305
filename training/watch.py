"""What keeps an eye on a run while it trains."""

import logging
import time
from pathlib import Path

from training.bad_step import write_bad_step
from training.embedding_watch import EmbeddingWatch
from training.step_profiler import StepProfiler

logger = logging.getLogger(__name__)


class Watch:
    """Counts, names and times what happens beside the training; changes nothing of it.

    Args:
        logs_path: folder for reports of steps that are not finite. Defaults to none, and no reports.
        max_minutes: float > 0, after which the run is to be stopped; `None` for never.
        profile_path: folder for a TensorBoard profile; `None` for none.

    Attributes:
        embeddings: `training.embedding_watch.EmbeddingWatch`, for the validations.

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
