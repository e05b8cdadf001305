"""A run of the video evaluation as a folder: `scores.json`, `pairs.npz` and pictures."""

import dataclasses
import json
import zipfile
from pathlib import Path

import numpy as np

from dataset.atomic import atomic_file
from eval.run_format import check_arrays, check_scores
from eval.ytf_protocol import ERROR_FILTERS


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """What a run of `eval.test_ytf` found.

    Attributes:
        folder: Path.
        scores: dict, the content of `scores.json`.
        arrays: dict, the content of `pairs.npz`: of every pair whose videos both have frames, `first`
            and `second` (names of the videos), `is_same`, `splits` (what the file says) and
            `distances/METHOD` for each method, shape `(num_pairs,)`; `used` (whether a pair belongs to
            each of the three lines) and `folds` (the number of its fold there, negative where it is
            never scored), shape `(3, num_pairs)`.
    """

    folder: Path
    scores: dict
    arrays: dict[str, np.ndarray]

    @property
    def label(self):
        """What to call the run."""
        return self.scores["name"]

    @property
    def line_number(self):
        """Which of the three lines the methods' table and the curves are about."""
        return list(ERROR_FILTERS).index(self.scores["error_filter"])


def write_run(folder, scores, arrays):
    """Writes `pairs.npz`, then `scores.json`: a folder with scores is whole.

    The scores of an earlier run in the folder are removed first.

    Args:
        folder: str or Path, made if need be.
        scores: dict, as `scores.json` holds it.
        arrays: dict, see `Run`.

    Returns:
        The `Run`.

    Raises:
        ValueError: scores or arrays that `read_run` would refuse; nothing is written then.
    """
    folder = Path(folder)
    scores_path, pairs_path = folder / "scores.json", folder / "pairs.npz"
    try:
        content = json.dumps(scores, indent=1, allow_nan=False).encode() + b"\n"
    except (ValueError, TypeError) as error:
        raise ValueError(f"{scores_path}: expected what JSON can hold, received {error}") from None
    scores = json.loads(content)  # as it will be read: without tuples
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    check_scores(scores_path, scores)
    check_arrays(pairs_path, arrays, scores)
    folder.mkdir(parents=True, exist_ok=True)
    scores_path.unlink(missing_ok=True)
    with atomic_file(pairs_path) as file:
        np.savez(file, **arrays)
    with atomic_file(scores_path) as file:
        file.write(content)
    return Run(folder, scores, arrays)


def read_run(folder):
    """Reads and checks what `write_run` wrote; nothing in the files is run.

    Args:
        folder: str or Path.

    Returns:
        The `Run`.

    Raises:
        FileNotFoundError: no such folder, or one without scores or pairs.
        ValueError: another version, keys, types or arrays. The message names the file, what was
            expected and what was received.
    """
    folder = Path(folder)
    scores_path, pairs_path = folder / "scores.json", folder / "pairs.npz"
    for path in (scores_path, pairs_path):
        if not path.is_file():
            raise FileNotFoundError(f"{folder}: expected a run with {path.name}, received none")
    try:
        scores = json.loads(scores_path.read_bytes(), parse_constant=_refuse_constant)
    except ValueError as error:  # of JSON or of UTF-8
        raise ValueError(f"{scores_path}: expected JSON, received {error}") from None
    check_scores(scores_path, scores)
    try:
        with np.load(pairs_path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, EOFError, KeyError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{pairs_path}: expected arrays of NumPy, received {error}") from None
    check_arrays(pairs_path, arrays, scores)
    return Run(folder, scores, arrays)


def _refuse_constant(name):
    raise ValueError(f"the number {name}")
