"""Measures the progress of a run: speed, means of the loss terms, TensorBoard scalars."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import tensorflow as tf

from common.files import one_line

logger = logging.getLogger(__name__)


class StepClock:
    """Measures steps per second, leaving out validations and saves.

    Args:
        step: number of steps that are done.
    """

    def __init__(self, step: int):
        self._step = step
        self._start = time.perf_counter()
        self._rate = math.nan

    def steps_per_second(self, step: int) -> float:
        """Returns the rate since the last call, or the last rate if no step was done since then."""
        if step > self._step:
            now = time.perf_counter()
            self._rate = (step - self._step) / (now - self._start)
            self._step, self._start = step, now
        return self._rate

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time of the block out of the rate."""
        stopped = time.perf_counter()
        yield
        self._start += time.perf_counter() - stopped


class Progress:
    """Collects the terms of the steps without waiting for the device, and averages them."""

    def __init__(self) -> None:
        self._pending: list[dict[str, tf.Tensor]] = []  # terms still on the device
        self._fetched: dict[str, list[dict[str, float]]] = {"show": [], "summarise": []}  # by purpose

    def add(self, terms: dict[str, tf.Tensor]) -> None:
        """Takes the scalar tensors of one step without waiting for them."""
        self._pending.append(terms)

    def fetch(self, step: int) -> tuple[int, dict[str, float], str] | None:
        """Fetches all pending terms at once, so that the device does not wait after every step.

        Args:
            step: number of the step that was added last.

        Returns:
            `(step, terms, name)` of the first step whose `loss` or `gradient_norm` is not finite, where
            `name` is that term; `None` if all are finite.
        """
        first = step - len(self._pending) + 1
        fetched = [{name: float(value) for name, value in terms.items()} for terms in self._pending]
        self._pending = []
        for number, terms in enumerate(fetched, first):
            for name in ("loss", "gradient_norm"):
                if not math.isfinite(terms[name]):
                    return number, terms, name
        for purpose in self._fetched:
            self._fetched[purpose] += fetched
        return None

    def means(self, purpose: Literal["show", "summarise"]) -> dict[str, float]:
        """Returns the means over the steps fetched since the last call for the same purpose.

        `weight_decay` is the mean over the steps that computed it, often only the last one. `total` is the
        mean of `loss` plus that of `weight_decay`.
        """
        steps, self._fetched[purpose] = self._fetched[purpose], []
        values: dict[str, list[float]] = {}
        for terms in steps:
            for name, value in terms.items():
                values.setdefault(name, []).append(value)
        means = {name: float(np.mean(found)) for name, found in values.items()}
        if "weight_decay" in means:
            means["total"] = means["loss"] + means["weight_decay"]
        return means


class Summaries:
    """Writes TensorBoard scalars to disk at once. If the disk is full, points are lost but the run continues.

    The error is logged once, and again only if a later write succeeded in between.

    Args:
        folder: created if it is missing.

    Raises:
        OSError: nothing can be written there.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._has_failed = False
        try:
            self._writer = tf.summary.create_file_writer(str(folder))
        except tf.errors.OpError as error:
            raise OSError(f"{folder}: cannot write TensorBoard logs: {one_line(error.message)}") from None

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Writes one point of each scalar."""
        try:
            with self._writer.as_default(step=step):
                for name, value in scalars.items():
                    tf.summary.scalar(name, value)
            self._writer.flush()
            self._has_failed = False
        except tf.errors.OpError as error:
            if not self._has_failed:
                problem = one_line(error.message)
                logger.error("step %d: %s: cannot write TensorBoard logs: %s", step, self.folder, problem)
            self._has_failed = True


def log_first_step(train_step: Callable) -> Callable:
    """Wraps a training step so that it logs the duration of its first call, which traces the graph."""
    is_first = True

    def step(*batch, **options):
        nonlocal is_first
        start = time.perf_counter()
        terms = train_step(*batch, **options)
        if is_first:
            is_first = False
            float(terms["loss"])  # waits for the device
            logger.info("First step: %.1f s (includes graph tracing)", time.perf_counter() - start)
        return terms

    return step


def progress_lines(start: str, parts: Iterable[str], width: int = 139) -> list[str]:
    """Joins parts into lines that all begin with `start`, of at most `width` characters where possible."""
    lines = [start]
    for part in parts:
        if len(lines[-1]) + 2 + len(part) > width and lines[-1] != start:
            lines.append(start)
        lines[-1] += f"  {part}"
    return lines


def format_duration(seconds: float) -> str:
    """Formats seconds as `hours:minutes:seconds`."""
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
