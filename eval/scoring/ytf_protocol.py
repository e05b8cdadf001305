"""The protocol of YouTube Faces: which pairs count, in which folds, and the three lines that come out."""

import dataclasses

import numpy as np

from eval.scoring.verification import VerificationResult, evaluate_pairs, even_folds, original_folds

ERROR_FILTERS = {  # row 21 of docs/fidelity.md; the values are what the scores are called
    "none": "YTF",
    "both": "YTF-corrected (both)",
    "positives": "YTF-corrected (positives)",
}
MATCHES = ("exact", "substring")
FOLDS = ("official", "position")


@dataclasses.dataclass(frozen=True, eq=False)
class YtfLine:
    """One of the three lines of scores.

    Attributes:
        name: what the printed line calls it.
        used: bool array, shape `(num_pairs,)`: the pairs that the wrong videos leave.
        folds: int array, shape `(num_pairs,)`: the fold of each pair, negative for one that is not
            scored.
        result: `eval.scoring.verification.VerificationResult`.
    """

    name: str
    used: np.ndarray
    folds: np.ndarray
    result: VerificationResult

    def is_misclassified(self, distances, is_same):
        """Which pairs the threshold of their own fold puts on the wrong side.

        Args:
            distances: float array, shape `(num_pairs,)`.
            is_same: bool array, shape `(num_pairs,)`.

        Returns:
            bool array, shape `(num_pairs,)`; False for a pair that is not scored.
        """
        scored = self.folds >= 0
        numbers = np.unique(self.folds[scored])
        thresholds = np.array(self.result.fold_thresholds)[np.searchsorted(numbers, self.folds[scored])]
        wrong = np.zeros(len(distances), bool)
        wrong[scored] = (distances[scored] < thresholds) != is_same[scored]
        return wrong


def involves_wrong_video(first, second, wrong_videos, match="exact"):
    """Which pairs have a video whose identity is known to be wrong.

    References:
    - margin-centre-face, `eval/test_ytf.py`: there `match="substring"`, row 21 of docs/fidelity.md

    Args:
        first, second: sequences of str, the videos of each pair.
        wrong_videos: sequence of str.
        match: `"exact"`, or `"substring"`: a video is wrong too if the name of a wrong one is
            part of its own.

    Returns:
        bool array, shape `(num_pairs,)`.
    """
    if match == "exact":
        return np.isin(first, wrong_videos) | np.isin(second, wrong_videos)
    pairs = zip(first, second, strict=True)
    return np.array([any(wrong in video for wrong in wrong_videos for video in pair) for pair in pairs], bool)


def score_lines(distances, is_same, splits, is_wrong, rule="best", folds="official"):
    """Scores the same pairs three times: all, and without the wrong videos in two ways.

    Args:
        distances: float array, shape `(num_pairs,)`.
        is_same: bool array, shape `(num_pairs,)`.
        splits: int array, shape `(num_pairs,)`, the official split of each pair.
        is_wrong: bool array, shape `(num_pairs,)`, of `involves_wrong_video`.
        rule: see `eval.scoring.verification.evaluate_pairs`.
        folds: `"official"`, the splits; or `"position"`, the original's folds (rows 19 and 20 of
            docs/fidelity.md), counted anew on the pairs that each line uses. For the line that the
            original has not, `"both"`, they are those of `even_folds`.

    Returns:
        dict from `ERROR_FILTERS` to `YtfLine`.

    Raises:
        ValueError: pairs that cannot be scored so; says which line.
    """
    keep = {"none": np.ones(len(is_same), bool), "both": ~is_wrong, "positives": ~(is_wrong & is_same)}
    lines = {}
    for error_filter, name in ERROR_FILTERS.items():
        used = keep[error_filter]
        try:
            if folds == "official":
                of_used = splits[used]
            else:
                # The original has no line "both", and its folds need at least as many negatives.
                make_folds = even_folds if error_filter == "both" else original_folds
                of_used = make_folds(is_same[used])
                of_used[of_used >= 0] += 1  # counted from 1, as the official ones
            result = evaluate_pairs(distances[used], is_same[used], rule, folds=of_used)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        of_all = np.full(len(is_same), -1)
        of_all[used] = of_used
        lines[error_filter] = YtfLine(name, used, of_all, result)
    return lines
