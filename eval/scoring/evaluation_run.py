"""The dataclasses of a run of an evaluation, and the folder that stores them.

`scores.json` contains `Scores`, and `pairs.npz` contains `ScoredPairs`.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from common.files import atomic_file, printable, write_file
from common.npy import read_array
from common.typed_json import from_json, read_json
from eval.embedding.engines import Engine
from eval.scoring.coverage import Coverage
from eval.scoring.verification import IMAGE_FOLDS, RULES, is_right
from eval.scoring.ytf_protocol import ERROR_FILTERS, FOLDS, MATCHES
from nets.importers.model_files import ModelDescription
from nets.importers.plain_zip import PlainZip

VERSION = 1
_CHOICES = {
    "rule": (*RULES, "insightface"),
    "folds": (*FOLDS, *IMAGE_FOLDS, "insightface"),
    "error_filter": tuple(ERROR_FILTERS),
    "error_match": MATCHES,
}
_KINDS = {"U": "text", "b": "bool", "i": "integer", "f": "float"}  # of a dtype
_VECTORS = {"first": "U", "second": "U", "is_same": "b", "splits": "i"}
_BY_LINE = {"used": "b", "folds": "i"}

T = TypeVar("T")


class ByErrorFilter(NamedTuple, Generic[T]):
    """One value for each of the three lines of scores. The fields are the keys of `ERROR_FILTERS`."""

    none: T
    both: T
    positives: T

    def select(self, error_filter: str) -> T:
        """Returns the value for one error filter."""
        return getattr(self, error_filter)


@dataclass(frozen=True)
class InputFile:
    """A file or folder that the run read."""

    path: str
    sha256: str


@dataclass(frozen=True)
class InputFrames(InputFile):
    """The frames, and how they were prepared for the model. Sizes are `(height, width)` in pixels."""

    image_size: tuple[int, int]
    crop: tuple[int, int] | None
    flip: bool


@dataclass(frozen=True)
class Inputs:
    """Everything that the run read. For image pairs, `frames` is the one file of the set."""

    model: InputFile
    splits: InputFile | None
    ytf_error: InputFile | None
    frames: InputFrames


@dataclass(frozen=True)
class LineScores:
    """One line of scores by the chosen method.

    `accuracy` and `threshold` are means over the folds, and `std` is the standard deviation of the accuracy.
    `folds` lists the numbers of the folds.
    """

    name: str
    num_pairs: int
    num_genuine: int
    accuracy: float
    std: float
    threshold: float
    folds: tuple[int, ...]
    fold_accuracies: tuple[float, ...]
    fold_thresholds: tuple[float, ...]
    fold_sizes: tuple[int, ...]

    def __post_init__(self):
        if len(self.folds) < 2:
            raise ValueError(f"folds: expected at least 2, received {len(self.folds)}")
        for name in ("fold_accuracies", "fold_thresholds", "fold_sizes"):
            if len(getattr(self, name)) != len(self.folds):
                raise ValueError(f"{name}: expected {len(self.folds)} items")


@dataclass(frozen=True)
class MethodScores:
    """The scores of one method: accuracies on all lines, and the rest on the chosen line.

    A metric is `None` and has no interval if there are too few impostor pairs to measure it.
    """

    lines: ByErrorFilter[float]
    std: float
    threshold: float
    metrics: dict[str, float | None]
    intervals: dict[str, tuple[float, float]]


@dataclass(frozen=True)
class FramesPoint:
    """The scores with at most `num_frames` frames of each video."""

    num_frames: int
    accuracy: float
    eer: float


@dataclass(frozen=True)
class Bootstrap:
    """The method behind the intervals; see `eval.scoring.metrics.bootstrap_intervals`."""

    num_resamples: int = 1000
    confidence: float = 0.95
    seed: int = 0


@dataclass(frozen=True)
class PairPicture:
    """A pair, by its position in `ScoredPairs`, and the path of its picture inside the run."""

    pair: int
    picture: str

    def __post_init__(self):
        path = Path(self.picture)
        if not path.parts or ".." in path.parts or path.is_absolute():
            raise ValueError(f"picture: expected a path inside the run, received {self.picture!r}")


@dataclass(frozen=True)
class HardestPairs:
    """Genuine pairs that are far apart and impostor pairs that are close together, hardest first."""

    genuine: tuple[PairPicture, ...]
    impostor: tuple[PairPicture, ...]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The content of `scores.json`.

    Attributes:
        name: name of the model.
        set: name of the set of videos or images.
        faithful: whether the run scored as the original does.
        command: the command line.
        versions: versions of the installed packages.
        engine: the engine that computed the embeddings. `None` in runs of older versions.
        model: net, steps and date. `None` in runs of older versions.
        coverage: `None` for image pairs, which are always complete.
        method, rule, folds, error_filter, error_match: see `eval.scoring.videos.VideoProtocol`. For image
            pairs, the method is the distance.
        lines: scores of the chosen method. For image pairs all lines are the same, because no pair is listed
            as wrong.
        frames_curve: empty for image pairs.
    """

    version: int = VERSION
    name: str
    set: str
    faithful: bool
    command: str
    versions: dict[str, str]
    inputs: Inputs
    engine: Engine | None = None
    model: ModelDescription | None = None
    coverage: Coverage | None
    method: str
    rule: str
    folds: str
    error_filter: str
    error_match: str
    lines: ByErrorFilter[LineScores]
    methods: dict[str, MethodScores]
    frames_curve: tuple[FramesPoint, ...]
    bootstrap: Bootstrap
    hardest: HardestPairs

    def __post_init__(self):
        for name, allowed in {"method": self.methods, **_CHOICES}.items():
            value = getattr(self, name)
            if value not in allowed:
                raise ValueError(f"{name}: expected one of {', '.join(allowed)}, received {value!r}")


