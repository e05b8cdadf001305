import doctest
import itertools
import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from eval.scoring import metrics
from eval.scoring.metrics import (
    FARS,
    bootstrap_intervals,
    bootstrap_samples,
    equal_error_rate,
    interval_of,
    roc,
    tar_name,
    verification_metrics,
)


def sample(seed, num_pairs=200, ties=False):
    """Distances and answers. Ties occur within a kind and across kinds."""
    rng = np.random.default_rng(seed)
    is_same = rng.random(num_pairs) < 0.4
    is_same[:2] = True, False
    distances = rng.normal(np.where(is_same, 0.5, 0.9), 0.25)
    return np.round(distances, 1) if ties else distances, is_same


def rates(distances, is_same, threshold):
    """Computes FAR and TAR pair by pair."""
    accepted = [d < threshold for d in distances]
    impostors = [a for a, same in zip(accepted, is_same, strict=True) if not same]
    genuine = [a for a, same in zip(accepted, is_same, strict=True) if same]
    return sum(impostors) / len(impostors), sum(genuine) / len(genuine)


def crossing(distances, is_same):
    """Computes the equal error rate by bisection on the straight lines between the points."""
    points = [rates(distances, is_same, t) for t in [*sorted(set(distances)), np.inf]]
    for (far, tar), (next_far, next_tar) in itertools.pairwise(points):
        if next_far >= 1 - next_tar:
            low, high = 0.0, 1.0
            for _ in range(60):
                middle = (low + high) / 2
                here = far + middle * (next_far - far)
                low, high = (middle, high) if here < 1 - tar - middle * (next_tar - tar) else (low, middle)
            return far + low * (next_far - far)
    return None


def identity_sample(rng, num_identities=60, spread=0.1):
    """Draws two genuine and four impostor pairs of each identity. Some identities are near everyone."""
    offsets = rng.normal(0, spread, num_identities)
    first = np.repeat(np.arange(num_identities), 6)
    is_same = np.tile([True, True, False, False, False, False], num_identities)
    others = (first + rng.integers(1, num_identities, first.size)) % num_identities
    second = np.where(is_same, first, others)
    means = 0.5 + offsets[first] + np.where(is_same, 0, 0.4 + offsets[second])
    return rng.normal(means, 0.15), is_same, (first, second)


SAMPLES = [sample(seed, ties=bool(seed % 2)) for seed in range(8)]


class TestRoc:
    @pytest.mark.parametrize(("distances", "is_same"), SAMPLES)
    def test_values_equal_those_at_every_threshold(self, distances, is_same):
        thresholds = [*np.unique(distances), np.inf]
        expected = np.array([rates(distances, is_same, threshold) for threshold in thresholds])
        np.testing.assert_array_equal(np.stack(roc(distances, is_same), axis=1), expected)
        assert expected[0].tolist() == [0, 0] and expected[-1].tolist() == [1, 1]


class TestTarAtFar:
    @pytest.mark.parametrize(("distances", "is_same"), SAMPLES)
    @pytest.mark.parametrize("far", [0.02, 0.1, 0.5, 1])
    def test_values_equal_those_at_every_threshold(self, distances, is_same, far, monkeypatch):
        monkeypatch.setattr(metrics, "FARS", (far,))
        points = [rates(distances, is_same, t) for t in [*distances, np.inf]]
        expected = max(tar for f, tar in points if f <= far)
        assert verification_metrics(distances, is_same)[tar_name(far)] == expected

    def test_a_far_that_is_reached_exactly_is_allowed(self):
        # 1 of 10 impostors is nearer than the second genuine pair, and 2 than the third.
        is_same = np.array([True, False, True, False, True] + [False] * 8)
        assert verification_metrics(np.arange(13), is_same)["tar@far=0.1"] == 2 / 3

    @pytest.mark.parametrize("far", FARS)
    def test_tar_is_none_with_too_few_impostors(self, far):
        for num_impostors, allowed in ((round(1 / far), True), (round(1 / far) - 1, False)):
            is_same = np.arange(num_impostors + 4) < 4
            result = verification_metrics(np.arange(is_same.size), is_same)[tar_name(far)]
            assert result == (1.0 if allowed else None)


