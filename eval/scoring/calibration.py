"""Measures similarity thresholds for chosen false accept rates on a set of pairs.

A pair is accepted if `similarity >= threshold`. FAR is the fraction of the impostor pairs that are accepted,
and TAR is the fraction of the genuine pairs that are accepted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from eval.scoring.metrics import bootstrap_intervals, tar_name
from eval.scoring.templates import POOLINGS

KINDS = ("single", "template")
FARS = (1e-1, 1e-2, 1e-3, 1e-4)
MIN_PAIRS = 10  # of each kind; the largest of the FARs needs this many impostor pairs

_PER_DECADE = 10
_QUANTILES = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class ThresholdRow:
    """A row of the threshold table.

    Attributes:
        far: the requested FAR.
        threshold: pairs with at least this similarity are accepted.
        tar: the TAR at this threshold.
        interval: 95 % confidence interval of the TAR at this FAR.
    """

    far: float
    threshold: float
    tar: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Curve:
    """Thresholds and TARs on a grid of FARs, from 1 down to the smallest measured FAR, then at 0."""

    far: tuple[float, ...]
    threshold: tuple[float, ...]
    tar: tuple[float, ...]

    def __post_init__(self) -> None:
        lengths = {len(self.far), len(self.threshold), len(self.tar)}
        if len(lengths) != 1 or lengths == {0}:
            raise ValueError("far, threshold and tar: expected equally many numbers, and at least one")
        if any(np.diff(self.far) >= 0) or self.far[0] > 1 or self.far[-1] != 0:
            raise ValueError("far: expected numbers that fall from at most 1 to 0")
        if any(np.diff(self.threshold) < 0):
            raise ValueError("threshold: expected numbers that grow as far falls")


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold, and the rates that were measured with it.

    Attributes:
        asked_far: the requested FAR.
        far: the FAR on the curve at this threshold, at most `asked_far`; 0 if no impostor pair is accepted.
        threshold: pairs with at least this similarity are accepted.
        tar: the TAR at this threshold.
        note: a sentence if there are too few pairs to measure `asked_far`.
    """

    asked_far: float
    far: float
    threshold: float
    tar: float
    note: str | None = None


@dataclass(frozen=True)
class Calibration:
    """The thresholds of a model, measured on one set of pairs. It can be stored as JSON.

    Attributes:
        kind: `"single"` for images, `"template"` for pooled frames of videos.
        set: name of the set.
        flip: whether the embeddings of mirror images were added.
        pooling: how frames were pooled to templates, one of `eval.scoring.templates.POOLINGS`; `None` for
            single images.
        table: a row for each of `FARS` that there are enough impostor pairs for.
        curve: thresholds for any FAR; see `threshold_at`.
        genuine, impostor: percentiles of the similarities, from the 0th to the 100th.
        resampled: the unit of the resamples behind the intervals, `"identities"` or `"pairs"`.
        files: SHA-256 of the files of the set, by name.
        max_frames: largest number of frames that were used of each video; `None` for all.
    """

    kind: str
    set: str
    num_genuine: int
    num_impostor: int
    flip: bool
    pooling: str | None
    table: tuple[ThresholdRow, ...]
    curve: Curve
    genuine: tuple[float, ...]
    impostor: tuple[float, ...]
    resampled: str
    files: dict[str, str]
    max_frames: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind: expected {' or '.join(KINDS)}, received {self.kind!r}")
        expected = POOLINGS if self.kind == "template" else (None,)
        if self.pooling not in expected:
            raise ValueError(f"pooling of kind {self.kind}: expected {expected}, received {self.pooling!r}")
        if self.num_genuine < 1 or self.num_impostor < 1:
            raise ValueError("num_genuine and num_impostor: expected positive numbers")

    def threshold_at(self, far: float) -> OperatingPoint:
        """Returns the lowest threshold on the curve whose FAR is at most `far`.

        A FAR below `1 / num_impostor` cannot be measured. For such a FAR, the result is the threshold that
        accepts no impostor pair, with a note that says so.

        Raises:
            ValueError: `far` is not in (0, 1].
        """
        if not 0 < far <= 1:
            raise ValueError(f"expected a FAR in (0, 1], received {far:g}")
        curve = self.curve
        place = next(number for number, point in enumerate(curve.far) if point <= far)
        note = None
        if far * self.num_impostor < 1 and not math.isclose(far * self.num_impostor, 1):
            note = (
                f"FAR {far:.2g} cannot be measured on the {self.num_impostor} impostor pairs of {self.set}. "
                "The threshold is the lowest that accepts none of them."
            )
        return OperatingPoint(far, curve.far[place], curve.threshold[place], curve.tar[place], note)

    def threshold_for_fpir(self, fpir: float, gallery_size: int) -> OperatingPoint:
        """Returns the threshold at which an unknown person gets a name with probability `fpir`.

        Such a person is compared with every person of the gallery. If these comparisons are independent,

            FPIR = 1 - (1 - FAR)^gallery_size

        Raises:
            ValueError: `fpir` is not in (0, 1), or the gallery is empty.
        """
        if not 0 < fpir < 1 or gallery_size < 1:
            raise ValueError(
                "expected an FPIR in (0, 1) and a gallery of at least 1 person, "
                f"received {fpir:g} and {gallery_size}"
            )
        return self.threshold_at(-math.expm1(math.log1p(-fpir) / gallery_size))

    def lines(self) -> Iterator[str]:
        """Yields the threshold table as lines of text."""
        what = {"single": "Single images", "template": f"Templates ({self.pooling})"}[self.kind]
        mirrored = ", with mirror images" if self.flip else ""
        pairs = f"{self.num_genuine} genuine and {self.num_impostor} impostor pairs"
        yield f"{what}{mirrored} : {self.set}, {pairs}"
        yield f"  {'FAR':>8}{'threshold':>12}{'TAR':>10}  95 % interval ({self.resampled} resampled)"
        for row in self.table:
            low, high = row.interval
            yield f"  {row.far:8g}{row.threshold:12.5f}{row.tar:10.5f}  [{low:.5f}, {high:.5f}]"
        left_out = [far for far in FARS if all(row.far != far for row in self.table)]
        if left_out:
            fars = ", ".join(f"{far:g}" for far in left_out)
            yield f"  FAR {fars} : not measured, needs at least {round(1 / left_out[0])} impostor pairs"


