"""The charts of a report."""

import numpy as np
from matplotlib.ticker import MaxNLocator
from scipy.special import ndtr, ndtri

from eval.report.svg import DASHES, INK, MUTED, line_style, marker_style, render
from eval.scoring.metrics import roc

_NUM_POINTS = 400  # of a curve: more than an axis has pixels there
_MOST_BINS = 60  # of a histogram
_RATE_TICKS = np.array([1e-4, 1e-3, 0.01, 0.05, 0.1, 0.2, 0.4])  # of a DET curve


def roc_chart(curves, ident, title, emphasise_first=False):
    """Genuine pairs accepted (TAR) over impostor pairs accepted (FAR).

    A curve starts where one impostor pair is accepted: of lower rates the pairs say nothing.

    Args:
        curves: sequence of `(label, distances, is_same)`, of genuine and impostor pairs each.
        ident: str of letters, that no other chart of the page has.
        title: str, what there is to see, for those who cannot.
        emphasise_first: bool, draw the other curves thinner.

    Returns:
        str, an `svg` element.
    """

    def draw(figure):
        axes = figure.subplots()
        start = min(1 / np.count_nonzero(~is_same) for _, _, is_same in curves)
        lowest = 1.0
        for number, (label, distances, is_same) in enumerate(curves):
            far = np.geomspace(1 / np.count_nonzero(~is_same), 1, _NUM_POINTS)
            tar = _tar_at(far, distances, is_same)
            axes.plot(far, tar, label=label, **line_style(number, emphasise_first))
            lowest = min(lowest, tar[0])
        axes.set_xscale("log")
        axes.set(xlim=(start, 1), ylim=(max(0, lowest - 0.03), 1.004))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set(xlabel="FAR: impostor pairs accepted", ylabel="TAR: genuine pairs accepted")

    return render(draw, 2.75, ident, title)


def det_chart(curves, ident, title, emphasise_first=False):
    """The two errors over each other, genuine pairs rejected (FRR) and impostor pairs accepted (FAR).

    On axes of normal deviates normally distributed distances give straight lines. Where fewer than
    one pair is wrong, nothing is drawn. Arguments as for `roc_chart`.

    References:
    - Martin et al., "The DET curve in assessment of detection task performance", Eurospeech 1997
    """

    def draw(figure):
        axes = figure.subplots()
        lowest, highest = ndtri(0.1), ndtri(0.5)
        for number, (label, distances, is_same) in enumerate(curves):
            one_genuine, one_impostor = (1 / np.count_nonzero(is_same == kind) for kind in (True, False))
            deviates = np.linspace(min(ndtri(one_impostor), highest), highest, _NUM_POINTS)
            frr = 1 - _tar_at(ndtr(deviates), distances, is_same)
            drawn = (frr > one_genuine / 2) & (frr <= 0.5)
            label = label if drawn.any() else f"{label}: no errors"
            axes.plot(deviates[drawn], ndtri(frr[drawn]), label=label, **line_style(number, emphasise_first))
            lowest = min(lowest, ndtri(one_genuine), ndtri(one_impostor))
        axes.plot([lowest, highest], [lowest, highest], color=MUTED, linewidth=0.8, linestyle=DASHES[2])
        ticks = _RATE_TICKS[ndtri(_RATE_TICKS) >= lowest]
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_ticks(ndtri(ticks), [f"{tick:g}" for tick in ticks])
        axes.set(xlim=(lowest, highest), ylim=(lowest, highest))
        axes.set(xlabel="FAR: impostor pairs accepted", ylabel="FRR: genuine pairs rejected")

    return render(draw, 2.75, ident, title)


def histogram_chart(panels, ident, title):
    """Distances of genuine and of impostor pairs, and the threshold between them.

    Args:
        panels: sequence of `(label, distances, is_same, threshold)`, one below the other; the label
            of a single one is not shown, a threshold may be `None`.
        ident, title: see `roc_chart`.

    Returns:
        str, an `svg` element.
    """

    def draw(figure):
        every = np.concatenate([distances for _, distances, _, _ in panels])
        # All equal distances have no range of their own.
        num_bins = min(_MOST_BINS, 5 + round(2 * np.sqrt(every.size / len(panels))))
        bins = np.linspace(every.min(), max(every.max(), every.min() + 0.01), num_bins + 1)
        rows = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
        for axes, (label, distances, is_same, threshold) in zip(rows, panels, strict=True):
            for number, (kind, name) in enumerate(((True, "genuine"), (False, "impostor"))):
                counts, _ = np.histogram(distances[is_same == kind], bins)
                style = line_style(number)
                axes.stairs(counts, bins, fill=True, facecolor=style["color"], alpha=0.22)
                axes.stairs(
                    counts,
                    bins,
                    label=name,
                    edgecolor=style["color"],
                    linewidth=1.3,
                    linestyle=style["linestyle"],
                )
            if threshold is not None:
                axes.axvline(threshold, label="threshold", color=INK, linewidth=1.2, linestyle=DASHES[2])
            axes.yaxis.set_major_locator(_nice_ticks(4 if len(panels) == 1 else 2, integer=True))
            axes.grid(axis="x", visible=False)
            axes.margins(x=0.01)
            axes.set_ylabel("pairs")
            if len(panels) > 1:
                axes.set_title(label)
        rows[-1].set_xlabel("cosine distance")

    return render(draw, 2.75 if len(panels) == 1 else 0.5 + 1.15 * len(panels), ident, title)


