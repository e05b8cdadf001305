"""Makes the page of a run of `eval.test_ytf`, or of several beside one another.

python -m eval.report RUN [RUN ...]
"""

import argparse
import logging
from pathlib import Path

from eval.scoring.evaluation_run import read_run

logger = logging.getLogger(__name__)


def main(argv=None):
    """The program; `SystemExit` with a message if there is nothing to report."""
    args = _parse_arguments(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        runs = [read_run(folder) for folder in args.runs]
        # Matplotlib takes a while to import: not for --help, nor to refuse a wrong folder.
        from eval.report.page import write_report

        path = args.out or _default_path(args.runs)
        write_report(runs, path)
    except (ValueError, OSError) as error:
        raise SystemExit(f"eval.report: {error}") from None
    logger.info("Report : %s", path)


def _default_path(folders):
    return (
        folders[0] / "report" / "index.html" if len(folders) == 1 else folders[0].parent / "comparison.html"
    )


def _parse_arguments(argv):
    parser = argparse.ArgumentParser(prog="python -m eval.report", description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder that eval.test_ytf wrote")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="the page (RUN/report/index.html; of several runs comparison.html beside the first)",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