@dataclass(frozen=True, eq=False)
class ScoredPairs:
    """The content of `pairs.npz`: the pairs whose videos both have frames, or all pairs of images.

    All arrays have the shape `(num_pairs,)`.

    Attributes:
        first, second: names of the videos or images.
        is_same: bool: whether a pair is genuine.
        splits: int, the splits in the file; for image pairs, the folds.
        used: bool, for each line: whether a pair belongs to it.
        folds: int, for each line: the fold of a pair, negative for pairs that are never scored.
        distances: float, by method.
    """

    first: np.ndarray
    second: np.ndarray
    is_same: np.ndarray
    splits: np.ndarray
    used: ByErrorFilter[np.ndarray]
    folds: ByErrorFilter[np.ndarray]
    distances: dict[str, np.ndarray]

    def __len__(self):
        return len(self.is_same)


@dataclass(frozen=True, eq=False)
class EvaluationRun:
    """The results of one run of an evaluation, and the folder with its files and pictures."""

    folder: Path
    scores: Scores
    pairs: ScoredPairs

    @property
    def method(self) -> MethodScores:
        """Scores of the chosen method."""
        return self.scores.methods[self.scores.method]

    @property
    def distances(self) -> np.ndarray:
        """Distances by the chosen method."""
        return self.pairs.distances[self.scores.method]

    @property
    def named_lines(self) -> dict[str, LineScores]:
        """The lines by error filter. Lines with the scores of the chosen or an earlier line are left out."""
        lines, kept = self.scores.lines._asdict(), {}
        for key in (self.scores.error_filter, *lines):
            scores = dataclasses.replace(lines[key], name="")
            if scores not in kept.values():
                kept[key] = scores
        return {key: line for key, line in lines.items() if key in kept}

    @property
    def line(self) -> LineScores:
        """Scores of the chosen line."""
        return self.scores.lines.select(self.scores.error_filter)

    def thresholds(self, error_filter: str) -> np.ndarray:
        """Returns the threshold of each pair's fold: float `(num_pairs,)`, NaN for pairs without a score."""
        line = self.scores.lines.select(error_filter)
        by_fold = dict(zip(line.folds, line.fold_thresholds, strict=True))
        folds = self.pairs.folds.select(error_filter)
        return np.array([by_fold.get(fold, np.nan) for fold in folds.tolist()])

    def verdicts(self, error_filter: str) -> np.ndarray:
        """Returns `"right"`, `"wrong"` or `"not scored"` for each pair of a line, by the chosen method."""
        thresholds = self.thresholds(error_filter)
        right = is_right(self.distances, self.pairs.is_same, thresholds, self.scores.rule)
        return np.select([np.isnan(thresholds), right], ["not scored", "right"], "wrong")