def splits_chart(series, ident, title, called="split"):
    """Accuracy on every fold.

    Args:
        series: sequence of `(label, folds, accuracies)`.
        ident, title: see `roc_chart`.
        called: str, what a fold is. Defaults to `"split"`.

    Returns:
        str, an `svg` element.
    """

    def draw(figure):
        axes = figure.subplots()
        names = sorted({fold for _, folds, _ in series for fold in folds})
        offsets = np.linspace(-0.27, 0.27, len(series)) if len(series) > 1 else [0]
        for number, (label, folds, accuracies) in enumerate(series):
            places = [names.index(fold) + offsets[number] for fold in folds]
            axes.plot(places, accuracies, label=label, clip_on=False, **marker_style(number))
        axes.set_xticks(range(len(names)), names)
        axes.set_xlim(-0.5, len(names) - 0.5)
        axes.xaxis.grid(visible=False)
        axes.set_ylim(top=min(axes.get_ylim()[1], 1.0))
        axes.yaxis.set_major_locator(_nice_ticks(6))
        axes.set(xlabel=called, ylabel="accuracy")

    return render(draw, 2.75, ident, title)


def intervals_chart(rows, ident, title):
    """Accuracies with their intervals, one below the other.

    Args:
        rows: sequence of `(number, label, accuracy, (low, high))`: whose colour and marker it has in
            other charts; accuracy or interval may be `None`.
        ident, title: see `roc_chart`.

    Returns:
        str, an `svg` element.
    """

    def draw(figure):
        axes = figure.subplots()
        for place, (number, _, accuracy, interval) in enumerate(rows):
            style = marker_style(number)
            if interval is not None:
                axes.plot(interval, [place, place], color=style["color"], linewidth=1.6)
            if accuracy is not None:
                axes.plot(accuracy, place, clip_on=False, **style)
        axes.set_yticks(range(len(rows)), [label for _, label, _, _ in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.xaxis.set_major_locator(_nice_ticks(5))
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("accuracy")

    return render(draw, max(1.2, 0.7 + 0.29 * len(rows)), ident, title)


def frames_chart(series, ident, title):
    """Accuracy and equal error rate over the number of frames per video.

    Args:
        series: sequence of `(label, curve)`, a curve as `frames_curve` in the scores.
        ident, title: see `roc_chart`.

    Returns:
        str, an `svg` element.
    """

    def draw(figure):
        rows = figure.subplots(2, sharex=True)
        for axes, key, name in zip(rows, ("accuracy", "eer"), ("accuracy", "EER"), strict=True):
            for number, (label, curve) in enumerate(series):
                counts = [point["num_frames"] for point in curve]
                values = [np.nan if point[key] is None else point[key] for point in curve]
                style = marker_style(number) | line_style(number)
                axes.plot(counts, values, label=label, clip_on=False, **style)
            axes.yaxis.set_major_locator(_nice_ticks(4))
            axes.set_ylabel(name)
        rows[0].set_ylim(top=min(rows[0].get_ylim()[1], 1.0))
        rows[1].set_ylim(bottom=max(rows[1].get_ylim()[0], 0.0))
        counts = {point["num_frames"] for _, curve in series for point in curve}
        rows[1].set_xscale("log", base=2)
        rows[1].set_xticks(_spaced_ticks(counts), _spaced_ticks(counts))
        rows[1].set_xlabel("frames per video, at most")

    return render(draw, 3.1, ident, title)


def _tar_at(rates, distances, is_same):
    """The highest TAR whose FAR is not over each rate."""
    far, tar = roc(distances, is_same)
    # The rates of a whole number of pairs come from a formula, and may be a bit too low.
    return tar[np.searchsorted(far, rates * (1 + 1e-9), side="right") - 1]


def _nice_ticks(most, integer=False):
    return MaxNLocator(most, steps=[1, 2, 2.5, 5, 10], integer=integer)


def _spaced_ticks(counts):
    """Those of the counts, from the highest, whose labels do not touch on a logarithmic axis."""
    places = {count: np.log2(count) for count in counts}
    least = 0.1 * (max(places.values()) - min(places.values()))
    ticks = []
    for count in sorted(places, reverse=True):
        if not ticks or places[ticks[0]] - places[count] >= least:
            ticks.insert(0, count)
    return ticks
