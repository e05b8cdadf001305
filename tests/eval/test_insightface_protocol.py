from pathlib import Path

import numpy as np
import pytest
from scipy.interpolate import BSpline
from sklearn.model_selection import KFold
from sklearn.preprocessing import normalize

from eval.scoring.insightface_protocol import evaluate_insightface

GOLDEN = Path(__file__).parent.parent / "golden" / "verification"


def golden(name):
    with np.load(GOLDEN / f"{name}.npz") as file:
        return [
            file[f"insightface/{key}"] for key in ("embeddings", "issame", "tpr", "fpr", "fold_accuracies")
        ]


def pairs(seed, num_pairs, dim=8, noise=0.8):
    """Embeddings that are not normalised, and answers: one of every two pairs is genuine, in any order."""
    rng = np.random.default_rng(seed)
    is_same = (np.arange(num_pairs) + rng.integers(2, size=num_pairs).repeat(2)[:num_pairs]) % 2 == 0
    first = rng.normal(size=(num_pairs, dim))
    second = np.where(is_same[:, None], first, rng.normal(size=first.shape))
    second = second + rng.normal(size=first.shape) * noise
    return (np.stack([first, second], axis=1).reshape(-1, dim) * 9).astype(np.float32), is_same


def linear_spline(far, thresholds, target):
    """Interpolates as SciPy's `interp1d(kind="slinear")` did before it refused repeated FARs."""
    knots = np.concatenate([far[:1], far, far[-1:]])
    return float(BSpline(knots, thresholds, 1)(target))


def rates(distances, is_same, threshold):
    """Computes TAR, FAR and accuracy in loops over pairs."""
    right = genuine = accepted_genuine = accepted_impostor = 0
    for distance, same in zip(distances, is_same, strict=True):
        accepted = distance < threshold
        right += accepted == same
        genuine += same
        accepted_genuine += accepted and same
        accepted_impostor += accepted and not same
    impostor = len(is_same) - genuine
    return accepted_genuine / genuine, accepted_impostor / impostor, right / len(is_same)


def reference(embeddings, is_same):
    """Computes the protocol by its description, threshold by threshold."""
    embeddings = normalize(embeddings.astype(np.float64))
    distances = np.sum(np.square(embeddings[0::2] - embeddings[1::2]), axis=1).tolist()
    coarse, fine = np.arange(0, 4, 0.01), np.arange(0, 4, 0.001)
    folds = {key: [] for key in ("tar", "far", "accuracy", "threshold", "val", "val_far")}
    for train, test in KFold(n_splits=10).split(is_same):
        others = [distances[pair] for pair in train], is_same[train].tolist()
        own = [distances[pair] for pair in test], is_same[test].tolist()
        best = coarse[np.argmax([rates(*others, threshold)[2] for threshold in coarse])]
        folds["threshold"].append(best)
        folds["accuracy"].append(rates(*own, best)[2])
        curve = [rates(*own, threshold) for threshold in coarse]
        folds["tar"].append([point[0] for point in curve])
        folds["far"].append([point[1] for point in curve])
        far = np.array([rates(*others, threshold)[1] for threshold in fine])
        threshold = linear_spline(far, fine, 1e-3) if far.max() >= 1e-3 else 0.0
        folds["val"].append(rates(*own, threshold)[0])
        folds["val_far"].append(rates(*own, threshold)[1])
    return folds


@pytest.mark.parametrize("name", ["verification", "verification_separable"])
class TestOriginal:
    def test_rates_and_accuracies_equal_those_of_insightface(self, name):
        embeddings, is_same, tpr, fpr, accuracies = golden(name)
        result = evaluate_insightface(embeddings, is_same)
        np.testing.assert_array_equal(result.tar, tpr)
        np.testing.assert_array_equal(result.far, fpr)
        assert result.fold_accuracies == tuple(accuracies)
        assert result.accuracy == accuracies.mean()
        assert result.std == accuracies.std()

    def test_embeddings_need_not_be_normalised(self, name):
        embeddings, is_same, tpr, fpr, accuracies = golden(name)
        lengths = np.random.default_rng(0).uniform(0.1, 50, (len(embeddings), 1))
        result = evaluate_insightface(embeddings * lengths, is_same)
        np.testing.assert_array_equal(result.tar, tpr)
        np.testing.assert_array_equal(result.far, fpr)
        assert result.fold_accuracies == tuple(accuracies)


@pytest.mark.parametrize("num_pairs", [40, 73])  # 73: three folds of 8, seven of 7
def test_scores_equal_those_of_loops(num_pairs):
    embeddings, is_same = pairs(num_pairs, num_pairs)
    result, expected = evaluate_insightface(embeddings, is_same), reference(embeddings, is_same)
    np.testing.assert_array_equal(result.tar, np.mean(expected["tar"], axis=0))
    np.testing.assert_array_equal(result.far, np.mean(expected["far"], axis=0))
    assert result.fold_accuracies == tuple(expected["accuracy"])
    assert result.fold_thresholds == tuple(expected["threshold"])
    assert result.accuracy == np.mean(expected["accuracy"])
    assert result.std == np.std(expected["accuracy"])
    assert result.threshold == np.mean(expected["threshold"])
    assert result.val == np.mean(expected["val"])
    assert result.val_std == np.std(expected["val"]) > 0
    assert result.val_far == np.mean(expected["val_far"])


