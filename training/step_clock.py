"""How fast a run is."""

import contextlib
import logging
import math
import time

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
