"""Draws a comparison: the faces of both sides, and their similarity among those of other pairs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from common.files import atomic_file, printable
from eval.compare.comparison import Comparison
from eval.compare.sides import Side

_NUM_FACES = 8  # to show of each side, besides the most and the least typical one
_GENUINE, _IMPOSTOR, _MUTED = "#0e62f2", "#d6153b", "#59606b"
_NUM_BINS = 60
_NUM_SAMPLES = 4000  # drawn evenly from the percentiles
_STYLE: dict[Any, Any] = {"font.size": 9, "text.parse_math": False}


def write_picture(path: Path, comparison: Comparison) -> None:
    """Draws a comparison into a PNG file."""
    with matplotlib.rc_context(_STYLE):
        figure = draw_comparison(comparison)
        with atomic_file(path) as file:
            figure.savefig(file, format="png", dpi=120)


def draw_comparison(comparison: Comparison) -> Figure:
    """Draws the faces of both sides above the similarities of genuine and impostor pairs."""
    figure = Figure((10, 6.4), layout="constrained")
    parts: Any = figure.subfigures(3, 1, height_ratios=(1, 1, 1.25))
    for letter, side, row in zip("AB", comparison.sides, parts[:2], strict=True):
        _draw_side(row, letter, side)
    _draw_similarity(parts[2].subplots(), comparison)
    return figure


def shown_faces(side: Side) -> list[int]:
    """Chooses faces of a side that have an image.

    Returns:
        Positions in `side.faces`: the most typical one, the least typical one, then others evenly over time.
    """
    with_image = [i for i, face in enumerate(side.faces) if face.image is not None]
    by_typicality = sorted(with_image, key=lambda i: -side.typicality[i])
    first = list(dict.fromkeys([by_typicality[0], by_typicality[-1]]))
    others = [i for i in with_image if i not in first]
    places = np.linspace(0, len(others) - 1, min(_NUM_FACES, len(others))).round().astype(int)
    return [*first, *(others[place] for place in places)]


def _draw_side(row: SubFigure, letter: str, side: Side) -> None:
    title = printable(f"{letter}: {side.path} ({side.describe()})")
    row.suptitle(title, x=0.01, ha="left", fontsize="medium", fontweight="bold")
    chosen = shown_faces(side)
    extremes = ("most typical", "least typical") if len(chosen) > 1 else ("",)
    for place, axes in enumerate(row.subplots(1, _NUM_FACES + 2)):
        axes.set_axis_off()
        if place >= len(chosen):
            continue
        face = side.faces[chosen[place]]
        axes.imshow(face.image)
        axes.set_title(extremes[place] if place < len(extremes) else "", fontsize="small")
        if len(chosen) > 1:
            caption = f"{side.typicality[chosen[place]]:.2f}\n{_shortened(printable(side.place(face)))}"
            axes.text(0.5, -0.05, caption, transform=axes.transAxes, ha="center", va="top", fontsize="small")


def _shortened(name: str) -> str:
    return name if len(name) <= 14 else f"{name[:6]}…{name[-7:]}"


def _draw_similarity(axes: Axes, comparison: Comparison) -> None:
    values = [comparison.similarity, comparison.threshold]
    title = f"Similarity {comparison.similarity:.3f}: {comparison.verdict}"
    calibration = comparison.calibration
    if calibration is not None:
        kinds = (("genuine", calibration.genuine, _GENUINE), ("impostor", calibration.impostor, _IMPOSTOR))
        values += [quantiles[end] for _, quantiles, _ in kinds for end in (0, -1)]
        bins = np.linspace(min(values) - 0.02, max(values) + 0.02, _NUM_BINS + 1)
        for kind, quantiles, colour in kinds:
            counts = np.histogram(_samples(quantiles), bins)[0] / _NUM_SAMPLES
            axes.stairs(counts, bins, fill=True, facecolor=colour, alpha=0.3)
            axes.stairs(counts, bins, edgecolor=colour, label=f"{kind} pairs of {printable(calibration.set)}")
        genuine, impostor = (100 * share_below(quantiles, comparison.similarity) for _, quantiles, _ in kinds)
        title += (
            f"; larger than for {impostor:.0f} % of the impostor and {genuine:.0f} % of the genuine pairs"
        )
    axes.axvline(
        comparison.threshold, color=_MUTED, linestyle="--", label=f"threshold {comparison.threshold:.3f}"
    )
    axes.axvline(
        comparison.similarity, color="black", linewidth=2, label=f"A and B: {comparison.similarity:.3f}"
    )
    axes.set_title(title, loc="left", fontsize="medium", fontweight="bold")
    axes.set(xlabel="similarity", yticks=[])
    axes.spines[["left", "top", "right"]].set_visible(False)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)


def share_below(quantiles: Sequence[float], similarity: float) -> float:
    """Estimates the fraction of pairs below a similarity from their percentiles, 0th to 100th."""
    return float(np.interp(similarity, quantiles, np.linspace(0, 1, len(quantiles))))


def _samples(quantiles: Sequence[float]) -> np.ndarray:
    """Returns similarities that have these percentiles."""
    places = np.linspace(0, len(quantiles) - 1, _NUM_SAMPLES)
    return np.interp(places, np.arange(len(quantiles)), quantiles)
