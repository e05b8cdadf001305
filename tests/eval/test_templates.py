import doctest

import numpy as np
import pytest

from eval.scoring import templates
from eval.scoring.distances import pair_distances
from eval.scoring.templates import FRAME_PAIRS, POOLINGS, frame_pair_distances, geometric_median, pool


def unit(vector):
    return vector / np.linalg.norm(vector)


def video(seed, num_frames=20, dim=16, spread=0.5):
    """Embeddings around one direction, with norms from 1 to 30."""
    rng = np.random.default_rng(seed)
    directions = unit(rng.normal(size=dim)) + rng.normal(size=(num_frames, dim)) * spread / dim**0.5
    return (directions * rng.uniform(1, 30, (num_frames, 1))).astype(np.float32)


def reference(frames, pooling):
    """Computes the three weighted means frame by frame."""
    total = np.zeros(frames.shape[1])
    for frame in frames.astype(float):
        norm = sum(x * x for x in frame) ** 0.5
        total += {"mean": 1, "normalised_mean": 1 / norm, "norm_weighted": norm}[pooling] * frame
    return total / sum(x * x for x in total) ** 0.5


def total_distance(points, candidate):
    return sum(np.linalg.norm(point - candidate) for point in points)


class TestPool:
    @pytest.mark.parametrize("pooling", ["mean", "normalised_mean", "norm_weighted"])
    def test_poolings_equal_those_of_a_loop(self, pooling):
        for seed in range(5):
            frames = video(seed)
            np.testing.assert_allclose(pool(frames, pooling), reference(frames, pooling), rtol=1e-12)

    def test_the_mean_is_that_of_the_raw_embeddings(self):
        frames = video(0)
        np.testing.assert_allclose(pool(frames, "mean"), unit(frames.astype(float).mean(axis=0)), rtol=1e-12)

    def test_the_geometric_median_is_that_of_the_directions(self):
        frames = video(1)
        directions = np.array([unit(frame.astype(float)) for frame in frames])
        expected = unit(geometric_median(directions))
        np.testing.assert_allclose(pool(frames, "geometric_median"), expected, rtol=1e-12)

    def test_poolings_use_the_norm_as_documented(self):
        frames = video(2)
        louder = frames * np.random.default_rng(0).uniform(1, 9, (len(frames), 1))
        for pooling in POOLINGS:
            change = np.abs(pool(louder, pooling) - pool(frames, pooling)).max()
            assert (change > 1e-3) == (pooling in ("mean", "norm_weighted")), pooling
            np.testing.assert_allclose(pool(frames * 3, pooling), pool(frames, pooling), atol=1e-9)

    def test_poolings_differ(self):
        pooled = [pool(video(3), pooling) for pooling in POOLINGS]
        for number, template in enumerate(pooled):
            assert all(np.abs(template - other).max() > 1e-3 for other in pooled[:number])

    def test_norm_weighted_is_best_if_the_norm_is_a_quality(self):
        """If directions deviate in inverse proportion to the norm, the squared norms are the best weights."""
        rng = np.random.default_rng(4)
        identity, errors = unit(rng.normal(size=64)), dict.fromkeys(POOLINGS, 0.0)
        for _ in range(50):
            norms = rng.uniform(1, 20, (30, 1))
            frames = norms * (identity + rng.normal(size=(30, 64)) / norms)
            for pooling in POOLINGS:
                errors[pooling] += 1 - pool(frames, pooling) @ identity
        assert min(errors, key=errors.get) == "norm_weighted"
        assert errors["mean"] < errors["normalised_mean"]

    def test_the_geometric_median_withstands_outliers(self):
        """A third of the frames show another person, with larger norms."""
        frames, others = video(5, 40, 64), video(6, 20, 64) * 3
        clean, mixed = frames, np.concatenate([frames, others])
        moved = {name: 1 - pool(clean, name) @ pool(mixed, name) for name in POOLINGS}
        assert min(moved, key=moved.get) == "geometric_median"
        assert moved["geometric_median"] < moved["normalised_mean"] / 3

    @pytest.mark.parametrize("pooling", POOLINGS)
    class TestEveryPooling:
        def test_templates_have_unit_length_and_float64(self, pooling):
            template = pool(video(7), pooling)
            assert template.dtype == np.float64
            assert template.shape == (16,)
            assert np.linalg.norm(template) == pytest.approx(1, abs=1e-12)

        def test_the_order_of_frames_does_not_matter(self, pooling):
            frames = video(8)
            np.testing.assert_allclose(pool(frames[::-1], pooling), pool(frames, pooling), atol=1e-9)

        def test_one_frame_is_its_own_template(self, pooling):
            frame = video(9, 1)
            np.testing.assert_allclose(pool(frame, pooling), unit(frame[0].astype(float)), rtol=1e-12)

        def test_identical_frames_are_their_own_template(self, pooling):
            frame = video(10, 1)
            template = pool(np.repeat(frame, 7, axis=0), pooling)
            np.testing.assert_allclose(template, unit(frame[0].astype(float)), rtol=1e-12)

        def test_two_frames_of_one_norm_give_the_middle(self, pooling):
            frames = np.array([[0.0, 5.0, 0.0], [3.0, 0.0, 4.0]])
            np.testing.assert_allclose(pool(frames, pooling), unit(frames.sum(axis=0)), rtol=1e-12)

        def test_zero_frames_contribute_nothing(self, pooling):
            frames = video(11)
            silent = np.insert(frames, [0, 5, 20], 0, axis=0)
            np.testing.assert_allclose(pool(silent, pooling), pool(frames, pooling), atol=1e-12)

        def test_only_zero_frames_give_zero(self, pooling):
            template = pool(np.zeros((3, 16)), pooling)
            np.testing.assert_array_equal(template, np.zeros(16))
            assert pair_distances(template[None], unit(np.ones(16))[None], "cosine") == 1

        def test_frames_that_cancel_out_give_zero(self, pooling):
            np.testing.assert_array_equal(pool([[2.0, 0.0], [-2.0, 0.0]], pooling), [0, 0])

        @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
        def test_frames_that_are_not_finite_are_refused(self, pooling, value):
            frames = video(12)
            frames[13, 2] = value
            with pytest.raises(ValueError, match=r"^frame 13: "):
                pool(frames, pooling)

    def test_the_input_is_not_changed(self):
        for pooling in POOLINGS:
            frames = video(13).astype(float)
            pool(frames, pooling)
            np.testing.assert_array_equal(frames, video(13))

    def test_a_video_without_frames_is_refused(self):
        with pytest.raises(ValueError, match="at least one frame"):
            pool(np.ones((0, 3)), "mean")


