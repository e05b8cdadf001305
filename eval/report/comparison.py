"""The page that shows several runs beside one another."""

import string
from html import escape

import numpy as np

from eval.report.figures import curves_section
from eval.report.html import (
    ERROR_FILTERS,
    FOLDS,
    RULES,
    bootstrap_note,
    cell,
    fold_name,
    frames_text,
    method_label,
    metric_cells,
    metric_heads,
    name_markup,
    num_found,
    page,
    section,
    table,
)
from eval.report.svg import NUM_COLOURS
from eval.scoring.metrics import bootstrap_intervals

_LETTERS = string.ascii_uppercase
_LABEL_LENGTH = 44  # of a run in a legend

_SETTINGS = {  # name -> what it is in the scores of a run
    "Set": lambda scores: scores["set"],
    "Distances by": lambda scores: method_label(scores["method"]),
    "Threshold of a fold": lambda scores: RULES[scores["rule"]],
    "Folds": lambda scores: FOLDS[scores["folds"]],
    "EER, AUC, TAR": lambda scores: ERROR_FILTERS[scores["error_filter"]],
    "Mode": lambda scores: "faithful" if scores["faithful"] else "default",
    "Frames": lambda scores: frames_text(scores["inputs"]["frames"]),
    "Videos found": lambda scores: f"{num_found(scores['coverage']):,} of {scores['coverage']['videos']:,}",
    "Frames used": lambda scores: f"{scores['coverage']['frames']:,}",
    "Pairs left out": lambda scores: (
        f"{scores['coverage']['pairs_left_out']:,} of {scores['coverage']['pairs']:,}"
    ),
    "SHA-256 of the model": lambda scores: scores["inputs"]["model"]["sha256"][:16],
    "SHA-256 of the splits": lambda scores: scores["inputs"]["splits"]["sha256"][:16],
    "SHA-256 of the frames": lambda scores: scores["inputs"]["frames"]["sha256"][:16],
}


def comparison_page(runs):
    """The page of several runs, as text.

    Each run is shown by its own method. What belongs to one of the three lines, as the curves do, is
    shown on the line that the first run is about.

    Args:
        runs: sequence of `eval.report.runs.Run`, two to 26.

    Returns:
        str.

    Raises:
        ValueError: too many runs, or one that has no pair in common with the first.
    """
    if not 2 <= len(runs) <= len(_LETTERS):
        raise ValueError(f"expected 2 to {len(_LETTERS)} runs to compare, received {len(runs)}")
    differences = [paired_difference(runs[0], run) for run in runs[1:]]
    names = ", ".join(run.label for run in runs)
    head = (
        f'<header>\n<p class="kicker">Video verification</p>\n<h1>{len(runs)} runs compared</h1>\n'
        "<p>Each run by its own method, on the same three lines of pairs.</p>\n</header>"
    )
    return page(
        f"Comparison: {names}",
        "\n".join([head, _scores(runs, differences), _charts(runs), _settings(runs)]),
    )


def paired_difference(first, other):
    """By how much another run is more accurate than the first, on the line that the first is about.

    Args:
        first, other: `eval.report.runs.Run`.

    Returns:
        `(difference, interval)`: of the mean accuracies of the folds, and bounds from resampling folds,
        the same ones of both runs, as often as the first run did; `None` where there is a single fold.
        `(None, None)` where the two were not scored on the same pairs in the same folds.

    Raises:
        ValueError: they have no pair in common.
    """
    if not _num_shared(first, other):
        raise ValueError(
            f"{other.folder}: expected pairs that {first.folder} has too, received none of its "
            f"{len(other.arrays['is_same'])} pairs"
        )
    number = first.line_number
    same_folds = np.array_equal(first.arrays["folds"][number], other.arrays["folds"][number])
    one, two = (np.array(run.scores["lines"][number]["fold_accuracies"]) for run in (first, other))
    if not (_same_pairs(first, other) and same_folds and one.size):
        return None, None
    differences = two - one
    if differences.size < 2:
        return float(differences.mean()), None
    # An accuracy is a mean over folds, and so is a difference.
    distances = first.arrays[f"distances/{first.scores['method']}"]
    interval = bootstrap_intervals(
        distances, first.arrays["is_same"], fold_accuracies=differences, **first.scores["bootstrap"]
    )["accuracy"]
    return float(differences.mean()), interval


