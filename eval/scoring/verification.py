"""Verification: from the distances of pairs to accuracy, deviation and threshold."""

import dataclasses

import numpy as np

RULES = ("best", "crossing")

# Values in an array of folds, beside the numbers of the folds.
NEVER_SCORED = -1  # helps to find every threshold, is scored by none
LEFT_OUT = -2


@dataclasses.dataclass(frozen=True)
class VerificationResult:
    """The verdict on a set of pairs. Accuracies are fractions.

    Attributes:
        accuracy: mean over the folds.
        std: population standard deviation over the folds.
        threshold: mean over the folds.
        fold_accuracies, fold_thresholds: one per fold, in the order of their numbers.
    """

    accuracy: float
    std: float
    threshold: float
    fold_accuracies: tuple[float, ...]
    fold_thresholds: tuple[float, ...]

    def summary(self, name):
        """The original's line, such as `Precision on lfw : 0.99467+-0.00386`."""
        return f"Precision on {name} : {self.accuracy:.5f}+-{self.std:.5f}"


def best_threshold(positive, negative):
    """The threshold that puts the most pairs on the right side.

    A pair is called same where its distance is under the threshold. Between two neighbouring
    distinct distances every threshold does equally well, so the candidates are the middles of
    the gaps, and the two that call all pairs the same or none. Of several best candidates it is
    the middle one, by rank (the lower of the middle two): the edges of such a range are where
    the noise of a small set shows. A perfect separation has one: the middle of the gap.

    Args:
        positive, negative: float, 1-D, not empty: distances of same and of different pairs.

    Returns:
        float.
    """
    return _best_of_sorted(*_sorted_pairs(positive, negative))


