"""The protocol of YouTube Faces: which pairs are scored, their folds, and the three lines of scores."""

from collections.abc import Sequence

import numpy as np

from eval.scoring.verification import ScoredLine, evaluate_pairs, even_folds, original_folds

ERROR_FILTERS = {  # row 21 of docs/fidelity.md; the values are the names of the scores
    "none": "YTF",
    "both": "YTF-corrected (both)",
    "positives": "YTF-corrected (positives)",
}
MATCHES = ("exact", "substring")
FOLDS = ("official", "position")


def involves_wrong_video(
    first: np.ndarray, second: np.ndarray, wrong_videos: Sequence[str], match: str = "exact"
) -> np.ndarray:
    """Returns which pairs have a video with a wrong identity.

    References:
    - margin-centre-face, `eval/test_ytf.py`, which uses `match="substring"` (row 21 of docs/fidelity.md)

    Args:
        first, second: names of the videos of each pair.
        wrong_videos: names of the videos with a wrong identity.
        match: one of `MATCHES`. With `"substring"`, a video is also wrong if its name contains the name of
            a wrong one.

    Returns:
        bool, shape `(num_pairs,)`.
    """
    if match == "exact":
        return np.isin(first, wrong_videos) | np.isin(second, wrong_videos)
    pairs = zip(first, second, strict=True)
    return np.array([any(wrong in video for wrong in wrong_videos for video in pair) for pair in pairs], bool)


def score_lines(
    distances: np.ndarray,
    is_same: np.ndarray,
    splits: np.ndarray,
    is_wrong: np.ndarray,
    rule: str = "best",
    folds: str = "official",
) -> dict[str, ScoredLine]:
    """Scores the same pairs three times: all of them, and without the wrong videos in two ways.

    All arrays have the shape `(num_pairs,)`.

    Args:
        distances: float, finite.
        is_same: bool: whether a pair is genuine.
        splits: int, the official split of each pair.
        is_wrong: bool, from `involves_wrong_video`.
        rule: see `eval.scoring.verification.evaluate_pairs`.
        folds: `"official"` for the splits; or `"position"` for the original's folds (rows 19 and 20 of
            docs/fidelity.md), counted over the pairs that each line uses. The line `"both"` is not in the
            original and uses `even_folds`.

    Returns:
        A line for each of `ERROR_FILTERS`.

    Raises:
        ValueError: the pairs cannot be scored like this. The message names the line.
    """
    keep = {"none": np.ones(len(is_same), bool), "both": ~is_wrong, "positives": ~(is_wrong & is_same)}
    lines = {}
    for error_filter, name in ERROR_FILTERS.items():
        used = keep[error_filter]
        try:
            if folds == "official":
                line_folds = splits[used]
            else:
                # The original has no line "both". Its folds need at least as many impostor as genuine pairs.
                make_folds = even_folds if error_filter == "both" else original_folds
                line_folds = make_folds(is_same[used])
                line_folds[line_folds >= 0] += 1  # counted from 1, like the official splits
            result = evaluate_pairs(distances[used], is_same[used], rule, folds=line_folds)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        all_folds = np.full(len(is_same), -1)
        all_folds[used] = line_folds
        lines[error_filter] = ScoredLine(name, used, all_folds, result)
    return lines
