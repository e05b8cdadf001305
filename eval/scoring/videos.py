"""Scores a set of videos by every method, from the features of their frames."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from common.options import option
from dataset.pairs.video_frames import VideoFrames
from dataset.pairs.video_pairs import VideoPairs
from eval.scoring.coverage import scorable_pairs
from eval.scoring.evaluation import Evaluation, evaluate_distances
from eval.scoring.evaluation_run import ByErrorFilter, FramesPoint
from eval.scoring.metrics import equal_error_rate, roc
from eval.scoring.verification import RULES, ScoredLine
from eval.scoring.video_distances import DEFAULT_METHOD, METHODS, video_distances
from eval.scoring.ytf_protocol import ERROR_FILTERS, FOLDS, MATCHES, involves_wrong_video, score_lines


@dataclass(frozen=True)
class VideoProtocol:
    """Protocol.

    The report contains the accuracies of every method with every filter. --pooling and --ytf_error_filter
    choose the scores for the curves, the pictures and the other columns.
    """

    method: str = option(
        DEFAULT_METHOD, "how to compare two videos by their frames", flags=("--pooling",), choices=METHODS
    )
    rule: str = option(
        "best",
        "how to find the threshold of a fold on the other folds: best, for the best accuracy; or crossing, "
        "where the sorted distances cross, as in the original (row 18)",
        flags=("--threshold",),
        choices=RULES,
    )
    folds: str = option(
        "official", "the splits of the file, or folds by position as in the original (row 20)", choices=FOLDS
    )
    error_filter: str = option(
        "none",
        "which pairs to leave out if a video is listed with a wrong identity: none, genuine and impostor "
        "pairs (both), or genuine pairs (positives) (row 21)",
        flags=("--ytf_error_filter",),
        choices=tuple(ERROR_FILTERS),
    )
    error_match: str = option(
        "exact",
        "which videos are wrong: those listed, or also those whose name contains a listed name (row 21)",
        flags=("--ytf_error_match",),
        choices=MATCHES,
    )


def evaluate_videos(
    pairs: VideoPairs,
    frames: VideoFrames,
    features: np.ndarray,
    wrong_videos: Sequence[str],
    protocol: VideoProtocol,
    progress: bool = False,
) -> Evaluation:
    """Scores all methods on all three lines.

    Args:
        pairs: the pairs to score. Those without frames on both sides are left out.
        frames: frames of the videos of `pairs`.
        features: float, shape `(len(frames), dim)`.
        wrong_videos: names of videos with a wrong identity.
        protocol: how to score, and what to show.
        progress: show a progress bar.

    Raises:
        ValueError: the protocol cannot score these pairs.
    """
    scorable = scorable_pairs(pairs, frames)
    first, second = pairs.first[scorable], pairs.second[scorable]
    is_same, splits = pairs.is_same[scorable], pairs.splits[scorable]
    names = np.array(pairs.videos)
    is_wrong = involves_wrong_video(names[first], names[second], wrong_videos, protocol.error_match)

    def score(distances: np.ndarray) -> ByErrorFilter[ScoredLine]:
        lines = score_lines(distances, is_same, splits, is_wrong, protocol.rule, protocol.folds)
        return ByErrorFilter(**lines)

    evaluation = evaluate_distances(
        video_distances(features, frames.offsets, first, second, progress=progress),
        score,
        first=names[first],
        second=names[second],
        is_same=is_same,
        splits=splits,
        method=protocol.method,
        error_filter=protocol.error_filter,
    )
    used = evaluation.pairs.used.select(protocol.error_filter)
    curve = []
    for num_frames in _frame_counts(frames.frames_per_video):
        fewer = video_distances(features, frames.offsets, first, second, [protocol.method], num_frames)
        fewer = fewer[protocol.method]
        accuracy = score(fewer).select(protocol.error_filter).result.accuracy
        curve.append(FramesPoint(num_frames, accuracy, equal_error_rate(*roc(fewer[used], is_same[used]))))

    return replace(evaluation, frames_curve=tuple(curve))


def _frame_counts(lengths: np.ndarray) -> list[int]:
    """Returns the powers of two below the length of the longest video, and that length."""
    longest = int(lengths.max())
    return [2**power for power in range(longest.bit_length()) if 2**power < longest] + [longest]
