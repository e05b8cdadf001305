"""Writes the report of one run, or the comparison of several runs, as one HTML page."""

from collections.abc import Sequence
from pathlib import Path

from common.files import printable, write_file
from eval.report import words
from eval.report.charts import AccuracyBar, Charts, Curve, draw_charts
from eval.report.comparison import compare
from eval.report.environment import TEMPLATES
from eval.report.shown_pairs import hardest_pairs
from eval.scoring.evaluation_run import EvaluationRun


def write_report(runs: Sequence[EvaluationRun], path: Path) -> None:
    """Writes a page that needs no other file. The same runs give the same bytes.

    Args:
        runs: one run to report, or 2 to 26 runs to compare.
        path: the file to write.

    Raises:
        FileNotFoundError: a picture of a run does not exist.
        ValueError: a picture is not a JPEG file, or the runs cannot be compared.
    """
    write_file(path, printable(run_page(runs[0]) if len(runs) == 1 else comparison_page(runs)))


def run_page(run: EvaluationRun) -> str:
    """Returns the page of one run. Raises the errors of `write_report`."""
    hardest = run.scores.hardest
    return TEMPLATES.get_template("run.html").render(
        run=run,
        charts=_charts(run),
        hardest=[
            hardest_pairs(run, "Hardest genuine pairs: one person, far apart", hardest.genuine),
            hardest_pairs(run, "Hardest impostor pairs: two people, close together", hardest.impostor),
        ],
    )


def comparison_page(runs: Sequence[EvaluationRun]) -> str:
    """Returns the page of 2 to 26 runs. Raises the errors of `eval.report.comparison.compare`."""
    return TEMPLATES.get_template("comparison.html").render(compare(runs))


def _charts(run: EvaluationRun) -> Charts:
    scores, pairs = run.scores, run.pairs
    used = pairs.used.select(scores.error_filter)
    methods = sorted(scores.methods, key=lambda method: method != scores.method)  # the chosen one first
    return draw_charts(
        about=f"{scores.name}, {words.method_name(scores.method)}",
        curves=[
            Curve(
                words.method_name(method),
                pairs.distances[method][used],
                pairs.is_same[used],
                run.line.threshold if method == scores.method else None,
            )
            for method in methods
        ],
        lines=[run.line],
        accuracies=[
            AccuracyBar(
                methods.index(method),
                words.method_name(method),
                method_scores.lines.select(scores.error_filter),
                method_scores.intervals.get("accuracy"),
            )
            for method, method_scores in scores.methods.items()
        ],
        frames=[scores.frames_curve],
        fold_name=words.fold_name(scores),
        distance_name=words.distance_name([scores.method]),
        emphasise_first=True,
    )
