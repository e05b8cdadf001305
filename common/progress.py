"""Shows the progress of long work: as a bar on a terminal, as log lines elsewhere."""

import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

from tqdm import tqdm

logger = logging.getLogger(__name__)

LOG_SECONDS = 30.0  # between log lines
_COLUMNS, _ROWS = 80, 20  # for a terminal that reports no size; tqdm would show nothing there


class Progress(tqdm):
    """Shows the number of finished items, the items per second, and the time left.

    On a terminal this is a bar that disappears at the end. Elsewhere it is a log line every 30 seconds.

    Args:
        iterable: yields the items, which are counted as they are used. Without it, call `update`.
        desc: the task, such as `"embedding"`.
        unit: name of the items, such as `"frames"`.
        total: number of items. Defaults to the length of `iterable`.
        initial: number of items that an earlier run finished. Defaults to `0`.
        shown: whether to show anything. Defaults to `True`.
    """

    def __init__(
        self,
        iterable: Iterable | None = None,
        *,
        desc: str,
        unit: str,
        total: int | None = None,
        initial: int = 0,
        shown: bool = True,
    ) -> None:
        super().__init__(
            iterable,
            desc,
            total,
            leave=False,
            ncols=_columns(),
            nrows=_ROWS,
            disable=None if shown else True,
            unit=f" {unit}",
            initial=initial,
        )
        self._is_logged = shown and self.disable
        self._desc, self._unit, self._initial = desc, unit, initial
        self._started = self._logged = time.monotonic()

    def __iter__(self) -> Iterator[Any]:
        for item in self.iterable:
            yield item
            self.update()
        self.close()

    def update(self, n: float | None = 1) -> bool | None:
        """Counts `n` more items as finished."""
        if not self.disable:
            return super().update(n)
        self.n += n or 0
        now = time.monotonic()
        if self._is_logged and now - self._logged >= LOG_SECONDS:
            self._logged = now
            logger.info(self._line(now - self._started))
        return None

    def _line(self, seconds: float) -> str:
        rate = (self.n - self._initial) / seconds
        left = self.format_interval((self.total - self.n) / rate) if rate else "?"
        return f"{self._desc}: {self.n} of {self.total} {self._unit}, {rate:.3g} {self._unit}/s, {left} left"


def _columns() -> int | None:
    """Returns the width of the terminal, or `None` if there is no terminal."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or _COLUMNS
    except (OSError, ValueError):
        return None
