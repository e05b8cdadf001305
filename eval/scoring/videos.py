"""Scores of a set of videos by every method, from the features of their frames."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from common.options import option
from dataset.pairs.video_frames import VideoFrames
from dataset.pairs.video_pairs import VideoPairs
from eval.scoring.coverage import scorable_pairs
from eval.scoring.evaluation_run import (
    Bootstrap,
    ByErrorFilter,
    FramesPoint,
    HardestPairs,
    LineScores,
    MethodScores,
    PairPicture,
    ScoredPairs,
)
from eval.scoring.metrics import bootstrap_intervals, equal_error_rate, roc, verification_metrics
from eval.scoring.verification import RULES
from eval.scoring.video_distances import DEFAULT_METHOD, METHODS, video_distances
from eval.scoring.ytf_protocol import (
    ERROR_FILTERS,
    FOLDS,
    MATCHES,
    YtfLine,
    involves_wrong_video,
    score_lines,
)

_NUM_HARDEST = 12


@dataclass(frozen=True)
class VideoProtocol:
    """Protocol.

    The scores of every method and with every filter are always printed. These flags choose what curves,
    pictures and the table of methods show.
    """

    method: str = option(
        DEFAULT_METHOD, "how the frames of videos are compared", flags=("--pooling",), choices=METHODS
    )
    rule: str = option(
        "best", "how thresholds are found on the other folds (row 18)", flags=("--threshold",), choices=RULES
    )
    folds: str = option("official", "splits of the file, or the original's folds (row 20)", choices=FOLDS)
    error_filter: str = option(
        "none",
        "pairs with a wrong video that are left out (row 21)",
        flags=("--ytf_error_filter",),
        choices=tuple(ERROR_FILTERS),
    )
    error_match: str = option(
        "exact",
        "how the name of a wrong video is matched (row 21)",
        flags=("--ytf_error_match",),
        choices=MATCHES,
    )


@dataclass(frozen=True, eq=False)
class VideoEvaluation:
    """The parts of a run that follow from the features.

    Attributes:
        pairs: the pairs that have frames on both sides.
        errors: int array, places in `pairs` of the misclassified ones.
    """

    # The fields that are those of `eval.scoring.evaluation_run.Scores`.
    SCORES = ("lines", "methods", "frames_curve", "bootstrap", "hardest")

    lines: ByErrorFilter[LineScores]
    methods: dict[str, MethodScores]
    frames_curve: tuple[FramesPoint, ...]
    bootstrap: Bootstrap
    hardest: HardestPairs
    pairs: ScoredPairs
    errors: np.ndarray


def evaluate_videos(
    pairs: VideoPairs,
    frames: VideoFrames,
    features: np.ndarray,
    wrong_videos: Sequence[str],
    protocol: VideoProtocol,
    progress: bool = False,
) -> VideoEvaluation:
    """Scores all methods on all three lines.

    Args:
        frames: frames of the videos of `pairs`.
        features: float, shape `(len(frames), dim)`.
        wrong_videos: names of videos with a wrong identity.
        progress: show a progress bar.

    Raises:
        ValueError: the protocol cannot score these pairs.
    """
    scorable = scorable_pairs(pairs, frames)
    first, second = pairs.first[scorable], pairs.second[scorable]
    is_same, splits = pairs.is_same[scorable], pairs.splits[scorable]
    names = np.array(pairs.videos)
    is_wrong = involves_wrong_video(names[first], names[second], wrong_videos, protocol.error_match)

    def score(distances: np.ndarray) -> ByErrorFilter[YtfLine]:
        lines = score_lines(distances, is_same, splits, is_wrong, protocol.rule, protocol.folds)
        return ByErrorFilter(**lines)

    distances = video_distances(features, frames.offsets, first, second, progress=progress)
    scored = {method: score(distances[method]) for method in METHODS}
    lines, chosen_distances = scored[protocol.method], distances[protocol.method]
    chosen = lines.select(protocol.error_filter)
    used = chosen.used
    bootstrap = Bootstrap()
    identities = np.array([video.rpartition("/")[0] or video for video in pairs.videos])

    methods = {}
    for method, by_filter in scored.items():
        result = by_filter.select(protocol.error_filter).result
        used_pairs = distances[method][used], is_same[used]
        methods[method] = MethodScores(
            lines=ByErrorFilter(*(line.result.accuracy for line in by_filter)),
            std=result.std,
            threshold=result.threshold,
            metrics={"accuracy": result.accuracy, **verification_metrics(*used_pairs)},
            intervals=bootstrap_intervals(
                *used_pairs,
                fold_accuracies=result.fold_accuracies,
                identities=(identities[first[used]], identities[second[used]]),
                **asdict(bootstrap),
            ),
        )

    curve = []
    for num_frames in _frame_counts(frames.frames_per_video):
        fewer = video_distances(features, frames.offsets, first, second, [protocol.method], num_frames)
        fewer = fewer[protocol.method]
        accuracy = score(fewer).select(protocol.error_filter).result.accuracy
        curve.append(FramesPoint(num_frames, accuracy, equal_error_rate(*roc(fewer[used], is_same[used]))))

    return VideoEvaluation(
        lines=ByErrorFilter(*(_line_scores(line, is_same) for line in lines)),
        methods=methods,
        frames_curve=tuple(curve),
        bootstrap=bootstrap,
        hardest=_hardest(chosen_distances, is_same, used),
        pairs=ScoredPairs(
            first=names[first],
            second=names[second],
            is_same=is_same,
            splits=splits,
            used=ByErrorFilter(*(line.used for line in lines)),
            folds=ByErrorFilter(*(line.folds for line in lines)),
            distances=distances,
        ),
        errors=np.flatnonzero(chosen.is_misclassified(chosen_distances, is_same, protocol.rule)),
    )


def _line_scores(line: YtfLine, is_same: np.ndarray) -> LineScores:
    folds = np.unique(line.folds[line.folds >= 0])
    return LineScores(
        name=line.name,
        num_pairs=int(np.count_nonzero(line.used)),
        num_genuine=int(np.count_nonzero(line.used & is_same)),
        accuracy=line.result.accuracy,
        std=line.result.std,
        threshold=line.result.threshold,
        folds=tuple(folds.tolist()),
        fold_accuracies=line.result.fold_accuracies,
        fold_thresholds=line.result.fold_thresholds,
        fold_sizes=tuple(int(np.count_nonzero(line.folds == fold)) for fold in folds),
    )


def _frame_counts(lengths: np.ndarray) -> list[int]:
    """Returns the powers of two below the length of the longest video, and that length."""
    longest = int(lengths.max())
    return [2**power for power in range(longest.bit_length()) if 2**power < longest] + [longest]


def _hardest(distances: np.ndarray, is_same: np.ndarray, used: np.ndarray) -> HardestPairs:
    def pictures(kind: str, pairs: np.ndarray) -> tuple[PairPicture, ...]:
        numbered = enumerate(pairs[:_NUM_HARDEST].tolist(), start=1)
        return tuple(PairPicture(pair, f"hardest/{kind}-{place:02d}.jpg") for place, pair in numbered)

    pairs = np.flatnonzero(used)
    pairs = pairs[np.argsort(distances[pairs], kind="stable")]
    genuine, impostor = pairs[is_same[pairs]][::-1], pairs[~is_same[pairs]]
    return HardestPairs(pictures("genuine", genuine), pictures("impostor", impostor))
