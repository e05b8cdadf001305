"""Writes the HTML page of a run of `eval.test_identify`."""

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from common.files import printable, write_file
from eval.report.charts import Charts, Curve, draw_histograms
from eval.report.environment import TEMPLATES
from eval.report.pair_pictures import side_by_side
from eval.report.shown_pairs import ShownPair, ShownPairs
from eval.report.svg import line_style, marker_style, render, render_key
from eval.report.words import rate
from eval.scoring.identification_run import KINDS, IdentificationScores, ProbeResult
from eval.scoring.open_set import RankedProbes, open_set_curve, rank_curve
from eval.scoring.people import spread_over_people

_NUM_HARDEST = 12
_MOST_RANKS = 20  # last rank of the chart
_HEIGHT = 2.75  # inches


@dataclass(frozen=True, eq=False)
class Faces:
    """The best face of each probe, by its path, and of each person in the gallery, as JPEG files."""

    probes: dict[str, bytes]
    gallery: dict[str, bytes]


def hardest_probes(scores: IdentificationScores, faces: Faces) -> list[ShownPairs]:
    """Returns the mated probes least like their person, and the unknown probes most like another person."""
    results = [result for result in scores.results if result.nearest]
    mated = sorted((one for one in results if one.rank), key=lambda one: (one.rank == 1, one.own))
    unknown = sorted((one for one in results if not one.rank), key=lambda one: -one.nearest[0].similarity)
    titles = "Probes least like their person", "Unknown probes most like a person of the gallery"
    return [
        ShownPairs(title, [_shown(result, faces) for result in _spread(some)])
        for title, some in zip(titles, (mated, unknown), strict=True)
        if some
    ]


def _spread(results: Sequence[ProbeResult]) -> list[ProbeResult]:
    """Returns the first results, but no more than two of any person."""
    first, second = (
        np.array([f"{name}/" for name in names])
        for names in ([one.person for one in results], [one.nearest[0].person for one in results])
    )
    return [results[place] for place in spread_over_people(range(len(results)), first, second, _NUM_HARDEST)]


def _shown(result: ProbeResult, faces: Faces) -> ShownPair:
    nearest = result.nearest[0]
    pictures = [
        np.asarray(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR))
        for jpeg in (faces.probes[result.path], faces.gallery[nearest.person])
    ]
    jpeg = cv2.imencode(".jpg", side_by_side(pictures))[1].tobytes()
    verdict = "wrong" if result.rank > 1 else None
    return ShownPair(
        result.path, nearest.person, base64.b64encode(jpeg).decode(), [rate(nearest.similarity)], verdict
    )


def write_identification_page(
    path: Path, scores: IdentificationScores, ranked: Mapping[str, RankedProbes], shown: Sequence[ShownPairs]
) -> None:
    """Writes a page that needs no other file.

    Args:
        path: the file to write.
        scores: the scores.
        ranked: the ranked probes, by the keys of `KINDS`.
        shown: lists of probes with their pictures.
    """
    page = TEMPLATES.get_template("identification.html").render(
        scores=scores, kinds=KINDS, charts=draw_identification_charts(scores, ranked), shown=shown
    )
    write_file(path, printable(page))


def draw_identification_charts(scores: IdentificationScores, ranked: Mapping[str, RankedProbes]) -> Charts:
    """Draws the charts of the page, with a legend of the kinds of probes."""
    series = [ranked[kind] for kind in KINDS]
    charts: dict[str, tuple[str, float, Callable[..., None], tuple]] = {
        "ranks": ("Fraction found by rank", _HEIGHT, draw_ranks, (series,))
    }
    if scores.unknown_people:
        charts["tpir"] = ("TPIR over FPIR", _HEIGHT, draw_tpir, (series,))
    panels = [
        (number, Curve(label, ranked[kind].best, ranked[kind].is_mated, _threshold(scores, kind)))
        for number, (kind, label) in enumerate(KINDS.items())
    ]
    names = "similarity to the nearest person", "probes"
    charts["similarities"] = ("Histograms of similarities", 2.8, draw_histograms, (panels, *names))
    return Charts(
        svg={
            name: render(draw, data, height, name, f"{title} of {scores.name}")
            for name, (title, height, draw, data) in charts.items()
        },
        legend=[(render_key(number), label) for number, label in enumerate(KINDS.values())],
        without_errors=[],
    )


def draw_tpir(figure: Figure, series: Sequence[RankedProbes]) -> None:
    """Draws TPIR (mated probes with the right name) over FPIR (unknown probes with a name).

    A curve starts where one unknown probe gets a name, because the probes cannot measure lower rates.
    """
    axes = figure.subplots()
    lowest_fpir = lowest_tpir = 1.0
    for number, probes in enumerate(series):
        fpir, tpir, _ = open_set_curve(probes)
        start = int(np.argmax(fpir > 0)) - 1  # the best point without an error
        first = 1 / np.count_nonzero(~probes.is_mated)
        # No threshold gives rates between two points, so the curve is a staircase.
        axes.step(
            [first, *fpir[start + 1 :]], [tpir[start], *tpir[start + 1 :]], where="post", **line_style(number)
        )
        lowest_fpir, lowest_tpir = min(lowest_fpir, first), min(lowest_tpir, tpir[start])
    axes.set_xscale("log")
    axes.set(xlim=(min(lowest_fpir, 0.5), 1), ylim=(max(0, lowest_tpir - 0.03), 1.004))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set(xlabel="FPIR: unknown probes with a name", ylabel="TPIR: mated, right name")


def draw_ranks(figure: Figure, series: Sequence[RankedProbes]) -> None:
    """Draws the fraction of the mated probes with at most a rank (CMC)."""
    axes = figure.subplots()
    for number, probes in enumerate(series):
        found = rank_curve(probes, _MOST_RANKS)
        style = marker_style(number) | line_style(number)
        axes.plot(np.arange(1, found.size + 1), found, clip_on=False, **style)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="rank of the right person, at most", ylabel="mated probes")
    axes.set_ylim(top=1)


def _threshold(scores: IdentificationScores, kind: str) -> float | None:
    """Returns the threshold to draw: that for the lowest measured FPIR, or else that of `eval.identify`."""
    measured = [value for value in scores.kinds[kind].thresholds.values() if value is not None]
    if measured:
        return measured[0]
    return scores.threshold.value if scores.threshold else None
