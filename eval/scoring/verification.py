"""Computes the accuracy of verification, its deviation and its threshold from the distances of pairs."""

import dataclasses
from typing import Any

import numpy as np

NUM_FOLDS = 10

# Special values in an array of fold numbers.
NEVER_SCORED = -1  # a pair that helps to find every threshold but is not scored
LEFT_OUT = -2  # a pair that is not used at all


@dataclasses.dataclass(frozen=True)
class VerificationResult:
    """Accuracy on a set of pairs, as a fraction, and the thresholds behind it.

    Attributes:
        accuracy, threshold: means over the folds.
        std: population standard deviation over the folds.
        fold_accuracies, fold_thresholds: one per fold, in the order of their numbers.
    """

    accuracy: float
    std: float
    threshold: float
    fold_accuracies: tuple[float, ...]
    fold_thresholds: tuple[float, ...]

    def summary(self, name: str) -> str:
        """Returns the line that the original prints, such as `Precision on lfw : 0.99467+-0.00386`."""
        return f"Precision on {name} : {self.accuracy:.5f}+-{self.std:.5f}"


@dataclasses.dataclass(frozen=True, eq=False)
class ScoredLine:
    """One line of scores.

    Attributes:
        name: its name in the printed line.
        used: bool, shape `(num_pairs,)`: whether a pair belongs to the line.
        folds: int, shape `(num_pairs,)`: the fold of each pair, negative if the pair is not scored.
        result: accuracy and thresholds.
    """

    name: str
    used: np.ndarray
    folds: np.ndarray
    result: VerificationResult


