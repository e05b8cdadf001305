"""InsightFace's protocol for `.bin` sets: accuracy over a sweep of thresholds, and VAL at a FAR."""

import dataclasses

import numpy as np

NUM_FOLDS = 10
VAL_FAR = 1e-3

# InsightFace_TF, `verification.py::evaluate`.
_THRESHOLDS = np.arange(0, 4, 0.01)
_VAL_THRESHOLDS = np.arange(0, 4, 0.001)


@dataclasses.dataclass(frozen=True, eq=False)
class InsightFaceResult:
    """The verdict on a set of pairs. Rates are fractions, deviations population ones over the folds.

    Attributes:
        accuracy, std, threshold: float, over the folds: mean, deviation, and mean threshold.
        fold_accuracies, fold_thresholds: one per fold.
        tar, far: float64 arrays, shape `(400,)`, at the thresholds 0, 0.01 ... 3.99: means over
            the folds.
        val, val_std, val_far: float, over the folds: mean and deviation of TAR, and mean of FAR,
            at the thresholds where the other folds have FAR 1e-3.
    """

    accuracy: float
    std: float
    threshold: float
    fold_accuracies: tuple[float, ...]
    fold_thresholds: tuple[float, ...]
    tar: np.ndarray
    far: np.ndarray
    val: float
    val_std: float
    val_far: float


def evaluate_insightface(embeddings, is_same):
    """Scores pairs as InsightFace_TF scores `lfw`, `cfp_ff`, `cfp_fp` and `agedb_30`.

    The embeddings are normalised; distance is squared L2. The pairs are cut, in order, into ten
    folds, of which the first ones are longer by a pair where ten does not divide. A pair is
    called same where `distance < threshold`.

    Accuracy: of the thresholds 0, 0.01 ... 3.99 the smallest that puts the most pairs of the
    other nine folds on the right side.

    VAL: TAR of a fold at the threshold where FAR on the other nine is 1e-3; 0 where they never
    reach that. It is interpolated linearly between two of the thresholds 0, 0.001 ... 3.999: the
    last with a FAR up to 1e-3 and the first above. InsightFace_TF calls SciPy's `interp1d`, which
    did the same until it came to refuse thresholds that share a FAR.

    References:
    - InsightFace_TF, `verification.py`: `evaluate`, `calculate_roc`, `calculate_val`, which come
      from facenet, `src/facenet.py`. Distances are float64, as there.

    Args:
        embeddings: float, finite, shape `(2 * num_pairs, dim)`: of each image and its mirror
            image, added. Pair `i` is rows `2i` and `2i + 1`.
        is_same: bool, shape `(num_pairs,)`.

    Returns:
        An `InsightFaceResult`.

    Raises:
        ValueError: shapes that do not fit, an embedding that is not finite, or a fold without
            genuine or without impostor pairs, which has no VAL.
    """
    embeddings, is_same = np.asarray(embeddings), np.asarray(is_same)
    if is_same.dtype != bool or is_same.ndim != 1:
        raise ValueError(
            f"expected is_same as booleans of shape (pairs,), "
            f"received {is_same.dtype} of shape {is_same.shape}"
        )
    if embeddings.ndim != 2 or len(embeddings) != 2 * is_same.size:
        raise ValueError(
            f"expected embeddings of shape ({2 * is_same.size}, dim) for {is_same.size} pairs, "
            f"received {embeddings.shape}"
        )
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
    best = np.argmax(right.sum(axis=0) - right, axis=1)  # on the other folds, and the first of the best
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
        tar=(genuine / num_genuine[:, np.newaxis]).mean(axis=0),
        far=(impostor / num_impostor[:, np.newaxis]).mean(axis=0),
        val=float(val.mean()),
        val_std=float(val.std()),
        val_far=float(val_far.mean()),
    )


def _squared_distances(embeddings, pairs_at_once=256):
    """In float64, some pairs at a time, which stay in a core's cache."""
    distances = []
    for start in range(0, len(embeddings), 2 * pairs_at_once):
        block = embeddings[start : start + 2 * pairs_at_once].astype(np.float64)
        lengths = np.linalg.norm(block, axis=1, keepdims=True)
        if not np.isfinite(lengths).all():
            number = start + np.flatnonzero(~np.isfinite(lengths))[0]
            raise ValueError(f"embedding {number}: expected a finite embedding, received NaN or infinity")
        block /= np.where(lengths > 0, lengths, 1)
        distances.append(np.square(block[0::2] - block[1::2]).sum(axis=1))
    return np.concatenate(distances)


def _count_accepted(distances, folds, thresholds):
    """int array, shape `(NUM_FOLDS, thresholds)`: pairs of each fold with `distance < threshold`."""
    num_refusing = np.searchsorted(thresholds, distances, side="right")
    cells = folds * (thresholds.size + 1) + num_refusing
    counts = np.bincount(cells, minlength=NUM_FOLDS * (thresholds.size + 1)).reshape(NUM_FOLDS, -1)
    return counts[:, :-1].cumsum(axis=1)