class TestEqualErrorRate:
    @pytest.mark.parametrize(("distances", "is_same"), SAMPLES)
    def test_the_eer_agrees_with_bisection(self, distances, is_same):
        assert equal_error_rate(*roc(distances, is_same)) == pytest.approx(
            crossing(distances, is_same), abs=1e-12
        )

    def test_the_eer_may_be_a_point_of_the_curve(self):
        is_same = np.array([True, False, True, True, False, True, False, False])  # 1 of 4 wrong of each kind
        assert equal_error_rate(*roc(np.arange(8), is_same)) == 0.25


class TestAreaUnderRoc:
    @pytest.mark.parametrize(("distances", "is_same"), SAMPLES)
    def test_area_equals_that_over_all_couples(self, distances, is_same):
        genuine, impostor = distances[is_same], distances[~is_same]
        nearer = (genuine[:, None] < impostor).mean() + (genuine[:, None] == impostor).mean() / 2
        area = verification_metrics(distances, is_same)["auc"]
        assert area == pytest.approx(nearer, abs=1e-12)
        assert area == pytest.approx(roc_auc_score(is_same, -distances), abs=1e-12)


@pytest.mark.parametrize(
    ("genuine", "impostor", "expected"),
    [(0.0, 1.0, (0.0, 1.0, 1.0)), (1.0, 0.0, (1.0, 0.0, 0.0)), (0.5, 0.5, (0.5, 0.5, 0.0))],
)
def test_perfect_reversed_and_equal_distances_have_known_scores(genuine, impostor, expected):
    is_same = np.tile([True, False], 50)
    distances = np.where(is_same, genuine, impostor)
    result = verification_metrics(distances, is_same)
    assert (result["eer"], result["auc"], result["tar@far=0.1"]) == expected


class TestVerificationMetrics:
    def test_metrics_are_plain_floats_by_name(self):
        names = ["eer", "auc", "tar@far=0.1", "tar@far=0.01", "tar@far=0.001"]
        result = verification_metrics(*sample(31))
        assert list(result) == names
        assert result["tar@far=0.001"] is None
        assert {type(value) for value in result.values()} == {float, type(None)}


def times(drawn, first, second):
    return drawn.count(first) * (1 if first == second else drawn.count(second))


