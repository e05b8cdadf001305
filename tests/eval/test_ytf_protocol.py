from pathlib import Path

import numpy as np
import pytest

from eval.scoring.distances import pair_distances
from eval.scoring.verification import evaluate_pairs, even_folds, original_folds
from eval.scoring.ytf_protocol import ERROR_FILTERS, involves_wrong_video, score_lines

GOLDEN = Path(__file__).parent.parent / "golden" / "verification"


def pairs(num_splits=5, per_split=8, seed=0):
    rng = np.random.default_rng(seed)
    splits = np.repeat(np.arange(1, num_splits + 1), per_split)
    is_same = np.tile([True, False], splits.size // 2)
    distances = np.where(is_same, 0.4, 0.6) + rng.normal(scale=0.15, size=splits.size)
    return distances, is_same, splits, rng.random(splits.size) < 0.25


class TestWrongVideos:
    first = np.array(["Jean_Paul/0", "Paul/0", "Ann/1", "Ann/1"])
    second = np.array(["Ann/2", "Ann/2", "Paul/01", "Bea/0"])

    def test_exact_match_finds_equal_names(self):
        wrong = involves_wrong_video(self.first, self.second, ("Paul/0", "Bea/0"))
        assert wrong.tolist() == [False, True, False, True]

    def test_a_substring_match_finds_what_the_original_finds(self):
        wrong = involves_wrong_video(self.first, self.second, ("Paul/0",), "substring")
        assert wrong.tolist() == [True, True, True, False]

    @pytest.mark.parametrize("match", ["exact", "substring"])
    def test_without_a_list_no_video_is_wrong(self, match):
        assert involves_wrong_video(self.first, self.second, (), match).tolist() == [False] * 4


class TestLines:
    def test_each_line_has_its_pairs(self):
        distances, is_same, splits, is_wrong = pairs()
        lines = score_lines(distances, is_same, splits, is_wrong)
        assert [line.name for line in lines.values()] == [
            "YTF",
            "YTF-corrected (both)",
            "YTF-corrected (positives)",
        ]
        assert lines["none"].used.all()
        np.testing.assert_array_equal(lines["both"].used, ~is_wrong)
        np.testing.assert_array_equal(lines["positives"].used, ~is_wrong | ~is_same)
        assert list(lines) == list(ERROR_FILTERS)

    def test_official_splits_are_the_folds(self):
        distances, is_same, splits, is_wrong = pairs()
        shuffled = np.random.default_rng(1).permutation(len(splits))
        lines = score_lines(distances[shuffled], is_same[shuffled], splits[shuffled], is_wrong[shuffled])
        for error_filter, used in (("none", splits > 0), ("both", ~is_wrong)):
            expected = evaluate_pairs(distances[used], is_same[used], folds=splits[used])
            assert lines[error_filter].result == expected
        np.testing.assert_array_equal(lines["none"].folds, splits[shuffled])

    def test_splits_come_from_the_file_not_from_positions(self):
        distances, is_same, splits, is_wrong = pairs(num_splits=20, per_split=10)
        official = score_lines(distances, is_same, splits, is_wrong)["none"]
        position = score_lines(distances, is_same, splits, is_wrong, folds="position")["none"]
        assert len(official.result.fold_accuracies) == 20
        assert len(position.result.fold_accuracies) == 10
        np.testing.assert_array_equal(position.folds, original_folds(is_same) + 1)

    def test_the_original_has_no_folds_for_wrong_negatives(self):
        distances, is_same, splits, _ = pairs(num_splits=10, per_split=8)
        is_wrong = ~is_same & (np.arange(len(splits)) < 20)
        lines = score_lines(distances, is_same, splits, is_wrong, folds="position")
        assert is_same.sum() == 40 and lines["both"].used.sum() == 70
        np.testing.assert_array_equal(lines["both"].folds[~is_wrong], even_folds(is_same[~is_wrong]) + 1)
        np.testing.assert_array_equal(lines["positives"].folds, original_folds(is_same) + 1)

    def test_a_line_that_cannot_be_scored_is_named(self):
        distances, is_same, splits, _ = pairs()
        with pytest.raises(ValueError, match=r"YTF-corrected \(both\): "):
            score_lines(distances, is_same, splits, is_same)


def test_unequal_counts_score_like_the_original():
    with np.load(GOLDEN / "verification_unequal.npz") as file:
        embeddings = [file["pos_embeddings"], file["neg_embeddings"]]
        expected = {key: file[f"cosine/{key}"] for key in ("accuracy", "std", "threshold", "fold_accuracies")}
    is_same = np.repeat([True, False], [len(kind) for kind in embeddings])
    embeddings = np.concatenate(embeddings)
    distances = pair_distances(embeddings[:, 0], embeddings[:, 1], "cosine")
    nothing = np.zeros(is_same.size, bool)
    splits = np.ones(is_same.size, int)  # The original does not use them.
    line = score_lines(distances, is_same, splits, nothing, "crossing", "position")["positives"]
    assert line.result.fold_accuracies == tuple(expected["fold_accuracies"])
    assert (line.result.accuracy, line.result.std) == (expected["accuracy"], expected["std"])
    assert line.result.threshold == pytest.approx(expected["threshold"], rel=1e-6)