def write_run(folder: Path, scores: Scores, pairs: ScoredPairs) -> EvaluationRun:
    """Writes the scores and pairs of a run.

    It removes earlier scores, then writes `pairs.npz`, then `scores.json`. So a folder with scores is always
    complete. File names that are not UTF-8 get replacement characters.

    Raises:
        ValueError: `read_run` would refuse the scores or the pairs. Nothing is written then.
    """
    scores_path, pairs_path = folder / "scores.json", folder / "pairs.npz"
    try:
        content = json.dumps(dataclasses.asdict(scores), indent=1, allow_nan=False, ensure_ascii=False)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{scores_path}: {error}. Give values that JSON can store.") from None
    content = printable(content) + "\n"
    scores = _scores(scores_path, json.loads(content))
    arrays = {
        **{name: getattr(pairs, name) for name in _VECTORS},
        **{name: np.stack(getattr(pairs, name)) for name in _BY_LINE},
        **{f"distances/{method}": distances for method, distances in pairs.distances.items()},
    }
    pairs = _scored_pairs(pairs_path, arrays, scores)
    scores_path.unlink(missing_ok=True)
    with atomic_file(pairs_path) as file:
        np.savez(file, **arrays)
    write_file(scores_path, content)
    return EvaluationRun(folder, scores, pairs)


def read_run(folder: Path) -> EvaluationRun:
    """Reads and checks what `write_run` wrote. Nothing in the files is executed.

    Raises:
        FileNotFoundError: the folder has no scores or no pairs.
        ValueError: a file has another version, or its keys, types or arrays are not those of a run.
    """
    paths = scores_path, pairs_path = folder / "scores.json", folder / "pairs.npz"
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file. Give a folder of eval.test_ytf or eval.test_lfw.")
    scores = _scores(scores_path, read_json(scores_path))
    try:
        with PlainZip(pairs_path) as file:
            arrays = {name.removesuffix(".npy"): read_array(file.entry(name)) for name in file.namelist()}
    except ValueError as error:
        raise ValueError(f"{pairs_path}: not an archive of NumPy arrays: {error}") from None
    return EvaluationRun(folder, scores, _scored_pairs(pairs_path, arrays, scores))


def _scores(path: Path, content: Any) -> Scores:
    # Another version may have other keys, so the version is checked first.
    if isinstance(content, dict) and content.get("version") != VERSION:
        raise ValueError(f"{path}, version: expected {VERSION}, received {content.get('version')!r}")
    return from_json(Scores, content, path)


def _scored_pairs(path: Path, arrays: dict[str, np.ndarray], scores: Scores) -> ScoredPairs:
    """Checks the arrays of `pairs.npz`, also against the scores, and returns them as `ScoredPairs`."""
    expected = {**_VECTORS, **_BY_LINE, **{f"distances/{method}": "f" for method in scores.methods}}
    if arrays.keys() != expected.keys():
        received = ", ".join(arrays) or "none"
        raise ValueError(f"{path}: expected arrays {', '.join(expected)}, received {received}")
    num_pairs = arrays["is_same"].size
    for name, kind in expected.items():
        array, shape = arrays[name], (3, num_pairs) if name in _BY_LINE else (num_pairs,)
        if array.dtype.kind != kind or array.shape != shape:
            raise ValueError(
                f"{path}, {name}: expected {_KINDS[kind]} of shape {shape}, "
                f"received {array.dtype} of shape {array.shape}"
            )
        if kind == "f" and not np.isfinite(array).all():
            pair = np.flatnonzero(~np.isfinite(array))[0]
            raise ValueError(
                f"{path}, {name}: expected finite distances, received {array[pair]} for pair {pair}"
            )
    pairs = ScoredPairs(
        **{name: arrays[name] for name in _VECTORS},
        used=ByErrorFilter(*arrays["used"]),
        folds=ByErrorFilter(*arrays["folds"]),
        distances={method: arrays[f"distances/{method}"] for method in scores.methods},
    )
    for name, line, used, folds in zip(ERROR_FILTERS, scores.lines, pairs.used, pairs.folds, strict=True):
        if len(np.unique(pairs.is_same[used])) < 2:
            raise ValueError(f"{path}, used, line {name}: expected genuine and impostor pairs")
        unknown = sorted(set(folds[folds >= 0].tolist()) - set(line.folds))
        if unknown:
            raise ValueError(f"{path}, folds, line {name}: expected {line.folds}, received {unknown[0]}")
    for entry in (*scores.hardest.genuine, *scores.hardest.impostor):
        if not 0 <= entry.pair < num_pairs:
            raise ValueError(f"{path}: has only {num_pairs} pairs, but scores.json names pair {entry.pair}")
    return pairs