class TestGeometricMedian:
    @pytest.mark.parametrize("seed", range(10))
    def test_no_other_point_is_nearer(self, seed):
        rng = np.random.default_rng(seed)
        points = rng.normal(size=(rng.integers(3, 30), rng.integers(2, 20)))
        median = geometric_median(points)
        pulls = (points - median) / np.linalg.norm(points - median, axis=1, keepdims=True)
        assert np.linalg.norm(pulls.sum(axis=0)) < 1e-7  # the gradient of the sum of distances
        for size in (1e-6, 1e-3, 1):
            moved = median + size * unit(rng.normal(size=median.size))
            assert total_distance(points, moved) > total_distance(points, median)

    def test_the_median_may_be_one_of_the_points(self):
        # The median is the inner one of four points, because the pulls of the others add to less than 1.
        points = np.array([[0.0, 1.0], [-0.9, -0.5], [0.9, -0.5], [0.1, -0.1]])
        np.testing.assert_allclose(geometric_median(points), points[3], atol=1e-9)

    @pytest.mark.parametrize("shift", [0, 1e-12])
    def test_a_start_at_a_point_reaches_the_median(self, shift, monkeypatch):
        # The mean is at the last point or close to it, where 1 / distance is undefined or too large to leave.
        points = np.array([[-1.0, 1.5], [-1.0, 0.0], [-1.0, -1.5], [3.0, 0.0], [shift, 0.0]])
        np.testing.assert_allclose(points.mean(axis=0), points[4], atol=1e-12)
        # By symmetry, the other coordinate is 0.
        line = np.stack([np.linspace(-1, 1, 2001), np.zeros(2001)], axis=1)
        best = min(line, key=lambda candidate: total_distance(points, candidate))
        assert best[0] < -0.01
        np.testing.assert_allclose(geometric_median(points), best, atol=1e-3)
        monkeypatch.setattr(templates, "_MAX_ITERATIONS", 1)
        once = geometric_median(points)
        assert total_distance(points, once) < total_distance(points, points[4])

    def test_points_that_coincide_count_each_time(self):
        points = np.array([[0.0, 0.0], [0.0, 0.0], [4.0, 0.0], [0.0, 4.0]])
        np.testing.assert_allclose(geometric_median(points), [0, 0], atol=1e-9)

    @pytest.mark.parametrize(
        ("values", "expected"),
        [([5], 5), ([1, 2], 1.5), ([1, 2, 50], 2), ([3, 3, 3], 3), ([-9, 1, 2, 4, 90], 2), ([7, 7, -80], 7)],
    )
    def test_collinear_points_have_their_usual_median(self, values, expected):
        direction = np.array([0.6, 0.8])
        points = np.array(values, float)[:, np.newaxis] * direction
        np.testing.assert_allclose(geometric_median(points), expected * direction, atol=1e-9)

    def test_an_even_number_of_collinear_points_has_a_median_between_them(self):
        points = np.array([[0.0, 0.0], [1.0, 0.0], [3.0, 0.0], [40.0, 0.0]])
        assert 1 <= geometric_median(points)[0] <= 3

    def test_the_slowest_case_converges(self):
        """At an angle of 120 degrees, the corner is only just the median."""
        corner = np.array([[0.0, 0.0], [1.0, 0.0], [-0.5, 0.75**0.5]])
        median = geometric_median(corner)
        assert total_distance(corner, median) - total_distance(corner, corner[0]) < 1e-5

    def test_fewer_than_half_of_the_points_cannot_move_the_median_far(self):
        rng = np.random.default_rng(0)
        near = rng.normal(size=(11, 5))
        far = rng.normal(size=(10, 5)) + 1e9
        assert np.linalg.norm(geometric_median(np.concatenate([near, far]))) < 100


