import doctest
import itertools
from pathlib import Path

import numpy as np
import pytest

from eval.scoring import verification
from eval.scoring.distances import DISTANCES, pair_distances
from eval.scoring.verification import (
    LEFT_OUT,
    NEVER_SCORED,
    best_threshold,
    crossing_threshold,
    evaluate_pairs,
    even_folds,
    original_folds,
)

GOLDEN = Path(__file__).parent.parent / "golden" / "verification"
SETS = ("verification", "verification_separable", "verification_unequal")


def golden(name, distance):
    """Returns the results of the original, and its pairs, positives first."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        positive, negative = file["pos_embeddings"], file["neg_embeddings"]
        keys = ("accuracy", "std", "threshold", "fold_accuracies", "pos_sorted", "neg_sorted")
        expected = {key: file[f"{distance}/{key}"] for key in keys}
    embeddings = np.concatenate([positive, negative])
    is_same = np.repeat([True, False], [len(positive), len(negative)])
    return expected, pair_distances(embeddings[:, 0], embeddings[:, 1], distance), is_same


@pytest.mark.parametrize("distance", ["cosine", "L2", "SSD"])
@pytest.mark.parametrize("name", SETS)
class TestOriginal:
    def test_distances_equal_those_of_the_original(self, name, distance):
        expected, distances, is_same = golden(name, distance)
        positive, negative = np.sort(distances[is_same]), np.sort(distances[~is_same])[::-1]
        # The original computes in float32, and 1 - cos loses the leading digits.
        np.testing.assert_allclose(positive, expected["pos_sorted"], rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(negative, expected["neg_sorted"], rtol=1e-6, atol=1e-6)

    def test_scores_equal_those_of_the_original(self, name, distance):
        expected, distances, is_same = golden(name, distance)
        result = evaluate_pairs(distances, is_same, rule="crossing", folds=original_folds(is_same))
        assert result.fold_accuracies == tuple(expected["fold_accuracies"])
        assert result.accuracy == expected["accuracy"]
        assert result.std == expected["std"]
        np.testing.assert_allclose(result.threshold, expected["threshold"], rtol=1e-6)

    def test_the_order_of_the_file_matters_only_within_a_kind(self, name, distance):
        _, distances, is_same = golden(name, distance)
        mixed = np.argsort(np.random.default_rng(0).random(is_same.size))
        mixed = mixed[np.argsort(is_same[mixed], kind="stable")]  # negatives first, each kind in random order
        order = np.empty_like(mixed)
        for kind in (True, False):
            order[is_same[mixed] == kind] = np.flatnonzero(is_same == kind)
        result = evaluate_pairs(distances[order], is_same[order])
        assert result == evaluate_pairs(distances, is_same)


def test_original_folds_equal_even_ones_where_counts_divide():
    is_same = np.tile([True, False, False, True], 50)
    np.testing.assert_array_equal(original_folds(is_same), even_folds(is_same))


def test_only_the_best_threshold_separates_separable_pairs():
    _, distances, is_same = golden("verification_separable", "cosine")
    assert evaluate_pairs(distances, is_same, rule="crossing").accuracy == 0.5
    result = evaluate_pairs(distances, is_same)
    assert result.accuracy == 1.0
    assert result.std == 0.0
    assert distances[is_same].max() < min(result.fold_thresholds)


class TestOriginalFolds:
    def test_pairs_past_the_folds_belong_to_no_fold(self):
        is_same = np.array([True] * 23 + [False] * 27)
        by_rank = [*np.repeat(np.arange(10), 2), *[NEVER_SCORED] * 3]
        np.testing.assert_array_equal(original_folds(is_same), [*by_rank, *by_rank, *[LEFT_OUT] * 4])

    def test_pairs_past_the_folds_move_the_threshold_and_are_not_scored(self):
        positive, negative = np.full(21, 0.1), np.full(21, 0.9)
        positive[20], negative[20] = 0.8, 0.6
        is_same = np.repeat([True, False], 21)
        distances = np.concatenate([positive, negative])
        # Each threshold is found on 18 positives and 18 negatives of the other folds, and on these two pairs.
        # The largest positive distance, 0.8, and the smallest negative one, 0.6, cross at 0.7.
        result = evaluate_pairs(distances, is_same, rule="crossing", folds=original_folds(is_same))
        assert result.fold_thresholds == (0.7,) * 10
        assert result.accuracy == 1.0

    @pytest.mark.parametrize(("positives", "negatives"), [(9, 30), (30, 29)])
    def test_counts_that_made_the_original_crash_are_refused(self, positives, negatives):
        is_same = np.repeat([True, False], [positives, negatives])
        with pytest.raises(ValueError, match=f"received {positives}.* and {negatives}"):
            original_folds(is_same)


class TestEvenFolds:
    @pytest.mark.parametrize(("positives", "negatives", "folds"), [(10, 10, 10), (287, 301, 10), (13, 7, 3)])
    def test_folds_are_nearly_equal_and_in_order(self, positives, negatives, folds):
        is_same = np.random.default_rng(1).permutation(np.repeat([True, False], [positives, negatives]))
        numbers = even_folds(is_same, folds)
        for kind in (is_same, ~is_same):
            counts = np.bincount(numbers[kind], minlength=folds)
            assert counts.size == folds
            assert np.ptp(counts) <= 1
            assert (np.diff(numbers[kind]) >= 0).all()

    @pytest.mark.parametrize(("positives", "negatives"), [(9, 100), (100, 9)])
    def test_fewer_pairs_than_folds_are_refused(self, positives, negatives):
        with pytest.raises(ValueError, match=f"at least 10 .* received {positives} and {negatives}"):
            even_folds(np.repeat([True, False], [positives, negatives]))


class TestPairDistances:
    def test_distances_agree_with_loops(self):
        rng = np.random.default_rng(2)
        first, second = rng.normal(size=(2, 20, 8)).astype(np.float32)
        for row, (a, b) in enumerate(zip(first.astype(float), second.astype(float), strict=True)):
            cosine = a @ b / np.sqrt((a @ a) * (b @ b))
            assert pair_distances(first, second, "cosine")[row] == pytest.approx(1 - cosine)
            assert pair_distances(first, second, "SSD")[row] == pytest.approx(((a - b) ** 2).sum())
            assert pair_distances(first, second, "L2")[row] == pytest.approx(((a - b) ** 2).sum() ** 0.5)

    @pytest.mark.parametrize(("distance", "expected"), [("cosine", [1, 1]), ("L2", [5, 0]), ("SSD", [25, 0])])
    def test_a_zero_embedding_has_a_distance(self, distance, expected):
        first, second = np.array([[3, 4], [0, 0]]), np.zeros((2, 2))
        np.testing.assert_array_equal(pair_distances(first, second, distance), expected)

    def test_the_cosine_of_parallel_embeddings_stays_in_range(self):
        first = np.random.default_rng(3).normal(size=(500, 7))
        assert (pair_distances(first, first / 3, "cosine") >= 0).all()
        assert (pair_distances(first, -first / 3, "cosine") <= 2).all()

    @pytest.mark.parametrize("distance", DISTANCES)
    def test_many_pairs_in_blocks_have_the_same_distances(self, distance):
        first, second = np.random.default_rng(0).normal(size=(2, 600, 8)).astype(np.float32)
        one_by_one = [pair_distances(first[[i]], second[[i]], distance)[0] for i in range(600)]
        np.testing.assert_array_equal(pair_distances(first, second, distance), one_by_one)


def find(threshold, positive, negative):
    """Finds the threshold for positive and negative distances."""
    distances = np.concatenate([positive, negative])
    order = np.argsort(distances)
    return threshold(distances[order], order < len(positive))


def num_right(positive, negative, threshold):
    return sum(distance < threshold for distance in positive) + sum(
        distance >= threshold for distance in negative
    )


def every_candidate(positive, negative):
    values = sorted({*positive, *negative})
    middles = [(low + high) / 2 for low, high in itertools.pairwise(values)]
    return [values[0], *middles, np.nextafter(values[-1], np.inf)]


class TestBestThreshold:
    @pytest.mark.parametrize("seed", range(60))
    def test_no_candidate_is_better(self, seed):
        rng = np.random.default_rng(seed)
        positive = rng.normal(0, 1, rng.integers(1, 30))
        negative = rng.normal(rng.uniform(-1, 3), 1, rng.integers(1, 30))
        if seed % 2:  # many ties, within a kind and across
            positive, negative = np.round(positive), np.round(negative)
        candidates = every_candidate(positive, negative)
        scores = [num_right(positive, negative, candidate) for candidate in candidates]
        best = [c for c, score in zip(candidates, scores, strict=True) if score == max(scores)]
        assert find(best_threshold, positive, negative) == best[(len(best) - 1) // 2]

    def test_perfect_separation_gives_the_middle_of_the_gap(self):
        assert find(best_threshold, [1.0, 2.0], [4.0, 9.0]) == 3.0

    def test_the_middle_one_of_several_best_thresholds_is_returned(self):
        # Thresholds just above 1, 3 and 5 are equally good. Each gains a positive, then a negative is lost.
        assert find(best_threshold, [1.0, 3.0, 5.0], [2.0, 4.0, 6.0]) == 3.5

    def test_one_threshold_can_call_all_or_no_pairs_same(self):
        assert find(best_threshold, [2.0, 2.0], [2.0]) > 2.0
        assert find(best_threshold, [2.0], [2.0, 2.0]) == 2.0

    def test_adjacent_floats_are_separated(self):
        for low in (1.0, np.nextafter(1.0, 2.0)):  # the middle rounds down for one, up for the other
            high = np.nextafter(low, 2.0)
            assert num_right([low], [high], find(best_threshold, [low], [high])) == 2

    def test_a_large_set_has_the_expected_threshold(self):
        rng = np.random.default_rng(4)
        threshold = find(best_threshold, rng.normal(0, 1, 200_000), rng.normal(2, 1, 200_000))
        assert threshold == pytest.approx(1, abs=0.1)


class TestCrossingThreshold:
    @pytest.mark.parametrize("seed", range(20))
    def test_the_threshold_agrees_with_a_loop(self, seed):
        rng = np.random.default_rng(seed)
        positive = np.round(rng.normal(0, 1, rng.integers(1, 30)), seed % 3)
        negative = np.round(rng.normal(1, 1, rng.integers(1, 30)), seed % 3)
        expected = 0
        for low, high in zip(sorted(positive), sorted(negative, reverse=True), strict=False):
            if low > high:
                expected = (low + high) / 2
                break
        assert find(crossing_threshold, positive, negative) == expected


class TestEvaluatePairs:
    def test_folds_are_scored_with_the_threshold_of_the_others(self):
        rng = np.random.default_rng(5)
        is_same = rng.random(83) < 0.4
        distances = rng.normal(np.where(is_same, 0.4, 0.8), 0.2)
        folds = even_folds(is_same, 4)
        result = evaluate_pairs(distances, is_same, folds=folds)
        for fold in range(4):
            others = folds != fold
            threshold = find(best_threshold, distances[others & is_same], distances[others & ~is_same])
            positive, negative = distances[~others & is_same], distances[~others & ~is_same]
            right = num_right(positive, negative, threshold)
            assert result.fold_thresholds[fold] == threshold
            assert result.fold_accuracies[fold] == right / (positive.size + negative.size)
        assert result.accuracy == np.mean(result.fold_accuracies)
        assert result.std == np.std(result.fold_accuracies)
        assert result.threshold == np.mean(result.fold_thresholds)

    def test_folds_may_be_given_and_start_at_any_number(self):
        rng = np.random.default_rng(6)
        is_same = np.tile([True, False], 30)
        distances = rng.normal(np.where(is_same, 0.4, 0.8), 0.2)
        folds = even_folds(is_same, 5)
        expected = evaluate_pairs(distances, is_same, folds=folds)
        assert evaluate_pairs(distances, is_same, folds=folds * 3 + 1) == expected

    def test_the_rule_decides_about_a_distance_equal_to_the_threshold(self):
        is_same = np.array([True, False, True, False, False])
        folds = np.array([0, 0, 1, 1, 1])
        crossed, separate = np.full((2, 5), 0.5)
        crossed[:2], separate[:2] = (0.75, 0.25), (0.25, 0.75)
        result = evaluate_pairs(crossed, is_same, rule="crossing", folds=folds)
        assert result.fold_thresholds[1] == 0.5
        assert result.fold_accuracies[1] == 0.0
        result = evaluate_pairs(separate, is_same, folds=folds)
        assert result.fold_thresholds[1] == 0.5
        assert result.fold_accuracies[1] == 2 / 3  # No distance is below it, and two pairs differ.

    def test_the_summary_is_the_line_of_the_original(self):
        _, distances, is_same = golden("verification", "cosine")
        assert evaluate_pairs(distances, is_same, rule="crossing").summary("lfw") == (
            "Precision on lfw : 0.96000+-0.02134"
        )

    def test_results_are_plain_floats(self):
        result = evaluate_pairs(np.linspace(0, 1, 20, dtype=np.float32), np.arange(20) < 10)
        numbers = (result.accuracy, result.std, result.threshold, *result.fold_accuracies)
        assert all(type(number) is float for number in (*numbers, *result.fold_thresholds))

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"distances": np.full(40, np.nan)}, "nan for pair 0"),
            ({"is_same": np.ones(40, bool)}, "40 and 0"),
            ({"folds": np.zeros(40, int)}, "folds, received 1"),
            ({"folds": np.tile([0, 1], 20)}, "fold 0 .* 0 and 20"),
        ],
    )
    def test_bad_input_is_refused(self, changed, message):
        arguments = {"distances": np.linspace(0, 1, 40), "is_same": np.tile([True, False], 20)}
        with pytest.raises(ValueError, match=message):
            evaluate_pairs(**(arguments | changed))


def test_examples_of_the_docstrings_run():
    assert doctest.testmod(verification).failed == 0
