import numpy as np
import pytest

from eval.scoring.templates import frame_pair_distances, pool
from eval.scoring.video_distances import METHODS, video_distances

OFFSETS = np.array([0, 4, 4, 5, 12])  # the second video has no frame
FIRST, SECOND = np.array([0, 3, 0, 2]), np.array([2, 0, 3, 2])


@pytest.fixture(scope="module")
def features():
    return np.random.default_rng(0).normal(size=(12, 8)).astype(np.float32)


def frames_of(features, video, numbers=slice(None)):
    return features[OFFSETS[video] : OFFSETS[video + 1]][numbers]


def expected(method, first, second):
    if method in ("best_frames", "mean_frames", "median_frames"):
        return frame_pair_distances(first, second)[method]
    return 1 - pool(first, method) @ pool(second, method)


@pytest.mark.parametrize("method", METHODS)
def test_one_pass_gives_the_distances_of_each_pair_alone(features, method):
    together = video_distances(features, OFFSETS, FIRST, SECOND)
    alone = video_distances(features, OFFSETS, FIRST, SECOND, [method])
    pairs = zip(FIRST, SECOND, strict=True)
    one_by_one = [expected(method, *(frames_of(features, video) for video in pair)) for pair in pairs]
    assert list(together) == list(METHODS)
    np.testing.assert_array_equal(together[method], alone[method])
    np.testing.assert_allclose(together[method], one_by_one, atol=1e-6)
    assert together[method][3] == pytest.approx(0, abs=1e-6)  # a video of one frame and itself


@pytest.mark.parametrize("method", ["normalised_mean", "median_frames"])
def test_max_frames_uses_evenly_spaced_frames(features, method):
    distances = video_distances(features, OFFSETS, [0], [3], [method], max_frames=2)[method]
    # The middle frames of both halves: of four frames, and of seven.
    first, second = frames_of(features, 0, [1, 3]), frames_of(features, 3, [1, 5])
    np.testing.assert_allclose(distances, [expected(method, first, second)], atol=1e-6)


def test_features_can_be_a_memory_map(features, tmp_path):
    features.tofile(tmp_path / "features")
    mapped = np.memmap(tmp_path / "features", np.float32, "r", shape=features.shape)
    for method, distances in video_distances(mapped, OFFSETS, FIRST, SECOND).items():
        np.testing.assert_array_equal(
            distances, video_distances(features, OFFSETS, FIRST, SECOND, [method])[method]
        )


def test_a_video_without_frames_is_refused(features):
    with pytest.raises(ValueError):
        video_distances(features, OFFSETS, [0], [1])
