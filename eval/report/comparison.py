"""Compares several runs, and returns the values for the template `comparison.html`."""

import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eval.report import words
from eval.report.charts import AccuracyBar, Charts, Curve, draw_charts
from eval.report.shown_pairs import ShownPairs, disagreed_pairs
from eval.report.svg import NUM_COLOURS
from eval.scoring.evaluation_run import EvaluationRun, LineScores, Scores
from eval.scoring.metrics import bootstrap_intervals
from eval.scoring.people import spread_over_people

_LETTERS = string.ascii_uppercase
_LABEL_LENGTH = 44  # of a run in a legend
_NUM_DISAGREED = 12  # pairs of each kind to show

Interval = tuple[float, float]


@dataclass(frozen=True, eq=False)
class ComparedRun:
    """A run with its letter and colour, and its scores and difference on the line of the first run."""

    run: EvaluationRun
    letter: str
    colour: int
    line: LineScores
    difference: tuple[float, Interval] | None


@dataclass(frozen=True)
class Disagreement:
    """Numbers of pairs by the verdicts of A and B, and pairs that only one of them gets right."""

    both_right: int
    only_a_right: int
    only_b_right: int
    both_wrong: int
    shown: list[ShownPairs]


def compare(runs: Sequence[EvaluationRun]) -> dict[str, Any]:
    """Returns the values for the template.

    Each run is shown by its own method. The difference, the threshold, the charts and the pairs on which two
    runs disagree are for the line that the first run shows.

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
    settings = [_settings(run.scores) for run in runs]
    names = dict.fromkeys(name for one in settings for name in one)
    texts = {name: [one.get(name, words.NO_VALUE) for one in settings] for name in names}
    return {
        "compared": compared,
        "lines": {
            key: line.name
            for key, line in runs[0].scores.lines._asdict().items()
            if any(key in run.named_lines for run in runs)
        },
        "notes": list(_notes(compared)),
        "charts": _charts(compared, error_filter),
        "disagreement": _disagreement(*runs) if len(runs) == 2 and _same_pairs(*runs) else None,
        "common": [(name, one[0]) for name, one in texts.items() if len(set(one)) == 1],
        "differing": {name: one for name, one in texts.items() if len(set(one)) > 1},
    }


def paired_difference(first: EvaluationRun, other: EvaluationRun) -> tuple[float, Interval] | None:
    """Returns by how much another run is more accurate than the first, on the line that the first shows.

    Returns:
        `(difference, (low, high))`: the difference of the mean accuracies of the folds, and its interval from
        resampling the same folds of both runs, as the first run did. `None` if the pairs or the folds are not
        the same.

    Raises:
        ValueError: the runs have no pair in common.
    """
    if not _num_shared(first, other):
        raise ValueError(
            f"{other.folder}: none of its {len(other.pairs)} pairs is in {first.folder}. "
            "Compare runs on the same set."
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
            reason = "with other folds than A"
            if not _same_pairs(first, one.run):
                shared = _num_shared(first, one.run)
                reason = f"on other pairs than A: A has {shared:,} of its {len(one.run.pairs):,} pairs"
            yield f"No difference is shown for {one.letter}. It was scored {reason}."
    for name, text in (
        ("set", "The sets have different names."),
        ("rule", "Thresholds were found by different rules."),
        ("error_filter", "EER, AUC and TAR are for different selections of pairs."),
    ):
        if len({getattr(one.run.scores, name) for one in compared}) > 1:
            yield f"{text} See the settings below."


def _settings(scores: Scores) -> dict[str, str]:
    """Returns settings and inputs by name, in the order of the page."""
    inputs, covered = scores.inputs, {}
    if coverage := scores.coverage:
        covered = {
            "Videos found": f"{words.count(coverage.videos_found)} of {words.count(coverage.videos)}",
            "Frames used": words.count(coverage.frames),
            "Pairs left out": f"{words.count(coverage.pairs_left_out)} of {words.count(coverage.pairs)}",
        }
    return {
        "Model": ", ".join(words.model_facts(scores)) or words.NO_VALUE,
        "Set": scores.set,
        "Method": words.method_name(scores.method),
        "Threshold of a fold": words.RULES[scores.rule],
        "Folds": words.FOLDS[scores.folds],
        "EER, AUC, TAR": words.ERROR_FILTERS[scores.error_filter],
        "Mode": "faithful" if scores.faithful else "default",
        "Frames": words.describe_frames(inputs.frames),
        **covered,
        "SHA-256 of the model": inputs.model.sha256[:16],
        **({"SHA-256 of the splits": inputs.splits.sha256[:16]} if inputs.splits else {}),
        "SHA-256 of the frames": inputs.frames.sha256[:16],
    }


def _disagreement(first: EvaluationRun, other: EvaluationRun) -> Disagreement:
    error_filter = first.scores.error_filter
    ours, theirs = (run.verdicts(error_filter) for run in (first, other))
    gaps = np.sum([np.abs(run.distances - run.thresholds(error_filter)) for run in (first, other)], axis=0)
    counts, shown = {}, []
    for a, b in (("right", "right"), ("right", "wrong"), ("wrong", "right"), ("wrong", "wrong")):
        places = np.flatnonzero((ours == a) & (theirs == b))
        counts[a, b] = places.size
        if a != b:
            clearest = places[np.argsort(-gaps[places], kind="stable")].tolist()
            names = first.pairs.first, first.pairs.second
            chosen = spread_over_people(clearest, *names, _NUM_DISAGREED)
            title = f"Only {'A' if a == 'right' else 'B'} is right: {words.count(places.size)} pairs"
            shown.append(disagreed_pairs((first, other), error_filter, title, chosen))
    return Disagreement(*counts.values(), shown=shown)


def _charts(compared: Sequence[ComparedRun], error_filter: str) -> Charts:
    curves, lines, accuracies, frames = [], [], [], []
    for number, one in enumerate(compared):
        scores, pairs = one.run.scores, one.run.pairs
        label = f"{one.letter}: {_shortened(scores.name)}"
        used = pairs.used.select(error_filter)
        curves.append(Curve(label, one.run.distances[used], pairs.is_same[used], one.line.threshold))
        lines.append(one.line)
        has_interval = scores.error_filter == error_filter
        interval = one.run.method.intervals.get("accuracy") if has_interval else None
        accuracies.append(AccuracyBar(number, one.letter, one.line.accuracy, interval))
        frames.append(scores.frames_curve)
    return draw_charts(
        about=", ".join(curve.label for curve in curves),
        curves=curves,
        lines=lines,
        accuracies=accuracies,
        frames=frames,
        fold_name=words.fold_name(compared[0].run.scores),
        distance_name=words.distance_name([one.run.scores.method for one in compared]),
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
