import doctest
from collections import Counter

import numpy as np
import pytest

from eval.scoring import open_set
from eval.scoring.open_set import (
    FPIRS,
    RankedProbes,
    open_set_curve,
    open_set_intervals,
    open_set_metrics,
    rank_curve,
    rates_at,
)


def sample(seed, num_probes=300, num_gallery=12, ties=False):
    """Draws similarities, gallery and people of the probes. A third of the people are unknown."""
    rng = np.random.default_rng(seed)
    people = [f"person {number:02}" for number in range(num_gallery * 3 // 2)]
    gallery = people[:num_gallery]
    rng.shuffle(gallery)
    probes = [*people, *rng.choice(people, num_probes - len(people))]
    similarities = rng.normal(0.1, 0.2, (num_probes, num_gallery))
    for probe, person in enumerate(probes):
        if person in gallery:
            similarities[probe, gallery.index(person)] += 0.5
    return np.round(similarities, 1) if ties else similarities, gallery, probes


def by_loops(similarities, gallery, probes, fpirs=FPIRS, any_number=False):
    """Computes metrics and thresholds by definition; with `any_number`, even from too few unknown probes."""
    mated, unknown = [], []
    for row, person in zip(similarities.tolist(), probes, strict=True):
        if person in gallery:
            own = row[gallery.index(person)]
            mated.append((max(row), sum(other >= own for other in row)))
        else:
            unknown.append(max(row))
    metrics, thresholds = {}, {}
    for rank in (1, 5):
        found = [place <= rank for _, place in mated]
        metrics[f"rank-{rank}"] = sum(found) / len(found) if len(gallery) > rank else None
    for fpir in fpirs:
        name = f"tpir@fpir={fpir:g}"
        metrics[name] = thresholds[name] = None
        if any_number or len(unknown) >= 1 / fpir:
            allowed = [
                threshold
                for threshold in {*unknown, *(best for best, _ in mated)}
                if sum(best >= threshold for best in unknown) / len(unknown) <= fpir
            ]
            right = [sum(b >= t and place == 1 for b, place in mated) / len(mated) for t in allowed]
            metrics[name] = max(right, default=0.0)
            thresholds[name] = min(allowed, default=np.nextafter(max(unknown), 2))
    return metrics, thresholds


SAMPLES = [sample(seed, ties=bool(seed % 2)) for seed in range(6)]


@pytest.mark.parametrize(("similarities", "gallery", "probes"), SAMPLES)
def test_scores_equal_those_of_loops(similarities, gallery, probes, monkeypatch):
    monkeypatch.setattr(open_set, "FPIRS", fpirs := (0.005, 0.01, 0.05, 0.1, 0.3, 1))
    ranked = RankedProbes.from_similarities(similarities, gallery, probes)
    assert open_set_metrics(ranked) == by_loops(similarities, gallery, probes, fpirs)
    for threshold in (-1, 0.3, float(np.median(ranked.best)), 2):
        tpir, fpir = rates_at(ranked, threshold)
        unknown = [
            max(row) for row, person in zip(similarities, probes, strict=True) if person not in gallery
        ]
        assert fpir == sum(best >= threshold for best in unknown) / len(unknown)
        fpirs_of_curve, tpirs, thresholds = open_set_curve(ranked)
        place = np.flatnonzero(thresholds >= threshold)[-1:]
        assert [tpir, fpir] == ([tpirs[place], fpirs_of_curve[place]] if place.size else [0, 0])


def test_scores_equal_those_computed_by_hand():
    gallery = ["Ana", "Bo", "Chi"]
    # One of the ten unknown probes has a similarity of 0.7 to Bo. One of the four mated probes gets a wrong
    # name.
    unknown = [[0.1, 0.7, 0.2]] + [[0.3, 0.2, 0.1]] * 9
    mated = {"Ana": [0.9, 0.1, 0.0], "Bo": [0.0, 0.5, 0.1], "Chi": [0.8, 0.2, 0.4]}
    rows = [*mated.values(), [0.2, 0.25, 0.1], *unknown]
    ranked = RankedProbes.from_similarities(np.array(rows), gallery, [*mated, "Bo", *["Dara"] * 10])
    assert ranked.ranks.tolist() == [1, 1, 2, 1] + [0] * 10
    metrics, thresholds = open_set_metrics(ranked)
    assert metrics == {"rank-1": 3 / 4, "rank-5": None, "tpir@fpir=0.01": None, "tpir@fpir=0.1": 0.5}
    assert thresholds == {"tpir@fpir=0.01": None, "tpir@fpir=0.1": 0.5}
    assert rank_curve(ranked).tolist() == [0.75, 1, 1]
    assert rank_curve(ranked, 2).tolist() == [0.75, 1]
    assert rates_at(ranked, 0.7) == (0.25, 0.1)
    assert rates_at(ranked, 0.25) == (0.75, 1)


def test_ties_are_resolved_agrees_with_the_model():
    ranked = RankedProbes.from_similarities(np.full((30, 6), 0.5), list("abcdef"), list("abcdefghij") * 3)
    metrics, thresholds = open_set_metrics(ranked)
    assert metrics == {"rank-1": 0, "rank-5": 0, "tpir@fpir=0.01": None, "tpir@fpir=0.1": 0}
    assert thresholds["tpir@fpir=0.1"] == np.nextafter(0.5, 1)
    # An unknown probe with the similarity of mated ones: the threshold accepts both or neither.
    rows = np.array([[0.6, 0.0]] * 5 + [[0.6, 0.1]] + [[0.2, 0.1]] * 9)
    ranked = RankedProbes.from_similarities(rows, ["a", "b"], ["a"] * 5 + ["x"] * 10)
    assert open_set_metrics(ranked)[0]["tpir@fpir=0.1"] == 1
    rows[6, 0] = 0.6
    ranked = RankedProbes.from_similarities(rows, ["a", "b"], ["a"] * 5 + ["x"] * 10)
    assert open_set_metrics(ranked)[0]["tpir@fpir=0.1"] == 0


@pytest.mark.parametrize(("num_unknown", "measured"), [(0, []), (9, []), (10, [0.1]), (100, [0.01, 0.1])])
def test_tpir_is_none_with_too_few_unknown_probes(num_unknown, measured):
    similarities = np.tile([0.4, 0.2], (2 + num_unknown, 1))
    ranked = RankedProbes.from_similarities(similarities, ["a", "b"], [*"ab", *["x"] * num_unknown])
    metrics, thresholds = open_set_metrics(ranked)
    names = {f"tpir@fpir={fpir}" for fpir in measured}
    assert {name for name, value in thresholds.items() if value is not None} == names
    assert {name for name, value in metrics.items() if value is not None} == names | {"rank-1"}
    assert open_set_intervals(ranked, num_resamples=5).keys() == names | {"rank-1"}
    assert rates_at(ranked, 0.3) == (0.5, 1 if num_unknown else None)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"similarities": np.zeros((2, 3))}, r"\(3, 2\)"),
        ({"similarities": np.array([[0, 0], [0, np.nan], [0, 0]])}, "probe 1 and b"),
        ({"gallery": ["a", "a"]}, "received a twice"),
    ],
)
def test_wrong_arguments_are_refused(change, match):
    arguments = {"similarities": np.zeros((3, 2)), "gallery": ["a", "b"], "probes": ["a", "b", "x"]}
    RankedProbes.from_similarities(**arguments)
    with pytest.raises(ValueError, match=match):
        RankedProbes.from_similarities(**(arguments | change))