def best_threshold(distances: np.ndarray, is_same: np.ndarray) -> float:
    """Returns the threshold that puts the most pairs on the right side.

    A pair is called same if its distance is below the threshold. All thresholds between two neighbouring
    distinct distances are equally good, so the candidates are the middles of these gaps, and one threshold
    each that calls all pairs or no pair same. If several candidates are best, the middle one by rank is
    returned, or the lower of the middle two, because the ends of their range depend on the noise of a small
    set.

    Args:
        distances: float, ascending, shape `(pairs,)`, not empty.
        is_same: bool, shape `(pairs,)`.
    """
    # gained[k]: how many more pairs are right if the pairs with the k smallest distinct distances are called
    # same than if no pair is.
    run_ends = np.append(np.flatnonzero(distances[1:] != distances[:-1]), distances.size - 1)
    gained = np.append(0, np.cumsum(np.where(is_same, 1, -1))[run_ends])
    candidates = np.flatnonzero(gained == gained.max())
    num_below = candidates[(candidates.size - 1) // 2]
    if num_below == 0:
        return float(distances[0])
    if num_below == run_ends.size:
        return float(np.nextafter(distances[-1], np.inf))
    low, high = distances[run_ends[num_below - 1] + np.arange(2)]
    middle = low + (high - low) / 2
    return float(middle if middle > low else high)  # Between adjacent floats there is no middle.


def crossing_threshold(distances: np.ndarray, is_same: np.ndarray) -> float:
    """Returns the original's threshold: where the sorted distances cross.

    Sort the distances of the genuine pairs in ascending order and those of the impostor pairs in descending
    order. At the first rank where the genuine distance is larger, the threshold is the mean of the two. If
    the two kinds are perfectly separated, there is no such rank. Then the threshold is 0, so every impostor
    pair is right and every genuine pair is wrong.

    Args:
        distances: float, ascending, shape `(pairs,)`.
        is_same: bool, shape `(pairs,)`.

    References:
    - margin-centre-face, `util/verification.py::find_threshold_sort`
    """
    ascending, descending = distances[is_same], distances[~is_same][::-1]
    length = min(ascending.size, descending.size)
    crossed = np.flatnonzero(ascending[:length] > descending[:length])
    return float((ascending[crossed[0]] + descending[crossed[0]]) / 2) if crossed.size else 0.0


_THRESHOLDS = {"best": best_threshold, "crossing": crossing_threshold}
RULES = tuple(_THRESHOLDS)


def even_folds(is_same: np.ndarray, num_folds: int = NUM_FOLDS) -> np.ndarray:
    """Splits the genuine and the impostor pairs, each in order, into nearly equal folds.

    Returns:
        int, shape `(pairs,)`: the fold of every pair, in `[0, num_folds)`.

    Raises:
        ValueError: there are fewer genuine or impostor pairs than folds.
    """
    _check_counts(is_same, num_folds)
    folds = np.empty(is_same.size, int)
    for kind in (is_same, ~is_same):
        count = np.count_nonzero(kind)
        folds[kind] = np.arange(count) * num_folds // count
    return folds


def original_folds(is_same: np.ndarray) -> np.ndarray:
    """Returns the folds of the original, for `evaluate_pairs` (row 19 of docs/fidelity.md).

    The number of genuine pairs alone decides the size of a fold, `num_genuine // 10`. The impostor pair of
    equal rank gets the same fold. The pairs after the tenth fold only help to find thresholds. Impostor pairs
    beyond the number of genuine pairs are not used. The folds equal `even_folds` if there are as many genuine
    as impostor pairs and their number is divisible by 10.

    References:
    - margin-centre-face, `util/verification.py::test_kfold`

    Returns:
        int, shape `(pairs,)`: the fold of every pair, `NEVER_SCORED` or `LEFT_OUT`.

    Raises:
        ValueError: there are fewer genuine pairs than folds, or fewer impostor than genuine pairs. The
            original crashed on both.
    """
    _check_counts(is_same, NUM_FOLDS)
    genuine, impostor = np.flatnonzero(is_same), np.flatnonzero(~is_same)
    if impostor.size < genuine.size:
        raise ValueError(
            f"expected at least as many impostor as genuine pairs for the original's folds, "
            f"received {genuine.size} genuine and {impostor.size} impostor pairs"
        )
    by_rank = np.arange(genuine.size) // (genuine.size // NUM_FOLDS)
    by_rank[by_rank >= NUM_FOLDS] = NEVER_SCORED
    folds = np.full(is_same.size, LEFT_OUT)
    folds[genuine] = by_rank
    folds[impostor[: genuine.size]] = by_rank
    return folds


# How pairs of images can be divided into folds, by their order in the file.
IMAGE_FOLDS = {"even": even_folds, "original": original_folds}


def evaluate_pairs(
    distances: np.ndarray, is_same: np.ndarray, rule: str = "best", folds: np.ndarray | None = None
) -> VerificationResult:
    """Scores every fold with the threshold found on the other folds.

    Args:
        distances: float, finite, shape `(pairs,)`.
        is_same: bool, shape `(pairs,)`.
        rule: one of `RULES`: `"best"` (`best_threshold`) or `"crossing"` (`crossing_threshold`); see row 18
            of docs/fidelity.md.
        folds: int, shape `(pairs,)`: the fold number of every pair, `NEVER_SCORED` or `LEFT_OUT`. The numbers
            may start anywhere from 0. Defaults to `even_folds`, which scores each pair once.

    Raises:
        ValueError: a distance is not finite, there are fewer than two folds, or the pairs outside a fold are
            all genuine or all impostor pairs, so that its threshold cannot be found.

    Example:

    >>> distances = np.tile([0.1, 0.8], 10)
    >>> is_same = np.tile([True, False], 10)
    >>> evaluate_pairs(distances, is_same).summary("lfw")
    'Precision on lfw : 1.00000+-0.00000'
    """
    if not np.isfinite(distances).all():
        number = np.flatnonzero(~np.isfinite(distances))[0]
        raise ValueError(f"expected finite distances, received {distances[number]} for pair {number}")
    if folds is None:
        folds = even_folds(is_same)
    numbers = np.unique(folds[folds >= 0])
    if numbers.size < 2:
        raise ValueError(f"expected at least 2 folds, received {numbers.size}")

    # One sort is enough for all folds, because a part of a sorted array is sorted.
    order = np.argsort(distances)
    distances, is_same, folds = distances[order], is_same[order], folds[order]
    accuracies, thresholds = [], []
    for fold in numbers:
        scored = folds == fold
        others = ~scored & (folds != LEFT_OUT)
        num_others, num_genuine = np.count_nonzero(others), np.count_nonzero(is_same & others)
        if num_genuine in (0, num_others):
            raise ValueError(
                f"expected genuine and impostor pairs outside fold {fold} to find its threshold, "
                f"received {num_genuine} and {num_others - num_genuine}"
            )
        threshold = _THRESHOLDS[rule](distances[others], is_same[others])
        right = is_right(distances[scored], is_same[scored], threshold, rule)
        accuracies.append(float(np.count_nonzero(right) / right.size))
        thresholds.append(threshold)
    return VerificationResult(
        accuracy=float(np.mean(accuracies)),
        std=float(np.std(accuracies)),
        threshold=float(np.mean(thresholds)),
        fold_accuracies=tuple(accuracies),
        fold_thresholds=tuple(thresholds),
    )


def is_right(distances: Any, is_same: Any, thresholds: Any, rule: str) -> Any:
    """Returns whether each threshold puts its pair on the right side: bool, of the shape of the arguments.

    A pair is called same if `distance < threshold`, and different otherwise. With the rule `"crossing"`, a
    distance equal to the threshold is always wrong, as in the original.
    """
    right = (distances < thresholds) == is_same
    return right & (distances != thresholds) if rule == "crossing" else right


def _check_counts(is_same, num_folds):
    counts = [np.count_nonzero(kind) for kind in (is_same, ~is_same)]
    if min(counts) < num_folds:
        raise ValueError(
            f"expected at least {num_folds} genuine and {num_folds} impostor pairs for {num_folds} folds, "
            f"received {counts[0]} and {counts[1]}"
        )
