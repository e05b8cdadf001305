"""Writes the HTML page of a run of `eval.test_ytf` or `eval.test_lfw`, or a comparison of several runs.

python -m eval.report RUN [RUN ...]
"""

if not __package__:
    raise SystemExit("Start this program in the project's folder: python -m eval.report")

import argparse
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.options import exit_on_errors, option, parse_options
from eval.scoring.evaluation_run import read_run

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Options of the report."""

    runs: tuple[Path, ...] = option(
        help="folder that eval.test_ytf or eval.test_lfw wrote", flags=("runs",), nargs="+", metavar="RUN"
    )
    out: Path | None = option(
        None,
        "file to write (default: RUN/report/index.html; for several runs, comparison.html next to the first)",
        metavar="FILE",
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the program. Raises `SystemExit` with a message if a run cannot be read or compared."""
    parser = argparse.ArgumentParser(prog="python -m eval.report", description=(__doc__ or "").split("\n")[0])
    options = parse_options(parser, ReportOptions, argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    first, *others = options.runs
    path = options.out or (first.parent / "comparison.html" if others else first / "report" / "index.html")
    with exit_on_errors("eval.report"):
        runs = [read_run(folder) for folder in options.runs]
        # Matplotlib takes a second to import. --help and errors in a run do not need it.
        from eval.report.page import write_report

        write_report(runs, path)
    logger.info("Report : %s", path)


if __name__ == "__main__":
    main()