def _best_of_sorted(values, is_same):
    # gained[k]: how many more pairs are right when the k smallest distinct values are called same
    # than when none is.
    run_ends = np.append(np.flatnonzero(values[1:] != values[:-1]), values.size - 1)
    gained = np.append(0, np.cumsum(np.where(is_same, 1, -1))[run_ends])
    candidates = np.flatnonzero(gained == gained.max())
    num_below = candidates[(candidates.size - 1) // 2]
    if num_below == 0:
        return float(values[0])
    if num_below == run_ends.size:
        return float(np.nextafter(values[-1], np.inf))
    low, high = values[run_ends[num_below - 1] + np.arange(2)]
    middle = low + (high - low) / 2
    return float(middle if middle > low else high)  # between adjacent floats there is no middle


def crossing_threshold(positive, negative):
    """The original's threshold: where the sorted distances cross.

    With the positives ascending and the negatives descending, it is the mean of the first two
    of equal rank where the positive is the larger. If there are none, which is a perfect
    separation, it is 0, and then every negative is right and every positive wrong.

    References:
    - margin-centre-face, `util/verification.py::find_threshold_sort`

    Args:
        positive, negative: float, 1-D: distances of same and of different pairs.

    Returns:
        float.
    """
    return _crossing_of_sorted(*_sorted_pairs(positive, negative))


def _crossing_of_sorted(values, is_same):
    ascending, descending = values[is_same], values[~is_same][::-1]
    length = min(ascending.size, descending.size)
    crossed = np.flatnonzero(ascending[:length] > descending[:length])
    return float((ascending[crossed[0]] + descending[crossed[0]]) / 2) if crossed.size else 0.0


def _sorted_pairs(positive, negative):
    """`(distances, is_same)` in ascending order."""
    distances = np.concatenate([np.asarray(positive, np.float64), np.asarray(negative, np.float64)])
    order = np.argsort(distances)
    return distances[order], order < len(positive)


# Of distances in ascending order, and whether each is of a pair of the same person.
_THRESHOLDS = {"best": _best_of_sorted, "crossing": _crossing_of_sorted}


def even_folds(is_same, num_folds=10):
    """Splits the positives and the negatives, each in order, into nearly equal folds.

    Args:
        is_same: bool, shape `(pairs,)`.
        num_folds: int >= 2. Defaults to `10`.

    Returns:
        int array, shape `(pairs,)`: the fold of every pair, in `[0, num_folds)`.

    Raises:
        ValueError: fewer positives or negatives than folds.
    """
    is_same = _checked_is_same(is_same)
    _check_counts(is_same, num_folds)
    folds = np.empty(is_same.size, int)
    for kind in (is_same, ~is_same):
        count = np.count_nonzero(kind)
        folds[kind] = np.arange(count) * num_folds // count
    return folds


def original_folds(is_same, num_folds=10):
    """The folds of the original, for `evaluate_pairs` (fidelity row 19).

    It counts by the positives alone, `fold_size = num_positives // num_folds`, and gives the
    negative of equal rank the same fold. The pairs past `num_folds * fold_size` are in the
    training part of every fold, and negatives past the number of positives are not used.
    The two agree with `even_folds` where both counts are equal and divisible by `num_folds`.

    References:
    - margin-centre-face, `util/verification.py::test_kfold`

    Args:
        is_same: bool, shape `(pairs,)`.
        num_folds: int >= 2. Defaults to `10`.

    Returns:
        int array, shape `(pairs,)`: the fold of every pair, `NEVER_SCORED` or `LEFT_OUT`.

    Raises:
        ValueError: fewer positives than folds, or fewer negatives than positives. There the
            original crashed.
    """
    is_same = _checked_is_same(is_same)
    _check_counts(is_same, num_folds)
    positives, negatives = np.flatnonzero(is_same), np.flatnonzero(~is_same)
    if negatives.size < positives.size:
        raise ValueError(
            f"expected at least as many negatives as positives for the original's folds, "
            f"received {positives.size} positives and {negatives.size} negatives"
        )
    by_rank = np.arange(positives.size) // (positives.size // num_folds)
    by_rank[by_rank >= num_folds] = NEVER_SCORED
    folds = np.full(is_same.size, LEFT_OUT)
    folds[positives] = by_rank
    folds[negatives[: positives.size]] = by_rank
    return folds


def evaluate_pairs(distances, is_same, rule="best", num_folds=10, folds=None):
    """Scores every fold with the threshold found on the others.

    A pair is called same where `distance < threshold`, and different otherwise. By the rule
    `"crossing"` a distance equal to the threshold is wrong either way, as in the original.

    Args:
        distances: float, finite, shape `(pairs,)`.
        is_same: bool, shape `(pairs,)`.
        rule: `"best"` (`best_threshold`) or `"crossing"` (`crossing_threshold`), how a
            threshold is found. Defaults to `"best"` (fidelity row 18).
        num_folds: int >= 2, for `even_folds`. Defaults to `10`. Not used with `folds`.
        folds: int, shape `(pairs,)`: the number of every pair's fold, from any start,
            `NEVER_SCORED` or `LEFT_OUT`. Defaults to `even_folds`, which scores each pair once.

    Returns:
        A `VerificationResult`.

    Raises:
        ValueError: arguments that do not fit together, distances that are not finite, or
            folds that leave another one without positives or negatives to find a threshold on.

    Example:

    >>> distances = np.array([0.1, 0.2, 0.7, 0.8])
    >>> is_same = np.array([True, True, False, False])
    >>> evaluate_pairs(distances, is_same, num_folds=2).summary("lfw")
    'Precision on lfw : 1.00000+-0.00000'
    """
    if rule not in RULES:
        raise ValueError(f"expected rule {' or '.join(RULES)}, received '{rule}'")
    is_same = _checked_is_same(is_same)
    distances = np.asarray(distances, np.float64)
    if distances.shape != is_same.shape:
        raise ValueError(
            f"expected one distance for each of {is_same.size} pairs, received shape {distances.shape}"
        )
    if not np.isfinite(distances).all():
        number = np.flatnonzero(~np.isfinite(distances))[0]
        raise ValueError(f"expected finite distances, received {distances[number]} for pair {number}")
    folds = even_folds(is_same, num_folds) if folds is None else _checked_folds(folds, is_same)
    numbers = np.unique(folds[folds >= 0])
    if numbers.size < 2:
        raise ValueError("expected at least 2 folds, received fewer")

    # Sorted once for all folds: what is left of a sorted array is sorted.
    order = np.argsort(distances)
    distances, is_same, folds = distances[order], is_same[order], folds[order]
    accuracies, thresholds = [], []
    for fold in numbers:
        scored = folds == fold
        others = ~scored & (folds != LEFT_OUT)
        of_others = is_same[others]
        num_positive = np.count_nonzero(of_others)
        if num_positive in (0, of_others.size):
            raise ValueError(
                f"expected positives and negatives outside fold {fold} to find its threshold on, "
                f"received {num_positive} and {of_others.size - num_positive}"
            )
        threshold = _THRESHOLDS[rule](distances[others], of_others)
        of_fold = distances[scored]
        right = (of_fold < threshold) == is_same[scored]
        if rule == "crossing":
            right &= of_fold != threshold
        accuracies.append(float(np.count_nonzero(right) / right.size))
        thresholds.append(threshold)
    return VerificationResult(
        accuracy=float(np.mean(accuracies)),
        std=float(np.std(accuracies)),
        threshold=float(np.mean(thresholds)),
        fold_accuracies=tuple(accuracies),
        fold_thresholds=tuple(thresholds),
    )


def _checked_is_same(is_same):
    is_same = np.asarray(is_same)
    if is_same.dtype != bool or is_same.ndim != 1:
        raise ValueError(
            f"expected is_same as booleans of shape (pairs,), "
            f"received {is_same.dtype} of shape {is_same.shape}"
        )
    return is_same


def _check_counts(is_same, num_folds):
    num_positives = np.count_nonzero(is_same)
    num_negatives = is_same.size - num_positives
    if num_folds < 2:
        raise ValueError(f"expected at least 2 folds, received {num_folds}")
    if min(num_positives, num_negatives) < num_folds:
        raise ValueError(
            f"expected at least {num_folds} positives and {num_folds} negatives for {num_folds} folds, "
            f"received {num_positives} and {num_negatives}"
        )


def _checked_folds(folds, is_same):
    folds = np.asarray(folds)
    if folds.shape != is_same.shape or not np.issubdtype(folds.dtype, np.integer):
        raise ValueError(
            f"expected the fold of each of {is_same.size} pairs as an integer, "
            f"received {folds.dtype} of shape {folds.shape}"
        )
    if folds.min(initial=0) < LEFT_OUT:
        raise ValueError(
            f"expected fold numbers from 0, or {NEVER_SCORED} or {LEFT_OUT}, received {folds.min()}"
        )
    return folds
