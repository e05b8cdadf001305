"""A run of the video evaluation as a folder: `scores.json`, `pairs.npz` and pictures."""

import dataclasses
import json
import zipfile
from pathlib import Path

import numpy as np

from common.files import atomic_file, write_file
from eval.scoring.verification import RULES
from eval.scoring.ytf_protocol import ERROR_FILTERS, FOLDS, MATCHES

VERSION = 1


# What scores.json holds: a type or several, a list of one kind, the keys of an object, or, with `str`
# as the only key, an object with any keys.
_RATE, _NONE = (int, float), type(None)

_MAYBE_RATE = (*_RATE, _NONE)

_FILE = {"path": str, "sha256": str}

_LINE = {
    "name": str,
    "num_pairs": int,
    "num_genuine": int,
    "accuracy": _MAYBE_RATE,
    "std": _MAYBE_RATE,
    "threshold": _MAYBE_RATE,
    "folds": [int],
    "fold_accuracies": [_RATE],
    "fold_thresholds": [_RATE],
    "fold_sizes": [int],
}

_METHOD = {
    "lines": [_MAYBE_RATE],
    "std": _MAYBE_RATE,
    "threshold": _MAYBE_RATE,
    "metrics": {str: _MAYBE_RATE},
    "intervals": {str: [_RATE]},
}

_COVERAGE = {
    "videos": int,
    "missing": [str],
    "empty": [str],
    "frames": int,
    "unusable": {str: str},
    "wrong_videos": int,
    "pairs": int,
    "genuine": int,
    "impostor": int,
    "pairs_left_out": int,
    "frames_per_video": {"min": _MAYBE_RATE, "median": _MAYBE_RATE, "max": _MAYBE_RATE},
}

_HARDEST = [{"pair": int, "picture": str}]

_SCORES = {
    "version": int,
    "name": str,
    "set": str,
    "faithful": bool,
    "method": str,
    "rule": str,
    "folds": str,
    "error_filter": str,
    "error_match": str,
    "inputs": {
        "model": _FILE,
        "splits": _FILE,
        "ytf_error": (dict, _NONE),
        "frames": {**_FILE, "image_size": [int], "crop": (list, _NONE), "flip": bool},
    },
    "coverage": _COVERAGE,
    "lines": [_LINE],
    "methods": {str: _METHOD},
    "frames_curve": [{"num_frames": int, "accuracy": _MAYBE_RATE, "eer": _MAYBE_RATE}],
    "hardest": {"genuine": _HARDEST, "impostor": _HARDEST},
    "bootstrap": {"num_resamples": int, "confidence": _RATE, "seed": int},
    "command": str,
    "versions": {str: str},
}

_ARRAYS = {  # name -> (kind of dtype, what to call it, axes)
    "first": ("U", "text", "p"),
    "second": ("U", "text", "p"),
    "is_same": ("b", "bool", "p"),
    "splits": ("i", "integer", "p"),
    "used": ("b", "bool", "lp"),
    "folds": ("i", "integer", "lp"),
}


def check_scores(path, scores):
    """Checks the content of `scores.json`.

    Args:
        path: Path, for the message.
        scores: dict.

    Raises:
        ValueError: another version, keys, types or lengths.
    """
    if isinstance(scores, dict) and scores.get("version", VERSION) != VERSION:
        raise ValueError(f"{path}: version: expected {VERSION}, received {scores['version']!r}")
    _check(path, "scores", scores, _SCORES)
    choices = {
        "method": scores["methods"],
        "rule": RULES,
        "folds": FOLDS,
        "error_filter": ERROR_FILTERS,
        "error_match": MATCHES,
    }
    for key, allowed in choices.items():
        if scores[key] not in allowed:
            raise ValueError(f"{path}: {key}: expected one of {', '.join(allowed)}, received {scores[key]!r}")
    if scores["inputs"]["ytf_error"] is not None:
        _check(path, "scores.inputs.ytf_error", scores["inputs"]["ytf_error"], _FILE)
    frames = scores["inputs"]["frames"]
    for key in ("image_size", "crop"):
        if frames[key] is not None:
            _check_length(path, f"inputs.frames.{key}", frames[key], 2)
    _check_length(path, "lines", scores["lines"], 3)
    for number, line in enumerate(scores["lines"]):
        for key in ("fold_accuracies", "fold_thresholds", "fold_sizes"):
            _check_length(path, f"lines[{number}].{key}", line[key], len(line["folds"]))
    for name, method in scores["methods"].items():
        _check_length(path, f"methods.{name}.lines", method["lines"], 3)
        for metric, interval in method["intervals"].items():
            _check_length(path, f"methods.{name}.intervals.{metric}", interval, 2)
    for kind, hardest in scores["hardest"].items():
        for number, entry in enumerate(hardest):
            parts = Path(entry["picture"]).parts
            if not parts or ".." in parts or Path(entry["picture"]).is_absolute():
                raise ValueError(
                    f"{path}: hardest.{kind}[{number}].picture: expected a path inside the run, "
                    f"received {entry['picture']!r}"
                )