@pytest.mark.parametrize(("num_gallery", "measured"), [(1, []), (2, [1]), (5, [1]), (6, [1, 5])])
def test_rank_is_none_with_a_small_gallery(num_gallery, measured):
    gallery = [f"{number}" for number in range(num_gallery)]
    metrics, _ = open_set_metrics(RankedProbes.from_similarities(np.eye(num_gallery), gallery, gallery))
    assert {name: value for name, value in metrics.items() if value} == {f"rank-{r}": 1 for r in measured}


def test_probes_without_anyone_from_the_gallery_are_refused():
    ranked = RankedProbes.from_similarities(np.zeros((3, 2)), ["a", "b"], ["x", "y", "z"])
    for score in (open_set_metrics, open_set_intervals):
        with pytest.raises(ValueError, match="probes"):
            score(ranked)


def test_parts_can_be_ranked_separately():
    similarities, gallery, probes = SAMPLES[1]
    parts = [
        RankedProbes.from_similarities(similarities[part], gallery, probes[part])
        for part in (slice(1), slice(1, 100), slice(100, None))
    ]
    whole = RankedProbes.from_similarities(similarities, gallery, probes)
    joined = RankedProbes.concatenate(parts)
    assert open_set_metrics(joined) == open_set_metrics(whole)
    assert open_set_intervals(joined, num_resamples=3) == open_set_intervals(whole, num_resamples=3)


