"""The comparison of several runs, as values for the template `comparison.html`."""

import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eval.report import words
from eval.report.charts import AccuracyBar, Curve, draw_charts
from eval.report.svg import NUM_COLOURS
from eval.scoring.evaluation_run import EvaluationRun, LineScores
from eval.scoring.metrics import bootstrap_intervals

_LETTERS = string.ascii_uppercase
_LABEL_LENGTH = 44  # of a run in a legend

Interval = tuple[float, float]


@dataclass(frozen=True, eq=False)
class ComparedRun:
    """A run with its letter, its colour, and its line and difference on the line that the first run shows."""

    run: EvaluationRun
    letter: str
    colour: int
    line: LineScores
    difference: tuple[float, Interval] | None


def compare(runs: Sequence[EvaluationRun]) -> dict[str, Any]:
    """Returns the values of the template.

    Each run is shown by its own method. The difference, the threshold and the charts are those of the line
    that the first run shows.

    Args:
        runs: 2 to 26 runs.

    Raises:
        ValueError: there are too many runs, or one has no pair in common with the first.
    """
    if not 2 <= len(runs) <= len(_LETTERS):
        raise ValueError(f"expected 2 to {len(_LETTERS)} runs to compare, received {len(runs)}")
    error_filter = runs[0].scores.error_filter
    compared = []
    for place, (run, letter) in enumerate(zip(runs, _LETTERS, strict=False)):
        line = run.scores.lines.select(error_filter)
        difference = paired_difference(runs[0], run)
        compared.append(ComparedRun(run, letter, place % NUM_COLOURS + 1, line, difference))
    return {
        "compared": compared,
        "notes": list(_notes(compared)),
        "charts": _charts(compared, error_filter),
    }


def paired_difference(first: EvaluationRun, other: EvaluationRun) -> tuple[float, Interval] | None:
    """Returns by how much another run is more accurate than the first, on the line that the first shows.

    Returns:
        The difference of the mean accuracies of the folds, and its interval from resampling the same folds
        of both runs, as the first run did. `None` if the pairs or the folds are not the same.

    Raises:
        ValueError: they have no pair in common.
    """
    if not _num_shared(first, other):
        raise ValueError(
            f"{other.folder}: has no pair of {first.folder} among its {len(other.pairs)}. "
            "Compare runs on the same set of videos."
        )
    error_filter = first.scores.error_filter
    folds, other_folds = (run.pairs.folds.select(error_filter) for run in (first, other))
    ours, theirs = (np.array(run.scores.lines.select(error_filter).fold_accuracies) for run in (first, other))
    if not (_same_pairs(first, other) and np.array_equal(folds, other_folds)):
        return None
    # An accuracy is a mean over folds, and so is a difference.
    resampling = {"fold_accuracies": theirs - ours, **vars(first.scores.bootstrap)}
    intervals = bootstrap_intervals(first.distances, first.pairs.is_same, **resampling)
    return float((theirs - ours).mean()), intervals["accuracy"]


def _notes(compared: Sequence[ComparedRun]) -> Iterator[str]:
    first = compared[0].run
    for one in compared[1:]:
        if one.difference is None:
            reason = "in other folds than A"
            if not _same_pairs(first, one.run):
                shared = _num_shared(first, one.run)
                reason = f"on other pairs than A: A has {shared:,} of its {len(one.run.pairs):,} pairs"
            yield f"No difference is shown for {one.letter}. It was scored {reason}."
    for name, text in (
        ("set", "The sets have different names."),
        ("rule", "Thresholds were found by different rules."),
        ("error_filter", "EER, AUC and TAR are for different lines of pairs."),
    ):
        if len({getattr(one.run.scores, name) for one in compared}) > 1:
            yield f"{text} See the settings below."


def _charts(compared: Sequence[ComparedRun], error_filter: str) -> dict[str, str]:
    curves, lines, accuracies, frames = [], [], [], []
    for number, one in enumerate(compared):
        scores, pairs = one.run.scores, one.run.pairs
        label = f"{one.letter}: {_shortened(scores.name)}"
        used = pairs.used.select(error_filter)
        curves.append(Curve(label, one.run.distances[used], pairs.is_same[used], one.line.threshold))
        lines.append((label, one.line))
        has_interval = scores.error_filter == error_filter
        interval = one.run.method.intervals.get("accuracy") if has_interval else None
        accuracies.append(AccuracyBar(number, one.letter, one.line.accuracy, interval))
        frames.append((label, scores.frames_curve))
    return draw_charts(
        about=", ".join(label for label, _ in lines),
        curves=curves,
        lines=lines,
        accuracies=accuracies,
        frames=frames,
        fold_name=words.fold_name(compared[0].run.scores),
    )


def _shortened(label: str) -> str:
    """Cuts the middle out of a label that is too long for a legend."""
    half = (_LABEL_LENGTH - 1) // 2
    return label if len(label) <= _LABEL_LENGTH else f"{label[:half]}…{label[-half:]}"


def _same_pairs(first: EvaluationRun, other: EvaluationRun) -> bool:
    names = ("first", "second", "is_same")
    return all(np.array_equal(getattr(first.pairs, name), getattr(other.pairs, name)) for name in names)


def _num_shared(first: EvaluationRun, other: EvaluationRun) -> int:
    """Returns how many pairs of the other run the first one also has."""
    known = set(zip(first.pairs.first.tolist(), first.pairs.second.tolist(), strict=True))
    theirs = zip(other.pairs.first.tolist(), other.pairs.second.tolist(), strict=True)
    return sum(pair in known for pair in theirs)
