"""Writes the folder of a run, with scores, pairs, pictures and report."""

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from common.files import atomic_folder, cut_name, folder_lock
from eval.report.pair_pictures import write_pictures
from eval.scoring.evaluation_run import ScoredPairs, Scores, write_run

_FAITHFUL = "faithful"
_MAX_NAME = 200  # bytes


def default_output(set_name: str, model_path: Path, faithful: bool) -> Path:
    """Returns the default folder of a run. Each model path, each set and `--faithful` has its own folder.

    The model `output/ckpt` gets `output/ytf/output--ckpt`. A checksum is appended if another path could get
    the same name, if the name is too long, and for paths outside the working directory.
    """
    path = Path(os.path.abspath(model_path))  # noqa: PTH100 - `resolve` would follow links
    is_inside = path.is_relative_to(Path.cwd()) and path != Path.cwd()
    parts = path.relative_to(Path.cwd()).parts if is_inside else path.parts[1:][-2:]
    name = "--".join(parts)
    is_clear = is_inside and not any("--" in f"-{part}-" or part == _FAITHFUL for part in parts)
    if not is_clear or len(os.fsencode(name)) > _MAX_NAME:
        checksum = hashlib.sha256(os.fsencode(path)).hexdigest()[:8]
        name = f"{cut_name(name, _MAX_NAME)}--{checksum}"
    return Path("output", set_name, f"{name}--{_FAITHFUL}" if faithful else name)


@contextlib.contextmanager
def held_output(output: Path) -> Iterator[None]:
    """Locks the output folder of a run until the end of the block.

    Raises:
        ValueError: the folder is not empty and not that of an earlier run.
        OSError: another process has locked it, or it cannot be written.
    """
    if output.exists() and not (output / "scores.json").is_file() and any(output.iterdir()):
        raise ValueError(
            f"{output}: not empty, and not the folder of an earlier run. Empty it, or give another --output."
        )
    with folder_lock(output, replaced=True):
        yield


def write_run_folder(
    output: Path, scores: Scores, pairs: ScoredPairs, column: Callable[[str, int], np.ndarray]
) -> Path:
    """Writes the folder of a run, replaces an earlier one, and returns the path of the report.

    Args:
        output: the folder.
        scores: the scores of the run.
        pairs: the pairs of the run.
        column: returns faces; see `eval.report.pair_pictures.write_pictures`.
    """
    from eval.report.page import write_report  # Imports matplotlib, which takes a second.

    with atomic_folder(output) as folder:
        run = write_run(folder, scores, pairs)
        write_pictures(run, pairs, column)
        write_report([run], folder / "report" / "index.html")
    return output / "report" / "index.html"
