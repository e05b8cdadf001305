"""What the steps of a run gave, until it is shown."""

import math

import numpy as np


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
