"""InsightFace's protocol for `.bin` sets: accuracy over a sweep of thresholds, and VAL at a FAR."""

import dataclasses

import numpy as np

from eval.scoring.distances import PAIRS_AT_ONCE
from eval.scoring.verification import NUM_FOLDS, VerificationResult

VAL_FAR = 1e-3
VAL_NAME = "val"  # name of the metric in a run

# InsightFace_TF, `verification.py::evaluate`.
_THRESHOLDS = np.arange(0, 4, 0.01)
_VAL_THRESHOLDS = np.arange(0, 4, 0.001)


@dataclasses.dataclass(frozen=True, eq=False)
class InsightFaceResult(VerificationResult):
    """Accuracy on a set of pairs, and rates as fractions.

    Attributes:
        distances: float64, shape `(num_pairs,)`: squared L2.
        folds: int, shape `(num_pairs,)`: the fold of each pair, from 0.
        tar, far: float64, shape `(400,)`: means over the folds at the thresholds 0, 0.01 ... 3.99.
        val, val_std: mean and standard deviation of TAR over the folds, each at the threshold where the other
            folds have FAR 1e-3.
        val_far: mean of FAR over the folds at the same thresholds.
    """

    distances: np.ndarray
    folds: np.ndarray
    tar: np.ndarray
    far: np.ndarray
    val: float
    val_std: float
    val_far: float


def evaluate_insightface(embeddings: np.ndarray, is_same: np.ndarray) -> InsightFaceResult:
    """Scores pairs as InsightFace_TF scores `lfw`, `cfp_ff`, `cfp_fp` and `agedb_30`.

    The embeddings are normalised, and the distance is squared L2. The pairs are cut, in order, into ten
    folds. If their number is not divisible by ten, the first folds have one pair more. A pair is called same
    if `distance < threshold`. The threshold of a fold is

    - for accuracy, one of 0, 0.01 ... 3.99: the smallest of those that put the most pairs of the other folds
      on the right side;
    - for VAL, InsightFace's name for this TAR, the threshold where FAR on the other folds is 1e-3, or 0 if
      FAR never reaches 1e-3. It is interpolated linearly between two of 0, 0.001 ... 3.999: the last one with
      a FAR up to 1e-3 and the first one above. SciPy's `interp1d` did the same until it began to refuse
      thresholds that share a FAR.

    References:
    - InsightFace_TF, `verification.py`: `evaluate`, `calculate_roc`, `calculate_val`, which come
      from facenet, `src/facenet.py`. Distances are float64, as there.

    Args:
        embeddings: float, finite, shape `(2 * num_pairs, dim)`: the sum over each image and its mirror image.
            Pair `i` is rows `2i` and `2i + 1`.
        is_same: bool, shape `(num_pairs,)`.

    Raises:
        ValueError: a fold has no genuine or no impostor pairs, so it has no VAL.
    """
    num_pairs = is_same.size
    sizes = num_pairs // NUM_FOLDS + (np.arange(NUM_FOLDS) < num_pairs % NUM_FOLDS)
    folds = np.repeat(np.arange(NUM_FOLDS), sizes)
    num_genuine = np.bincount(folds[is_same], minlength=NUM_FOLDS)
    num_impostor = sizes - num_genuine
    lacking = np.flatnonzero((num_genuine == 0) | (num_impostor == 0))
    if lacking.size:
        fold = lacking[0]
        raise ValueError(
            f"expected genuine and impostor pairs in each of {NUM_FOLDS} folds, cut in order, "
            f"received {num_genuine[fold]} and {num_impostor[fold]} in fold {fold}"
        )
    distances = _squared_distances(embeddings)

    genuine = _count_accepted(distances[is_same], folds[is_same], _THRESHOLDS)
    impostor = _count_accepted(distances[~is_same], folds[~is_same], _THRESHOLDS)
    right = genuine + num_impostor[:, np.newaxis] - impostor
    best = np.argmax(right.sum(axis=0) - right, axis=1)  # on the other folds; the first of several
    accuracies = right[np.arange(NUM_FOLDS), best] / sizes

    impostor_val = _count_accepted(distances[~is_same], folds[~is_same], _VAL_THRESHOLDS)
    others = impostor_val.sum(axis=0) - impostor_val
    fars = others / (num_impostor.sum() - num_impostor)[:, np.newaxis]
    val_thresholds = np.array(
        [np.interp(VAL_FAR, far, _VAL_THRESHOLDS) if far[-1] >= VAL_FAR else 0 for far in fars]
    )
    accepted = distances < val_thresholds[folds]
    val = np.bincount(folds[accepted & is_same], minlength=NUM_FOLDS) / num_genuine
    val_far = np.bincount(folds[accepted & ~is_same], minlength=NUM_FOLDS) / num_impostor
    return InsightFaceResult(
        accuracy=float(accuracies.mean()),
        std=float(accuracies.std()),
        threshold=float(_THRESHOLDS[best].mean()),
        fold_accuracies=tuple(accuracies.tolist()),
        fold_thresholds=tuple(_THRESHOLDS[best].tolist()),
        distances=distances,
        folds=folds,
        tar=(genuine / num_genuine[:, np.newaxis]).mean(axis=0),
        far=(impostor / num_impostor[:, np.newaxis]).mean(axis=0),
        val=float(val.mean()),
        val_std=float(val.std()),
        val_far=float(val_far.mean()),
    )


def _squared_distances(embeddings):
    """Computes squared L2 distances in float64, in blocks of pairs that stay in a core's cache."""
    distances = []
    for start in range(0, len(embeddings), 2 * PAIRS_AT_ONCE):
        block = embeddings[start : start + 2 * PAIRS_AT_ONCE].astype(np.float64)
        lengths = np.linalg.norm(block, axis=1, keepdims=True)
        block /= np.where(lengths > 0, lengths, 1)
        distances.append(np.square(block[0::2] - block[1::2]).sum(axis=1))
    return np.concatenate(distances)


def _count_accepted(distances, folds, thresholds):
    """Counts the pairs of each fold with `distance < threshold`: int, shape `(NUM_FOLDS, thresholds)`."""
    num_refusing = np.searchsorted(thresholds, distances, side="right")
    cells = folds * (thresholds.size + 1) + num_refusing
    counts = np.bincount(cells, minlength=NUM_FOLDS * (thresholds.size + 1)).reshape(NUM_FOLDS, -1)
    return counts[:, :-1].cumsum(axis=1)
