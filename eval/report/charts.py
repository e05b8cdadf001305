"""Draws the charts of a report."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from eval.report.svg import DASHES, INK, MUTED, line_style, marker_style, render, render_key
from eval.scoring.evaluation_run import FramesPoint, LineScores
from eval.scoring.metrics import roc

_NUM_POINTS = 400  # of a curve: more than an axis has pixels
_MOST_BINS = 60  # bins of a histogram
_RATE_TICKS = (1e-4, 1e-3, 0.01, 0.05, 0.1, 0.2, 0.4)  # of a DET curve
_HEIGHT = 2.75  # inches, of most charts
_NORMAL = NormalDist()


@dataclass(frozen=True, eq=False)
class Curve:
    """Distances of genuine and impostor pairs. A curve with a threshold also gets a histogram."""

    label: str
    distances: np.ndarray
    is_same: np.ndarray
    threshold: float | None = None


@dataclass(frozen=True)
class AccuracyBar:
    """An accuracy and its interval. `number` decides the colour and the marker."""

    number: int
    label: str
    accuracy: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Charts:
    """The charts of a page.

    Attributes:
        svg: SVG elements by name.
        legend: pairs of an SVG element and a label, one pair for each curve.
        without_errors: labels of the curves that the DET chart cannot show, because they have no errors.
    """

    svg: dict[str, str]
    legend: list[tuple[str, str]]
    without_errors: list[str]


def draw_charts(
    *,
    about: str,
    curves: Sequence[Curve],
    lines: Sequence[LineScores],
    accuracies: Sequence[AccuracyBar],
    frames: Sequence[Sequence[FramesPoint]],
    fold_name: str,
    distance_name: str,
    emphasise_first: bool = False,
) -> Charts:
    """Draws all charts of a page. The number of a curve gives it the same colour and marker in all of them.

    Args:
        about: names the models for readers who cannot see the charts.
        curves: at least one has a threshold.
        lines: scores whose fold accuracies to draw; `lines[i]` belongs to curve `i`.
        accuracies: accuracies to compare. With fewer than two, this chart is left out.
        frames: scores by the number of frames; `frames[i]` belongs to curve `i`. Without points, this chart
            is left out.
        fold_name: the word for a fold.
        distance_name: the label of the axis of distances.
        emphasise_first: draw the first curve thicker than the others.
    """
    panels = [(number, curve) for number, curve in enumerate(curves) if curve.threshold is not None]
    panels_height = _HEIGHT if len(panels) == 1 else 0.5 + 1.15 * len(panels)
    bars_height = max(1.2, 0.7 + 0.29 * len(accuracies))
    charts: dict[str, tuple[str, float, Callable[..., None], tuple]] = {
        "roc": ("ROC curves", _HEIGHT, draw_roc, (curves, emphasise_first)),
        "det": ("DET curves", _HEIGHT, draw_det, (curves, emphasise_first)),
        "distances": ("Histograms of distances", panels_height, draw_histograms, (panels, distance_name)),
        "splits": ("Accuracies of folds", _HEIGHT, draw_folds, (lines, fold_name)),
    }
    if len(accuracies) > 1:
        charts["accuracies"] = ("Accuracies", bars_height, draw_accuracies, (accuracies,))
    if any(frames):
        charts["frames"] = ("Accuracy by number of frames", 3.1, draw_frames, (frames,))
    return Charts(
        svg={
            name: render(draw, data, height, name, f"{title} of {about}")
            for name, (title, height, draw, data) in charts.items()
        },
        legend=[(render_key(number, emphasise_first), curve.label) for number, curve in enumerate(curves)],
        without_errors=[curve.label for curve in curves if not _det_points(curve)[0].size],
    )


def draw_roc(figure: Figure, curves: Sequence[Curve], emphasise_first: bool = False) -> None:
    """Draws TAR (genuine pairs accepted) over FAR (impostor pairs accepted).

    A curve starts where one impostor pair is accepted, because the pairs cannot measure lower rates.
    """
    axes = figure.subplots()
    lowest_far = lowest_tar = 1.0
    for number, curve in enumerate(curves):
        far = np.geomspace(1 / np.count_nonzero(~curve.is_same), 1, _NUM_POINTS)
        tar = _tar_at(far, curve)
        axes.plot(far, tar, **line_style(number, emphasise_first))
        lowest_far, lowest_tar = min(lowest_far, far[0]), min(lowest_tar, tar[0])
    axes.set_xscale("log")
    axes.set(xlim=(lowest_far, 1), ylim=(max(0, lowest_tar - 0.03), 1.004))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set(xlabel="FAR: impostor pairs accepted", ylabel="TAR: genuine pairs accepted")


def draw_det(figure: Figure, curves: Sequence[Curve], emphasise_first: bool = False) -> None:
    """Draws the two error rates: FRR (genuine pairs rejected) over FAR (impostor pairs accepted).

    On axes of normal deviates, normally distributed distances give straight lines. Rates below one wrong pair
    are not drawn.

    References:
    - Martin et al., "The DET curve in assessment of detection task performance", Eurospeech 1997
    """
    axes = figure.subplots()
    lowest = 0.1
    for number, curve in enumerate(curves):
        axes.plot(*_det_points(curve), **line_style(number, emphasise_first))
        lowest = min(lowest, *_single_pairs(curve))
    limits = _NORMAL.inv_cdf(lowest), 0.0
    axes.plot(limits, limits, color=MUTED, linewidth=0.8, linestyle=DASHES[2])
    ticks = [tick for tick in _RATE_TICKS if tick >= lowest]
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks([_NORMAL.inv_cdf(tick) for tick in ticks], [f"{tick:g}" for tick in ticks])
    axes.set(xlim=limits, ylim=limits)
    axes.set(xlabel="FAR: impostor pairs accepted", ylabel="FRR: genuine pairs rejected")


def draw_histograms(
    figure: Figure, panels: Sequence[tuple[int, Curve]], distance_name: str, counted: str = "pairs"
) -> None:
    """Draws histograms of genuine and impostor pairs with the threshold, one panel below the other.

    Args:
        figure: the figure to draw into.
        panels: pairs of a number and its curve.
        distance_name: the label of the axis of distances.
        counted: the label of the axis of counts.
    """
    curves = [curve for _, curve in panels]
    distances = np.concatenate([curve.distances for curve in curves])
    num_bins = min(_MOST_BINS, 5 + round(2 * np.sqrt(distances.size / len(curves))))
    # If all distances are equal, they have no range, and the bins need a width.
    bins = np.linspace(distances.min(), max(distances.max(), distances.min() + 0.01), num_bins + 1)
    rows = figure.subplots(len(curves), sharex=True, squeeze=False)[:, 0]
    for axes, (number, curve) in zip(rows, panels, strict=True):
        genuine, impostor = (np.histogram(curve.distances[curve.is_same == kind], bins)[0] for kind in (1, 0))
        colour = line_style(number)["color"]
        axes.stairs(genuine, bins, fill=True, facecolor=colour, alpha=0.3)
        axes.stairs(genuine, bins, edgecolor=colour, linewidth=1.3)
        axes.stairs(impostor, bins, edgecolor=MUTED, linewidth=1.3, linestyle=DASHES[1])
        if curve.threshold is not None:
            axes.axvline(curve.threshold, color=INK, linewidth=1.2, linestyle=DASHES[2])
        axes.yaxis.set_major_locator(_nice_ticks(4 if len(curves) == 1 else 2, integer=True))
        axes.grid(axis="x", visible=False)
        axes.margins(x=0.01)
        axes.set_ylabel(counted)
        if len(curves) > 1:
            axes.set_title(curve.label)
    rows[-1].set_xlabel(distance_name)


def draw_folds(figure: Figure, lines: Sequence[LineScores], fold_name: str) -> None:
    """Draws the accuracies of all folds."""
    axes = figure.subplots()
    folds = sorted({fold for line in lines for fold in line.folds})
    offsets = np.linspace(-0.27, 0.27, len(lines)) if len(lines) > 1 else [0]
    for number, (line, offset) in enumerate(zip(lines, offsets, strict=True)):
        places = [folds.index(fold) + offset for fold in line.folds]
        axes.plot(places, line.fold_accuracies, clip_on=False, **marker_style(number))
    axes.set_xticks(range(len(folds)), [str(fold) for fold in folds])
    axes.set_xlim(-0.5, len(folds) - 0.5)
    axes.xaxis.grid(visible=False)
    axes.set_ylim(top=min(axes.get_ylim()[1], 1.0))
    axes.yaxis.set_major_locator(_nice_ticks(6))
    axes.set(xlabel=fold_name, ylabel="accuracy")


def draw_accuracies(figure: Figure, bars: Sequence[AccuracyBar]) -> None:
    """Draws accuracies with their intervals, one below the other."""
    axes = figure.subplots()
    for place, bar in enumerate(bars):
        style = marker_style(bar.number)
        if bar.interval is not None:
            axes.plot(bar.interval, [place, place], color=style["color"], linewidth=1.6)
        axes.plot(bar.accuracy, place, clip_on=False, **style)
    axes.set_yticks(range(len(bars)), [bar.label for bar in bars])
    axes.set_ylim(len(bars) - 0.5, -0.5)
    axes.xaxis.set_major_locator(_nice_ticks(5))
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("accuracy")


def draw_frames(figure: Figure, series: Sequence[Sequence[FramesPoint]]) -> None:
    """Draws accuracy and equal error rate over the number of frames per video."""
    rows = figure.subplots(2, sharex=True)
    for axes, key, name in zip(rows, ("accuracy", "eer"), ("accuracy", "EER"), strict=True):
        for number, points in enumerate(series):
            counts = [point.num_frames for point in points]
            values = [getattr(point, key) for point in points]
            style = marker_style(number) | line_style(number)
            axes.plot(counts, values, clip_on=False, **style)
        axes.yaxis.set_major_locator(_nice_ticks(4))
        axes.set_ylabel(name)
    rows[0].set_ylim(top=min(rows[0].get_ylim()[1], 1.0))
    rows[1].set_ylim(bottom=max(rows[1].get_ylim()[0], 0.0))
    ticks = _spaced_ticks({point.num_frames for points in series for point in points})
    rows[1].set_xscale("log", base=2)
    rows[1].set_xticks(ticks, ticks)
    rows[1].set_xlabel("frames per video, at most")


def _tar_at(rates: np.ndarray, curve: Curve) -> np.ndarray:
    """Returns the highest TAR whose FAR does not exceed each rate."""
    far, tar = roc(curve.distances, curve.is_same)
    # A rate that stands for a whole number of pairs may be slightly too low after rounding.
    return tar[np.searchsorted(far, rates * (1 + 1e-9), side="right") - 1]


def _single_pairs(curve: Curve) -> tuple[float, float]:
    """Returns the error rates of a single wrong genuine pair and of a single wrong impostor pair."""
    num_genuine = np.count_nonzero(curve.is_same)
    return 1 / num_genuine, 1 / (curve.is_same.size - num_genuine)


def _det_points(curve: Curve) -> tuple[np.ndarray, np.ndarray]:
    """Returns the normal deviates of FAR and FRR, for rates from one wrong pair up to 0.5."""
    one_genuine, one_impostor = _single_pairs(curve)
    far = np.linspace(_NORMAL.inv_cdf(min(one_impostor, 0.5)), 0, _NUM_POINTS)
    frr = 1 - _tar_at(np.array([_NORMAL.cdf(value) for value in far]), curve)
    drawn = (frr > one_genuine / 2) & (frr <= 0.5)
    return far[drawn], np.array([*map(_NORMAL.inv_cdf, frr[drawn])])


def _nice_ticks(most: int, integer: bool = False) -> MaxNLocator:
    return MaxNLocator(most, steps=[1, 2, 2.5, 5, 10], integer=integer)


def _spaced_ticks(counts: Iterable[int]) -> list[int]:
    """Returns the counts to label on a logarithmic axis, from the highest down, so that no labels touch."""
    places = {count: np.log2(count) for count in counts}
    least = 0.1 * (max(places.values()) - min(places.values()))
    ticks: list[int] = []
    for count in sorted(places, reverse=True):
        if not ticks or places[ticks[0]] - places[count] >= least:
            ticks.insert(0, count)
    return ticks
