"""The folder of a run: scores, pairs, pictures and report."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from common.files import atomic_folder
from eval.report.pair_pictures import write_pictures
from eval.scoring.evaluation_run import ScoredPairs, Scores, write_run


def check_output(output: Path) -> None:
    """Raises `ValueError` for a folder that has content, but not that of an earlier run."""
    if output.exists() and not (output / "scores.json").is_file() and any(output.iterdir()):
        raise ValueError(f"{output}: not the folder of an earlier run. Empty it, or give another --output.")


def write_run_folder(
    output: Path, scores: Scores, pairs: ScoredPairs, column: Callable[[str, int], np.ndarray]
) -> Path:
    """Writes the folder of a run, in place of an earlier one, and returns the path of the report.

    Args:
        column: see `eval.report.pair_pictures.write_pictures`.
    """
    from eval.report.page import write_report  # Imports matplotlib, which takes a second.

    with atomic_folder(output) as folder:
        run = write_run(folder, scores, pairs)
        write_pictures(run, pairs, column)
        write_report([run], folder / "report" / "index.html")
    return output / "report" / "index.html"