class TestBootstrapIntervals:
    def test_accuracy_is_the_mean_of_drawn_folds(self):
        accuracies = [0.9, 0.92, 0.97, 0.99]
        low, high = bootstrap_intervals(*sample(0), fold_accuracies=accuracies, num_resamples=1)["accuracy"]
        assert low == high
        means = [np.mean(draw) for draw in itertools.product(accuracies, repeat=4)]
        assert min(abs(low - mean) for mean in means) < 1e-12

    def test_accuracy_has_the_quantiles_of_all_draws(self):
        # The accuracies of the 3 folds are 0, 0 and 1. The mean of a draw is k / 3, where k is binomial with
        # n = 3 and p = 1 / 3: at most 0 in 30 % of the draws, at most 1 / 3 in 74 %, at most 2 / 3 in 96 %.
        for confidence, expected in ((0.2, (1 / 3, 1 / 3)), (0.5, (0, 2 / 3)), (0.99, (0, 1))):
            interval = bootstrap_intervals(
                *sample(0), fold_accuracies=[0, 0, 1], confidence=confidence, num_resamples=4000
            )["accuracy"]
            assert interval == pytest.approx(expected)

    @pytest.mark.parametrize("ties", [False, True])
    @pytest.mark.parametrize("wrong_names", [0, 20])
    def test_one_resample_equals_repeated_pairs(self, ties, wrong_names):
        rng = np.random.default_rng(1)
        distances, is_same, (first, second) = identity_sample(rng, 200)
        distances = np.round(distances, 1) if ties else distances
        shuffled = rng.permutation(distances.size)
        distances, is_same, first, second = (x[shuffled] for x in (distances, is_same, first, second))
        is_same[:wrong_names] ^= True
        for seed in range(3):
            intervals = bootstrap_intervals(
                distances, is_same, identities=(first, second), num_resamples=1, seed=seed
            )
            stream = np.random.default_rng(seed).spawn(2)[1]
            drawn = stream.integers(200, size=200).tolist()
            repeated = [
                (distances[pair], is_same[pair])
                for pair in range(distances.size)
                for _ in range(times(drawn, first[pair], second[pair]))
            ]
            expected = verification_metrics(*(np.array(column) for column in zip(*repeated, strict=True)))
            assert list(intervals) == ["eer", "auc", "tar@far=0.1", "tar@far=0.01"]
            for name, (low, high) in intervals.items():
                assert low == high == pytest.approx(expected[name], abs=1e-12), name

    def test_draws_without_genuine_or_impostor_pairs_are_repeated(self):
        """All three identities have to be drawn, so the only resample is the set itself."""
        distances, is_same = np.array([0.3, 0.3]), np.array([True, False])
        intervals = bootstrap_intervals(
            distances, is_same, identities=(["a", "b"], ["a", "c"]), num_resamples=50
        )
        assert intervals == {"eer": (0.5, 0.5), "auc": (0.5, 0.5)}

    def test_names_of_identities_do_not_matter(self):
        distances, is_same, (first, second) = identity_sample(np.random.default_rng(2), 20)
        names = np.array([f"Name_{number:02}" for number in range(20)])
        expected = bootstrap_intervals(distances, is_same, identities=(first, second), num_resamples=20)
        for identities in ((names[first], names[second]), (first * 7 - 50, second * 7 - 50)):
            assert expected == bootstrap_intervals(
                distances, is_same, identities=identities, num_resamples=20
            )

    def test_intervals_are_repeatable_and_do_not_depend_on_other_arguments(self):
        distances, is_same, identities = identity_sample(np.random.default_rng(3), 30)
        arguments = {"fold_accuracies": [0.8, 0.9, 1.0], "identities": identities, "num_resamples": 40}
        both = bootstrap_intervals(distances, is_same, **arguments)
        assert both == bootstrap_intervals(distances, is_same, **arguments)
        assert list(both)[:3] == ["accuracy", "eer", "auc"]
        for left_out in ("fold_accuracies", "identities"):
            alone = bootstrap_intervals(distances, is_same, **(arguments | {left_out: None}))
            assert alone.items() < both.items()
        assert both["auc"] != bootstrap_intervals(distances, is_same, **arguments, seed=1)["auc"]
        assert bootstrap_intervals(distances, is_same) == {}

    def test_samples_of_two_models_are_paired(self):
        """Both get the same draws, so a model that is wrong where the other is right mirrors its samples."""
        distances, is_same, identities = identity_sample(np.random.default_rng(6), 30)
        right, wrong = (
            bootstrap_samples(values, is_same, identities=identities, num_resamples=50)["auc"]
            for values in (distances, -distances)
        )
        assert interval_of(right)[0] < interval_of(right)[1]
        np.testing.assert_allclose(right + wrong, 1)

    def test_higher_confidence_widens_the_intervals(self):
        distances, is_same, identities = identity_sample(np.random.default_rng(4))
        narrow, wide = (
            bootstrap_intervals(distances, is_same, identities=identities, confidence=c, num_resamples=200)
            for c in (0.5, 0.95)
        )
        measured = verification_metrics(distances, is_same)
        for name, (low, high) in wide.items():
            assert low < narrow[name][0] < narrow[name][1] < high
            assert low < measured[name] < high

    def test_95_per_cent_intervals_usually_contain_the_truth(self):
        """About 95 % of the 95 % intervals contain the true value, which is known here."""
        spread, noise = 0.1, 0.15
        # A genuine distance has the offset of one identity, an impostor distance has two.
        deviation = math.sqrt(3 * spread**2 + 2 * noise**2)
        expected = 0.5 * (1 + math.erf(0.4 / deviation / math.sqrt(2)))
        inside = 0
        for seed in range(60):
            distances, is_same, identities = identity_sample(np.random.default_rng(seed), spread=spread)
            low, high = bootstrap_intervals(
                distances, is_same, identities=identities, num_resamples=200, seed=seed
            )["auc"]
            inside += low <= expected <= high
        assert inside >= 50

    def test_shared_identities_widen_the_interval(self):
        """Resampling pairs instead would count pairs of one identity as independent."""
        distances, is_same, identities = identity_sample(np.random.default_rng(5), 40, spread=0.3)
        low, high = bootstrap_intervals(distances, is_same, identities=identities)["auc"]
        rng = np.random.default_rng(0)
        by_pair = []
        for _ in range(200):
            drawn = rng.integers(distances.size, size=distances.size)
            by_pair.append(verification_metrics(distances[drawn], is_same[drawn])["auc"])
        assert high - low > 1.3 * np.ptp(np.quantile(by_pair, [0.025, 0.975]))


def test_tar_metrics_are_named_after_their_far():
    assert [tar_name(far) for far in FARS] == ["tar@far=0.1", "tar@far=0.01", "tar@far=0.001"]


def test_examples_of_the_docstrings_run():
    assert doctest.testmod(metrics).failed == 0