class TestIntervals:
    @pytest.mark.parametrize(("similarities", "gallery", "probes"), SAMPLES[:4])
    def test_one_resample_equals_repeated_probes(self, similarities, gallery, probes):
        ranked = RankedProbes.from_similarities(similarities, gallery, probes)
        names = sorted(set(probes))
        times = Counter(np.random.default_rng(3).integers(len(names), size=len(names)).tolist())
        drawn = [probe for probe, person in enumerate(probes) for _ in range(times[names.index(person)])]
        repeated = similarities[drawn], gallery, [probes[probe] for probe in drawn]
        expected = by_loops(*repeated, any_number=True)[0]
        intervals = open_set_intervals(ranked, num_resamples=1, seed=3)
        assert intervals == {name: (expected[name], expected[name]) for name in intervals}
        assert list(intervals)[:2] == ["rank-1", "rank-5"] and "tpir@fpir=0.1" in intervals

    def test_intervals_depend_on_seed_and_confidence(self):
        ranked = RankedProbes.from_similarities(*SAMPLES[0])
        each = [open_set_intervals(ranked, seed=7), open_set_intervals(ranked, seed=8)]
        assert open_set_intervals(ranked, seed=7) == each[0] != each[1]
        metrics = open_set_metrics(ranked)[0]
        narrow = open_set_intervals(ranked, confidence=0.5)
        for name, (low, high) in each[0].items():
            assert low < narrow[name][0] <= metrics[name] <= narrow[name][1] < high

    def test_draws_without_mated_or_unknown_probes_are_repeated(self):
        """Both people have to be drawn, so the only resample is the set itself."""
        rows = np.array([[0.5, 0.1]] * 2 + [[0.6, 0.2]] + [[0.1, 0.2]] * 9)
        ranked = RankedProbes.from_similarities(rows, ["a", "b"], ["a"] * 2 + ["x"] * 10)
        assert open_set_intervals(ranked, num_resamples=50) == {"rank-1": (1, 1), "tpir@fpir=0.1": (1, 1)}

    def test_people_are_resampled_not_probes(self):
        """All probes of a person are right or wrong together, so more of them do not narrow the interval."""
        people = [f"{number:02}" for number in range(20)]
        rows = np.eye(20)[np.arange(20) // 2 * 2]
        widths = []
        for repeats in (1, 50):
            similarities, probes = np.repeat(rows, repeats, axis=0), np.repeat(people, repeats).tolist()
            ranked = RankedProbes.from_similarities(similarities, people, probes)
            low, high = open_set_intervals(ranked, num_resamples=400)["rank-1"]
            widths.append(high - low)
        assert widths[0] == widths[1] > 0.3


def test_examples_of_the_docstrings_run():
    assert doctest.testmod(open_set).failed == 0