class TestFramePairDistances:
    @pytest.mark.parametrize("sizes", [(1, 1), (7, 4), (5, 9), (1, 6)])
    def test_distances_equal_those_of_all_pairs_of_frames(self, sizes):
        first, second = video(0, sizes[0]), video(1, sizes[1])
        rows = np.repeat(first, len(second), axis=0), np.tile(second, (len(first), 1))
        distances = pair_distances(*rows, "cosine")
        expected = (distances.min(), distances.mean(), np.median(distances))
        result = frame_pair_distances(first, second)
        assert tuple(result) == FRAME_PAIRS
        assert all(type(value) is float for value in result.values())
        np.testing.assert_allclose(list(result.values()), expected, atol=1e-6)

    def test_the_mean_distance_needs_no_matrix(self):
        first, second = video(2), video(3)
        means = [np.mean([unit(f.astype(float)) for f in frames], axis=0) for frames in (first, second)]
        distance = frame_pair_distances(first, second)["mean_frames"]
        assert distance == pytest.approx(1 - means[0] @ means[1], abs=1e-12)

    def test_distances_are_symmetric(self):
        one, other = frame_pair_distances(video(4), video(5)), frame_pair_distances(video(5), video(4))
        np.testing.assert_allclose(list(one.values()), list(other.values()), atol=1e-6)

    def test_best_frames_is_0_with_one_frame_in_common(self):
        first, second = video(6), video(7)
        second[4] = first[11] * 2
        assert frame_pair_distances(first, second)["best_frames"] == pytest.approx(0, abs=1e-6)

    def test_distances_stay_in_range(self):
        for seed in range(30):
            frame = video(seed, 1, 7)
            assert min(frame_pair_distances(frame, frame / 3).values()) >= 0
            assert max(frame_pair_distances(frame, -frame / 3).values()) <= 2

    def test_zero_frames_are_left_out(self):
        first, second = -video(8), video(9)  # all at more than distance 1
        silent = np.insert(first, 3, 0, axis=0)
        assert frame_pair_distances(silent, second) == frame_pair_distances(first, second)
        assert frame_pair_distances(second, np.zeros((2, 16))) == dict.fromkeys(FRAME_PAIRS, 1)

    def test_frames_that_are_not_finite_are_refused(self):
        bad = video(10)
        bad[2, 0] = np.nan
        for pair in ((bad, video(11)), (video(11), bad)):
            with pytest.raises(ValueError, match=r"^frame 2: "):
                frame_pair_distances(*pair)


def test_examples_of_the_docstrings_run():
    assert doctest.testmod(templates).failed == 0
