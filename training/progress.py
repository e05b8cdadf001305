"""What the steps of a run gave, until it is shown."""

import contextlib
import dataclasses
import logging
import math
import time

import numpy as np
import tensorflow as tf

logger = logging.getLogger(__name__)


class StepClock:
    """Steps per second since it was last asked, validations and savings left out.

    Args:
        step: int, steps done when it is made.
    """

    def __init__(self, step):
        self._step = step
        self._start = time.perf_counter()
        self._rate = math.nan

    def steps_per_second(self, step):
        """The rate up to `step`; that of the last time if no step was done since."""
        if step > self._step:
            now = time.perf_counter()
            self._rate = (step - self._step) / (now - self._start)
            self._step, self._start = step, now
        return self._rate

    @contextlib.contextmanager
    def paused(self):
        """What is done in this context takes no time."""
        stopped = time.perf_counter()
        yield
        self._start += time.perf_counter() - stopped


def first_step_timed(train_step):
    """The same function, which logs how long its first call took: it traces the graph."""
    is_first = True

    def step(images, identities):
        nonlocal is_first
        if not is_first:
            return train_step(images, identities)
        is_first = False
        start = time.perf_counter()
        terms = train_step(images, identities)
        float(terms["total"])  # the device may be behind
        logger.info("first step, with what is done once: %.1f s", time.perf_counter() - start)
        return terms

    return step


def first_not_finite(variables):
    """Finds NaN and infinity in weights.

    A loss can be finite while they are not: the moving statistics of batch normalisation are not used
    in training.

    Args:
        variables: iterable of Keras variables, of any dtype.

    Returns:
        str, the path of the first variable that is not finite throughout; `None` if there is none.
    """
    for variable in variables:
        value = tf.convert_to_tensor(variable)
        if value.dtype.is_floating and not bool(tf.reduce_all(tf.math.is_finite(value))):
            return variable.path
    return None


@dataclasses.dataclass(frozen=True)
class Intervals:
    """Steps between two of each; all > 0.

    Attributes:
        show_info: progress lines.
        summary: TensorBoard scalars.
        validate: validations.
        save: checkpoints to go on from.
        export: SavedModels that are written whatever their score.

    Raises:
        ValueError: one of them is less than 1.
    """

    show_info: int
    summary: int
    validate: int
    save: int
    export: int

    def __post_init__(self):
        for name, value in vars(self).items():
            if value < 1:
                raise ValueError(f"interval {name}: expected at least 1 step, received {value}")

    def due(self, step):
        """Which are due after `step` steps: dict from names to bool."""
        return {name: step % interval == 0 for name, interval in vars(self).items()}


class Progress:
    """Terms of the steps: fetched all at once, and averaged for log lines and for TensorBoard."""

    def __init__(self):
        self._pending = []  # terms that have not been looked at yet
        self._shown = []
        self._summarised = []

    def add(self, terms):
        """Takes what a step gave, dict from names to scalar tensors, without waiting for it."""
        self._pending.append(terms)

    def look(self, step):
        """Fetches what the last steps gave, all at once so that the device is not held up in between.

        Args:
            step: int, the one that `add` was called for last.

        Returns:
            `(step, terms, name)` of the first one whose loss or gradient, called `name`, is not finite;
            `None` if all are.
        """
        first = step - len(self._pending) + 1
        looked_at = [{name: float(value) for name, value in terms.items()} for terms in self._pending]
        self._pending = []
        for number, terms in enumerate(looked_at, first):
            for name in ("total", "gradient_norm"):
                if not math.isfinite(terms[name]):
                    return number, terms, name
        self._shown += looked_at
        self._summarised += looked_at
        return None

    def shown(self):
        """Means since this was called last, of the steps that were looked at: dict from names to float."""
        steps, self._shown = self._shown, []
        return _means(steps)

    def summarised(self):
        """The same as `shown`, of its own."""
        steps, self._summarised = self._summarised, []
        return _means(steps)


def duration(seconds):
    """Seconds as `hours:minutes:seconds`."""
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


def _means(steps):
    return {name: float(np.mean([terms[name] for terms in steps])) for name in steps[0]} if steps else {}