def can_calibrate(is_same: np.ndarray) -> bool:
    """Returns whether a set has at least `MIN_PAIRS` genuine and `MIN_PAIRS` impostor pairs."""
    num_genuine = np.count_nonzero(is_same)
    return bool(MIN_PAIRS <= num_genuine <= len(is_same) - MIN_PAIRS)


def check_pairs(is_same: np.ndarray, name: str) -> None:
    """Raises `ValueError` if a set has fewer than `MIN_PAIRS` genuine or impostor pairs.

    Args:
        is_same: bool, shape `(pairs,)`: whether a pair is genuine.
        name: name of the set, for the message.
    """
    if not can_calibrate(is_same):
        num_genuine = np.count_nonzero(is_same)
        raise ValueError(
            f"{name}: expected at least {MIN_PAIRS} genuine and {MIN_PAIRS} impostor pairs, "
            f"received {num_genuine} and {len(is_same) - num_genuine}"
        )


def calibrate(
    similarities: np.ndarray,
    is_same: np.ndarray,
    *,
    kind: str,
    name: str,
    flip: bool = False,
    pooling: str | None = None,
    identities: tuple[np.ndarray, np.ndarray] | None = None,
    files: dict[str, str] | None = None,
    max_frames: int | None = None,
) -> Calibration:
    """Measures thresholds.

    Each threshold accepts the most similar pairs, as many as the FAR allows. Pairs of equal similarity are
    accepted together or not at all. The threshold is halfway between the last accepted similarity and the
    next one. In a small set this gap can be wide. If no pair may be accepted, the threshold is just above the
    largest similarity and the TAR is 0.

    Args:
        similarities: float, finite, shape `(pairs,)`.
        is_same: bool, shape `(pairs,)`: whether a pair is genuine.
        kind, flip, pooling, files, max_frames: see `Calibration`.
        name: name of the set.
        identities: identities of the first and of the second face of every pair, shape `(pairs,)` each, for
            the intervals; see `eval.scoring.metrics.bootstrap_intervals`. Without them the pairs are
            resampled as if they were independent.

    Raises:
        ValueError: a similarity is not finite, or there are too few pairs.
    """
    similarities, is_same = np.asarray(similarities, np.float64), np.asarray(is_same, bool)
    num_genuine, num_impostor = int(np.count_nonzero(is_same)), int(np.count_nonzero(~is_same))
    if not np.isfinite(similarities).all():
        raise ValueError(f"{name}: expected finite similarities, received NaN or infinity")
    check_pairs(is_same, name)
    thresholds, far, tar = _rates(similarities, is_same)

    def points(fars: np.ndarray | tuple[float, ...]) -> tuple[list[float], list[float]]:
        places = np.searchsorted(far, fars, side="right") - 1
        return thresholds[places].tolist(), tar[places].tolist()

    grid = _grid(num_impostor)
    fars = tuple(asked for asked in FARS if num_impostor >= 1 / asked)
    numbers = np.arange(len(similarities))
    intervals = bootstrap_intervals(
        -similarities, is_same, identities=identities or (numbers, numbers), fars=fars
    )
    rows = zip(fars, *points(fars), (intervals[tar_name(asked)] for asked in fars), strict=True)
    quantiles = [
        np.quantile(similarities[kept], _QUANTILES).round(5).tolist() for kept in (is_same, ~is_same)
    ]
    return Calibration(
        kind,
        name,
        num_genuine,
        num_impostor,
        flip,
        pooling,
        table=tuple(ThresholdRow(*row) for row in rows),
        curve=Curve(grid, *map(tuple, points(grid))),
        genuine=tuple(quantiles[0]),
        impostor=tuple(quantiles[1]),
        resampled="identities" if identities else "pairs",
        files=files or {},
        max_frames=max_frames,
    )


def _rates(similarities, is_same):
    """Returns the candidates for a threshold, and FAR and TAR at each.

    They are in descending order. The first one accepts no pair, and the last one accepts all pairs.
    """
    order = np.argsort(-similarities)
    # The last position of each run of equal similarities.
    ends = np.flatnonzero(np.diff(similarities[order], append=-np.inf))
    values = similarities[order][ends]
    far, tar = (
        np.append(0.0, np.cumsum(kind)[ends] / np.count_nonzero(kind))
        for kind in (~is_same[order], is_same[order])
    )
    middles = (values[:-1] + values[1:]) / 2
    middles = np.where(middles > values[1:], middles, values[:-1])  # Adjacent floats have no middle.
    return np.concatenate([[np.nextafter(values[0], np.inf)], middles, values[-1:]]), far, tar


def _grid(num_impostor):
    """Returns ten FARs per decade, from 1 down to the smallest that can be measured, and then 0."""
    count = math.ceil(_PER_DECADE * math.log10(num_impostor))
    fars = [10 ** (-number / _PER_DECADE) for number in range(count)]
    return (*(far for far in fars if far * num_impostor > 1 + 1e-9), 1 / num_impostor, 0.0)