def _scores(runs, differences):
    number = runs[0].line_number
    rows = []
    for place, run in enumerate(runs):
        scores, method = run.scores, run.scores["methods"][run.scores["method"]]
        lines = [
            cell(
                line["accuracy"],
                method["intervals"].get("accuracy") if line_number == run.line_number else None,
            )
            for line_number, line in enumerate(scores["lines"])
        ]
        cells = [*lines, _difference_cell(None if place == 0 else differences[place - 1])]
        cells += [cell(scores["lines"][number]["threshold"]), *metric_cells(method)]
        rows.append(
            f'<tr><th scope="row">{_key(place)}{name_markup(run.label)}'
            f"<small>{escape(method_label(scores['method']))}</small></th>{''.join(cells)}</tr>"
        )
    names = [line["name"] for line in runs[0].scores["lines"]]
    heads = ["Run", ("Accuracy", names), "Difference to A", "Threshold", *metric_heads()]
    notes = "".join(f"<li>{escape(note)}</li>" for note in _notes(runs, differences))
    return section(
        "Scores",
        f'<ul class="notes">{notes}</ul>' if notes else "",
        table("Scores of all runs", heads, rows, "runs"),
        bootstrap_note(runs[0].scores),
        f'<p class="muted">Difference, threshold and charts are of {escape(names[number])}. The interval of '
        "a difference is of the same resampled folds in both runs: if it holds 0, they may be equal.</p>",
    )


def _difference_cell(difference):
    if difference is None:
        return "<td></td>"
    value, interval = difference
    if value is None:
        return cell(None)
    below = "" if interval is None else f"<small>{interval[0]:+.4f} to {interval[1]:+.4f}</small>"
    return f"<td>{value:+.4f}{below}</td>".replace("-", "−")


def _notes(runs, differences):
    for place, (run, (difference, _)) in enumerate(zip(runs[1:], differences, strict=True), start=1):
        if difference is None:
            letter, counts = _LETTERS[place], [len(one.arrays["is_same"]) for one in (runs[0], run)]
            how = "in other folds than A"
            if not _same_pairs(runs[0], run):
                shared = _num_shared(runs[0], run)
                how = (
                    f"on other pairs than A: {shared:,} of its {counts[1]:,} are among the {counts[0]:,} of A"
                )
            yield f"{letter} was scored {how}. So there is no difference to show."
    for key, text in (
        ("set", "The sets have different names."),
        ("rule", "Thresholds were found by different rules."),
        ("error_filter", "EER, AUC and TAR are of different lines."),
    ):
        if len({run.scores[key] for run in runs}) > 1:
            yield f"{text} See the settings below."


def _charts(runs):
    number = runs[0].line_number
    curves, panels, splits, accuracies, frames = [], [], [], [], []
    for place, run in enumerate(runs):
        scores, used = run.scores, run.arrays["used"][number]
        line, method = scores["lines"][number], scores["methods"][scores["method"]]
        distances, is_same = run.arrays[f"distances/{scores['method']}"][used], run.arrays["is_same"][used]
        label = f"{_LETTERS[place]}: {_shortened(run.label)}"
        interval = method["intervals"].get("accuracy") if number == run.line_number else None
        curves.append((label, distances, is_same))
        panels.append((label, distances, is_same, line["threshold"]))
        splits.append((label, line["folds"], line["fold_accuracies"]))
        accuracies.append((place, _LETTERS[place], line["accuracy"], interval))
        if scores["frames_curve"]:
            frames.append((label, scores["frames_curve"]))
    return curves_section(
        about=", ".join(label for label, *_ in curves),
        curves=curves,
        panels=panels,
        splits=splits,
        accuracies=accuracies,
        frames=frames,
        fold_name=fold_name(runs[0].scores),
    )


def _settings(runs):
    rows = []
    for name, text_of in _SETTINGS.items():
        texts = [text_of(run.scores) for run in runs]
        differs = ' class="chosen"' if len(set(texts)) > 1 else ""
        cells = "".join(f"<td>{escape(text)}</td>" for text in texts)
        rows.append(f'<tr{differs}><th scope="row">{name}</th>{cells}</tr>')
    heads = ["Setting", *(f"{_key(place)}{name_markup(run.label)}" for place, run in enumerate(runs))]
    return section(
        "Settings and inputs",
        "<p>What differs is marked.</p>",
        table("Settings and inputs of all runs", heads, rows, "texts"),
    )


def _key(place):
    return f'<span class="key key-{place % NUM_COLOURS + 1}">{_LETTERS[place]}</span>'


def _shortened(label):
    """A label that fits into a legend, with its start and its end."""
    half = (_LABEL_LENGTH - 1) // 2
    return label if len(label) <= _LABEL_LENGTH else f"{label[:half]}…{label[-half:]}"


def _same_pairs(first, other):
    return all(
        np.array_equal(first.arrays[name], other.arrays[name]) for name in ("first", "second", "is_same")
    )


def _num_shared(first, other):
    """How many pairs of the other run the first has, too."""
    ours, theirs = (
        list(zip(run.arrays["first"].tolist(), run.arrays["second"].tolist(), strict=True))
        for run in (first, other)
    )
    ours = set(ours)
    return sum(pair in ours for pair in theirs)