def _check(path, where, value, expected):
    """Raises `ValueError` where a value of scores.json is not as `_SCORES` says."""
    if isinstance(expected, list):
        _check_type(path, where, value, list)
        for number, item in enumerate(value):
            _check(path, f"{where}[{number}]", item, expected[0])
    elif isinstance(expected, dict):
        _check_type(path, where, value, dict)
        keys = value if str in expected else expected
        missing = [key for key in keys if key not in value]
        if missing:
            raise ValueError(f"{path}: {where}: expected key {missing[0]!r}, received {', '.join(value)}")
        for key in keys:
            _check(path, f"{where}.{key}", value[key], expected.get(key, expected.get(str)))
    else:
        _check_type(path, where, value, expected)


def _check_type(path, where, value, expected):
    expected = expected if isinstance(expected, tuple) else (expected,)
    # Of Python's booleans each is an int.
    if not isinstance(value, expected) or (isinstance(value, bool) and bool not in expected):
        names = " or ".join("null" if kind is _NONE else kind.__name__ for kind in expected)
        raise ValueError(f"{path}: {where}: expected {names}, received {str(value)[:80]!r}")


def _check_length(path, where, value, expected):
    if len(value) != expected:
        raise ValueError(f"{path}: scores.{where}: expected {expected} items, received {len(value)}")


def check_arrays(path, arrays, scores):
    """Checks the content of `pairs.npz` against scores that are sound.

    Args:
        path: Path, for the message.
        arrays: dict.
        scores: dict.

    Raises:
        ValueError: other names, types or shapes, distances that are not finite, folds that the scores
            do not have, or hardest pairs that are not there.
    """
    distances = {f"distances/{name}": ("f", "float", "p") for name in scores["methods"]}
    expected = {**_ARRAYS, **distances}
    if arrays.keys() != expected.keys():
        raise ValueError(
            f"{path}: expected arrays {', '.join(expected)}, received {', '.join(arrays) or 'none'}"
        )
    sizes = {"p": arrays["is_same"].size, "l": 3}
    for name, (kind, called, axes) in expected.items():
        array, shape = arrays[name], tuple(sizes[axis] for axis in axes)
        if array.dtype.kind != kind or array.shape != shape:
            raise ValueError(
                f"{path}: {name}: expected {called} of shape {shape}, "
                f"received {array.dtype} of shape {array.shape}"
            )
        if kind == "f" and not np.isfinite(array).all():
            number = np.flatnonzero(~np.isfinite(array))[0]
            raise ValueError(
                f"{path}: {name}: expected finite distances, received {array[number]} for pair {number}"
            )
    for number, line in enumerate(scores["lines"]):
        genuine, impostor = (
            np.count_nonzero(arrays["used"][number] & kind)
            for kind in (arrays["is_same"], ~arrays["is_same"])
        )
        if not genuine or not impostor:
            raise ValueError(
                f"{path}: used of line {number}: expected genuine and impostor pairs, "
                f"received {genuine} and {impostor}"
            )
        folds = arrays["folds"][number]
        unknown = sorted(set(folds[folds >= 0].tolist()) - set(line["folds"]))
        if unknown:
            raise ValueError(
                f"{path}: folds of line {number}: expected those of the scores, {line['folds']}, "
                f"received {unknown[0]}"
            )
    for kind, hardest in scores["hardest"].items():
        for entry in hardest:
            if not 0 <= entry["pair"] < sizes["p"]:
                raise ValueError(
                    f"{path}: hardest.{kind}: expected pairs from 0 to {sizes['p'] - 1}, "
                    f"received {entry['pair']}"
                )


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
    write_file(scores_path, content)
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
