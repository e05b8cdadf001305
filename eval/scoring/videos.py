"""The whole verdict on a set of videos, as the contents of a run's folder: see `eval.report.runs`."""

import dataclasses

import numpy as np

from eval.scoring.coverage import scorable_pairs
from eval.scoring.metrics import bootstrap_intervals, verification_metrics
from eval.scoring.video_distances import DEFAULT_METHOD, METHODS, video_distances
from eval.scoring.ytf_protocol import involves_wrong_video, score_lines

_NUM_HARDEST = 12
_RESAMPLES = {"num_resamples": 1000, "confidence": 0.95, "seed": 0}


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How videos are scored; the rows are those of docs/fidelity.md.

    Attributes:
        method: of `eval.scoring.video_distances.METHODS`, the one that curves and pictures are about.
        rule: how a threshold is found, row 18; see `eval.scoring.verification.evaluate_pairs`.
        folds: rows 19 and 20; see `eval.scoring.ytf_protocol.score_lines`.
        error_filter: row 21, which of the three lines curves and pictures are about.
        error_match: row 21; see `eval.scoring.ytf_protocol.involves_wrong_video`.
    """

    method: str = DEFAULT_METHOD
    rule: str = "best"
    folds: str = "official"
    error_filter: str = "none"
    error_match: str = "exact"


@dataclasses.dataclass(frozen=True, eq=False)
class VideoVerdict:
    """What is known of the pairs of videos.

    Attributes:
        scores: dict, JSON-able: the part of a run's scores that follows from the features.
        arrays: dict of arrays, one entry per pair that has frames on both sides.
        hardest: dict from `"genuine"` and `"impostor"` to numbers of pairs in `arrays`, hardest
            first: genuine pairs that are far from each other, impostors that are near.
        errors: int array, numbers of the misclassified pairs.
    """

    scores: dict
    arrays: dict
    hardest: dict
    errors: np.ndarray


def evaluate_videos(pairs, frames, features, wrong_videos, protocol, progress=False):
    """Scores all methods on all three lines.

    Args:
        pairs: `dataset.pairs.video_pairs.VideoPairs`.
        frames: `dataset.pairs.video_frames.VideoFrames` of its videos.
        features: float array, shape `(len(frames), dim)`.
        wrong_videos: sequence of str.
        protocol: `Protocol`.
        progress: bool, show a progress bar.

    Returns:
        A `VideoVerdict`.

    Raises:
        ValueError: pairs that cannot be scored by the protocol.
    """
    scorable = scorable_pairs(pairs, frames)
    first, second = pairs.first[scorable], pairs.second[scorable]
    is_same, splits = pairs.is_same[scorable], pairs.splits[scorable]
    names = np.array(pairs.videos)
    is_wrong = involves_wrong_video(names[first], names[second], wrong_videos, protocol.error_match)

    def lines_of(distances):
        return score_lines(distances, is_same, splits, is_wrong, protocol.rule, protocol.folds)

    distances = video_distances(features, frames.offsets, first, second, progress=progress)
    lines = {method: lines_of(of_method) for method, of_method in distances.items()}
    chosen = lines[protocol.method][protocol.error_filter]
    used = chosen.used
    people = np.array([_identity(video) for video in pairs.videos])
    people = (people[first[used]], people[second[used]])

    curve = []
    for num_frames in _frame_counts(np.diff(frames.offsets)):
        of_fewer = video_distances(features, frames.offsets, first, second, [protocol.method], num_frames)
        of_fewer = of_fewer[protocol.method]
        curve.append(
            {
                "num_frames": num_frames,
                "accuracy": lines_of(of_fewer)[protocol.error_filter].result.accuracy,
                "eer": verification_metrics(of_fewer[used], is_same[used])["eer"],
            }
        )

    scores = {
        **dataclasses.asdict(protocol),
        "lines": [_line_scores(line, is_same) for line in lines[protocol.method].values()],
        "methods": {
            method: _method_scores(distances[method][used], is_same[used], lines[method], protocol, people)
            for method in METHODS
        },
        "frames_curve": curve,
        "bootstrap": _RESAMPLES,
    }
    arrays = {
        "first": names[first],
        "second": names[second],
        "is_same": is_same,
        "splits": splits,
        "used": np.stack([line.used for line in lines[protocol.method].values()]),
        "folds": np.stack([line.folds for line in lines[protocol.method].values()]),
        **{f"distances/{method}": of_method for method, of_method in distances.items()},
    }
    hardest = _hardest(distances[protocol.method], is_same, used)
    errors = np.flatnonzero(chosen.is_misclassified(distances[protocol.method], is_same))
    return VideoVerdict(scores, arrays, hardest, errors)


def _method_scores(distances, is_same, lines, protocol, identities):
    result = lines[protocol.error_filter].result
    metrics = {"accuracy": result.accuracy, **verification_metrics(distances, is_same)}
    intervals = bootstrap_intervals(
        distances, is_same, fold_accuracies=result.fold_accuracies, identities=identities, **_RESAMPLES
    )
    return {
        "lines": [line.result.accuracy for line in lines.values()],
        "std": result.std,
        "threshold": result.threshold,
        "metrics": metrics,
        "intervals": {name: list(interval) for name, interval in intervals.items()},
    }


def _line_scores(line, is_same):
    folds = np.unique(line.folds[line.folds >= 0])
    return {
        "name": line.name,
        "num_pairs": int(np.count_nonzero(line.used)),
        "num_genuine": int(np.count_nonzero(line.used & is_same)),
        "accuracy": line.result.accuracy,
        "std": line.result.std,
        "threshold": line.result.threshold,
        "folds": folds.tolist(),
        "fold_accuracies": list(line.result.fold_accuracies),
        "fold_thresholds": list(line.result.fold_thresholds),
        "fold_sizes": [int(np.count_nonzero(line.folds == fold)) for fold in folds],
    }


def _frame_counts(lengths):
    """Powers of two, as far as they are below the longest video's length, and that."""
    longest = int(lengths.max())
    return [2**power for power in range(longest.bit_length()) if 2**power < longest] + [longest]


def _hardest(distances, is_same, used):
    numbers = np.flatnonzero(used)
    by_distance = numbers[np.argsort(distances[numbers], kind="stable")]
    genuine = by_distance[is_same[by_distance]][::-1]
    impostor = by_distance[~is_same[by_distance]]
    return {"genuine": genuine[:_NUM_HARDEST].tolist(), "impostor": impostor[:_NUM_HARDEST].tolist()}


def _identity(video):
    return video.rpartition("/")[0] or video
