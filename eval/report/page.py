"""The report as one HTML page: of one run, or of several side by side."""

import base64
from collections.abc import Iterator, Sequence
from pathlib import Path

import jinja2

from common.files import printable, write_file
from eval.report import words
from eval.report.charts import AccuracyBar, Curve, draw_charts
from eval.report.comparison import compare
from eval.scoring.evaluation_run import EvaluationRun, PairPicture
from eval.scoring.metrics import FARS, tar_name
from eval.scoring.verification import is_right

_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates"), encoding="utf-8"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters.update(rate=words.rate, count=words.count, signed=words.signed)
_TEMPLATES.globals.update(
    words=words,
    metric_names=["eer", "auc", *map(tar_name, FARS)],
    metric_heads=[("EER", []), ("AUC", []), ("TAR at FAR", [f"{far:g}" for far in FARS])],
)


def write_report(runs: Sequence[EvaluationRun], path: Path) -> None:
    """Writes a page that needs no other file: of one run, or of a comparison.

    The same runs give the same bytes.

    Raises:
        FileNotFoundError: a picture of a run does not exist.
        ValueError: a picture is not a JPEG file, or the runs cannot be compared.
    """
    write_file(path, printable(run_page(runs[0]) if len(runs) == 1 else comparison_page(runs)))


def run_page(run: EvaluationRun) -> str:
    """Returns the page of one run. Raises the errors of `write_report`."""
    hardest = run.scores.hardest
    return _TEMPLATES.get_template("run.html").render(
        run=run,
        charts=_charts(run),
        pictures=[
            ("Hardest genuine pairs: one person, far apart", list(_pictures(run, hardest.genuine))),
            ("Hardest impostor pairs: two people, close together", list(_pictures(run, hardest.impostor))),
        ],
    )


def comparison_page(runs: Sequence[EvaluationRun]) -> str:
    """Returns the page of 2 to 26 runs. Raises the errors of `eval.report.comparison.compare`."""
    return _TEMPLATES.get_template("comparison.html").render(compare(runs))


def _charts(run: EvaluationRun) -> dict[str, str]:
    scores, pairs = run.scores, run.pairs
    used = pairs.used.select(scores.error_filter)
    methods = sorted(scores.methods, key=lambda method: method != scores.method)  # the chosen one first
    label = words.method_name(scores.method)
    return draw_charts(
        about=f"{scores.name}, {label}",
        curves=[
            Curve(
                words.method_name(method),
                pairs.distances[method][used],
                pairs.is_same[used],
                run.line.threshold if method == scores.method else None,
            )
            for method in methods
        ],
        lines=[(line.name, line) for line in scores.lines],
        accuracies=[
            AccuracyBar(
                methods.index(method),
                words.method_name(method),
                method_scores.lines.select(scores.error_filter),
                method_scores.intervals.get("accuracy"),
            )
            for method, method_scores in scores.methods.items()
        ],
        frames=[(label, scores.frames_curve)],
        fold_name=words.fold_name(scores),
        emphasise_first=True,
    )


def _pictures(
    run: EvaluationRun, entries: Sequence[PairPicture]
) -> Iterator[tuple[str, str, str, float, str]]:
    """Yields the base64 text of each picture, the names of its videos, their distance, and the verdict."""
    for entry in entries:
        path = run.folder / entry.picture
        jpeg = path.read_bytes()
        if not jpeg.startswith(b"\xff\xd8"):
            raise ValueError(f"{path}: not a JPEG file: it starts with {jpeg[:8].hex() or 'nothing'}")
        first, second = (str(names[entry.pair]) for names in (run.pairs.first, run.pairs.second))
        distance, verdict = run.distances[entry.pair], _verdict(run, entry.pair)
        yield base64.b64encode(jpeg).decode(), first, second, distance, verdict


def _verdict(run: EvaluationRun, pair: int) -> str:
    fold = run.pairs.folds.select(run.scores.error_filter)[pair]
    if fold < 0:
        return "not scored"
    threshold = run.line.fold_thresholds[run.line.folds.index(fold)]
    right = is_right(run.distances[pair], run.pairs.is_same[pair], threshold, run.scores.rule)
    return "right" if right else "wrong"