def at_distances(distances):
    """Pairs of unit vectors in the plane at these squared distances."""
    angles = np.arccos(1 - np.asarray(distances, float) / 2)
    first = np.tile([1.0, 0.0], (len(angles), 1))
    return np.stack([first, np.stack([np.cos(angles), np.sin(angles)], axis=1)], axis=1).reshape(-1, 2)


def test_the_smallest_of_several_best_thresholds_is_used():
    is_same = np.tile([True, False], 20)
    result = evaluate_insightface(at_distances(np.where(is_same, 0.505, 2)), is_same)
    assert result.fold_thresholds == (np.arange(0, 4, 0.01)[51],) * 10


def test_a_distance_equal_to_a_threshold_is_refused():
    is_same = np.tile([True, False], 20)
    embeddings = np.tile([1.0, 0.0], (80, 1))
    embeddings[1::4] = [0.0, 1.0]  # genuine at 2 exactly
    embeddings[3::4] = [-1.0, 0.0]  # impostors at 4, past the last threshold
    result = evaluate_insightface(embeddings, is_same)
    thresholds = np.arange(0, 4, 0.01)
    assert 2.0 in thresholds
    np.testing.assert_array_equal(result.tar, thresholds > 2)


def test_distances_are_float64():
    is_same = np.tile([True, False], 20)
    embeddings = np.tile(np.float32([1, 0]), (80, 1))
    embeddings[1::2] = [5e-11, 1]  # at 2 - 1e-10
    result = evaluate_insightface(embeddings, is_same)
    np.testing.assert_array_equal(result.tar, np.arange(0, 4, 0.01) >= 2)


class TestVal:
    def test_the_threshold_is_interpolated(self):
        """One impostor of 90 is near: FAR goes from 0 at 1.2 to 1 / 90 at 1.201."""
        is_same = np.tile([True, False], 100)
        distances = np.where(is_same, 0.5, 3.0)
        distances[[5, 95, 135]] = 1.2005
        # At FAR 1e-3 the threshold is 1.2 + 0.09 * 0.001 or a part of it, more than 1.20002.
        distances[[0, 60]] = 1.20002  # genuine, accepted
        distances[[2, 62]] = 1.2002  # genuine, refused
        result = evaluate_insightface(at_distances(distances), is_same)
        assert result.val == pytest.approx(0.98)
        assert result.val_far == 0

    def test_val_is_0_if_the_far_is_never_reached(self):
        is_same = np.tile([True, False], 20)
        embeddings = np.tile([1.0, 0.0], (80, 1))
        embeddings[3::4] = [-1.0, 0.0]  # impostors at 4
        result = evaluate_insightface(embeddings, is_same)
        assert (result.val, result.val_std, result.val_far) == (0, 0, 0)
        assert result.accuracy == 1

    def test_a_threshold_comes_from_the_other_folds(self):
        """One impostor of 1100 is near. It raises the FAR to 1 / 990 for all folds except its own."""
        is_same = np.tile([True, False], 1100)
        distances = np.where(is_same, 2, 3.0005)
        distances[1] = 1.0005
        result = evaluate_insightface(at_distances(distances), is_same)
        assert result.val == 0.1
        assert result.val_far == 1 / 110 / 10


def test_a_zero_embedding_stays_zero():
    embeddings, is_same = pairs(1, 40)
    embeddings[6] = 0  # squared distance 1 to any unit vector
    moved = embeddings.copy()
    moved[6], moved[7] = np.eye(8)[0], [0.5, 0.75**0.5, 0, 0, 0, 0, 0, 0]  # also at 1, apart from rounding
    other = np.arange(0, 4, 0.01) != 1
    result, expected = evaluate_insightface(embeddings, is_same), evaluate_insightface(moved, is_same)
    np.testing.assert_array_equal(result.tar[other], expected.tar[other])
    np.testing.assert_array_equal(result.far[other], expected.far[other])


def test_results_are_plain_floats():
    result = evaluate_insightface(*pairs(2, 40))
    numbers = (result.accuracy, result.std, result.threshold, result.val, result.val_std, result.val_far)
    assert all(type(number) is float for number in (*numbers, *result.fold_accuracies))
    assert all(type(number) is float for number in result.fold_thresholds)
    assert result.tar.shape == result.far.shape == (400,)


def test_many_pairs_in_blocks_give_the_same_rates():
    embeddings, is_same = pairs(3, 9000, noise=0.5)
    distances = np.square(
        normalize(embeddings.astype(float))[0::2] - normalize(embeddings.astype(float))[1::2]
    )
    expected = [(distances.sum(axis=1)[is_same] < t).mean() for t in (0.5, 1, 2)]
    result = evaluate_insightface(embeddings, is_same)
    np.testing.assert_allclose(result.tar[[50, 100, 200]], expected, atol=0.002)


@pytest.mark.parametrize("is_same", [np.repeat([True, False], 20), np.arange(40) % 20 >= 19])
def test_a_fold_without_genuine_or_impostor_pairs_is_refused(is_same):
    with pytest.raises(ValueError, match="in fold 0"):
        evaluate_insightface(pairs(4, 40)[0], is_same)


def test_fewer_pairs_than_folds_are_refused():
    with pytest.raises(ValueError, match="in fold 0"):
        evaluate_insightface(np.ones((18, 2)), np.tile([True, False, True], 3))
