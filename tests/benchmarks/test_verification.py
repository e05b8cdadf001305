import numpy as np
import pytest

from benchmarks import verification
from eval.scoring.insightface_protocol import evaluate_insightface
from eval.scoring.verification import evaluate_pairs, even_folds


@pytest.mark.parametrize("decimals", [2, 9])
def test_loops_give_our_accuracies(decimals):
    distances, is_same = verification.made_up_distances(400)
    distances, folds = distances.round(decimals), even_folds(is_same)
    for rule, loop in (
        ("best", verification.loop_over_thresholds),
        ("crossing", verification.loop_of_the_original),
    ):
        result = evaluate_pairs(distances, is_same, rule, folds=folds)
        np.testing.assert_array_equal(result.fold_accuracies, loop(distances, is_same, folds))
        assert 0.8 < result.accuracy < 1
    embeddings, is_same = verification.made_up_embeddings(400)
    result = evaluate_insightface(embeddings, is_same)
    np.testing.assert_array_equal(
        result.fold_accuracies, verification.loop_of_insightface(embeddings, is_same)
    )
    assert 0.8 < result.accuracy < 1


def test_many_measures_time_and_memory():
    measured = verification.many(1000)
    assert measured["megabytes"] >= 0 and min(measured["seconds"].values()) > 0
