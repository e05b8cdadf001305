from pathlib import Path

import numpy as np
import pytest

from dataset.pairs.video_frames import VideoFrames
from dataset.pairs.video_pairs import VideoPairs
from eval.scoring.metrics import bootstrap_intervals, verification_metrics
from eval.scoring.video_distances import METHODS, video_distances
from eval.scoring.videos import VideoProtocol, evaluate_videos
from eval.scoring.ytf_protocol import involves_wrong_video, score_lines

NUM_PEOPLE, NUM_SPLITS = 30, 5
WRONG = ("P3/0", "P7/1", "P8/0")


def made_up(seed=0):
    """Videos of 1 to 5 frames, two to a person; one has no frame."""
    rng = np.random.default_rng(seed)
    videos = tuple(f"P{person}/{number}" for person in range(NUM_PEOPLE) for number in range(2))
    lengths = rng.integers(1, 6, len(videos))
    lengths[[10, 20]] = 0, 5
    people = np.repeat(np.arange(NUM_PEOPLE), 2)
    features = rng.normal(size=(NUM_PEOPLE, 8))[np.repeat(people, lengths)]
    features = (features + rng.normal(size=features.shape)).astype(np.float32)
    same = np.arange(NUM_PEOPLE)
    other = (same + rng.integers(1, NUM_PEOPLE, NUM_PEOPLE)) % NUM_PEOPLE
    pairs = VideoPairs(
        path=Path("splits.txt"),
        videos=videos,
        first=np.tile(2 * same, 2),
        second=np.concatenate([2 * same, 2 * other]) + 1,
        is_same=np.repeat([True, False], NUM_PEOPLE),
        splits=np.tile(same % NUM_SPLITS + 1, 2),
    )
    frames = VideoFrames(
        prefix=Path("frames"),
        videos=videos,
        paths=[""] * len(features),
        offsets=np.cumsum([0, *lengths]),
        missing=(videos[10],),
        empty=(),
        unusable={},
        image_size=(112, 112),
        sha256="0",
    )
    return pairs, frames, features


@pytest.mark.parametrize(
    "protocol",
    [
        VideoProtocol(),
        VideoProtocol(method="median_frames", rule="crossing", error_filter="both"),
        VideoProtocol(method="mean", error_filter="positives", error_match="substring"),
    ],
)
def test_every_score_follows_from_the_parts(protocol):
    pairs, frames, features = made_up()
    evaluation = evaluate_videos(pairs, frames, features, WRONG, protocol)

    has_frames = np.delete(np.arange(len(pairs)), np.flatnonzero((pairs.first == 10) | (pairs.second == 10)))
    first, second = pairs.first[has_frames], pairs.second[has_frames]
    is_same, splits = pairs.is_same[has_frames], pairs.splits[has_frames]
    names = np.array(pairs.videos)
    is_wrong = involves_wrong_video(names[first], names[second], WRONG, protocol.error_match)

    def lines_of(distances):
        return score_lines(distances, is_same, splits, is_wrong, protocol.rule)

    distances = video_distances(features, frames.offsets, first, second)
    used = lines_of(distances["mean"])[protocol.error_filter].used
    people = [[name.split("/")[0] for name in names[side[used]]] for side in (first, second)]
    assert list(evaluation.methods) == list(METHODS)
    for method, scores in evaluation.methods.items():
        lines = lines_of(distances[method])
        result = lines[protocol.error_filter].result
        used_pairs = distances[method][used], is_same[used]
        assert scores.lines == tuple(line.result.accuracy for line in lines.values())
        assert (scores.std, scores.threshold) == (result.std, result.threshold)
        assert scores.metrics == {"accuracy": result.accuracy, **verification_metrics(*used_pairs)}
        intervals = bootstrap_intervals(
            *used_pairs, fold_accuracies=result.fold_accuracies, identities=people
        )
        assert scores.intervals == intervals
        np.testing.assert_array_equal(evaluation.pairs.distances[method], distances[method])

    lines = lines_of(distances[protocol.method])
    for line, scores in zip(lines.values(), evaluation.lines, strict=True):
        assert scores.num_pairs == line.used.sum() == sum(scores.fold_sizes)
        assert scores.num_genuine == (line.used & is_same).sum()
        assert scores.folds == (1, 2, 3, 4, 5)
        assert scores.fold_accuracies == line.result.fold_accuracies

    assert [point.num_frames for point in evaluation.frames_curve] == [1, 2, 4, 5]
    for point in evaluation.frames_curve:
        fewer = video_distances(features, frames.offsets, first, second, [protocol.method], point.num_frames)[
            protocol.method
        ]
        assert point.accuracy == lines_of(fewer)[protocol.error_filter].result.accuracy
        assert point.eer == verification_metrics(fewer[used], is_same[used])["eer"]

    chosen = distances[protocol.method]
    genuine, impostor = np.flatnonzero(used & is_same), np.flatnonzero(used & ~is_same)
    hardest = {
        kind: [entry.pair for entry in getattr(evaluation.hardest, kind)] for kind in ("genuine", "impostor")
    }
    for kind, order in (
        ("genuine", np.argsort(-chosen[genuine])),
        ("impostor", np.argsort(chosen[impostor])),
    ):
        places = {"genuine": genuine, "impostor": impostor}[kind][order]
        assert hardest[kind] == at_most_twice(names[first], names[second], places)[:12]
    assert evaluation.hardest.impostor[1].picture == "hardest/impostor-02.jpg"


def at_most_twice(first, second, places):
    """Keeps the first pairs in order, but no more than two of any person."""
    chosen, seen = [], []
    for place in places:
        people = {name.split("/")[0] for name in (first[place], second[place])}
        if all(seen.count(person) < 2 for person in people):
            chosen.append(place)
            seen += people
    return chosen


def test_the_longest_video_may_have_a_power_of_two_frames():
    pairs, frames, features = made_up()
    shorter = video_frames_of_at_most(frames, features, 4)
    evaluation = evaluate_videos(pairs, *shorter, WRONG, VideoProtocol())
    assert [point.num_frames for point in evaluation.frames_curve] == [1, 2, 4]


def video_frames_of_at_most(frames, features, limit):
    kept = [
        number
        for start, stop in zip(frames.offsets[:-1], frames.offsets[1:], strict=True)
        for number in range(start, min(stop, start + limit))
    ]
    lengths = np.minimum(np.diff(frames.offsets), limit)
    values = {**vars(frames), "paths": [""] * len(kept), "offsets": np.cumsum([0, *lengths])}
    return VideoFrames(**values), features[kept]
