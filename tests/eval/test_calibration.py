import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest

from common.typed_json import from_json
from eval.scoring.calibration import FARS, Calibration, calibrate
from eval.scoring.metrics import verification_metrics


def sample(seed, num_pairs=400, ties=False):
    rng = np.random.default_rng(seed)
    is_same = rng.random(num_pairs) < 0.4
    similarities = rng.normal(np.where(is_same, 0.6, 0.1), 0.2)
    return np.round(similarities, 1) if ties else similarities, is_same


def single(similarities, is_same, **values):
    return calibrate(np.array(similarities), np.array(is_same), kind="single", name="set", **values)


def expected_point(similarities, is_same, far):
    """Computes threshold and TAR in loops over similarities and pairs."""
    best = None
    values = sorted(set(similarities), reverse=True)
    for smallest, following in zip(values, [*values[1:], values[-1]], strict=True):
        accepted = [value >= smallest for value in similarities]
        impostors = sum(a and not same for a, same in zip(accepted, is_same, strict=True))
        if impostors / sum(not same for same in is_same) > far:
            break
        tar = sum(a and same for a, same in zip(accepted, is_same, strict=True)) / sum(is_same)
        best = (smallest + following) / 2, tar
    return best


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_thresholds_equal_those_of_a_loop_over_pairs(seed, ties):
    similarities, is_same = sample(seed, ties=ties)
    calibration = single(similarities, is_same)
    assert [row.far for row in calibration.table] == [0.1, 0.01]
    for row in calibration.table:
        assert (row.threshold, row.tar) == expected_point(similarities.tolist(), is_same.tolist(), row.far)
        assert row.interval[0] <= row.tar <= row.interval[1]
    curve = calibration.curve
    for far, *point in zip(curve.far, curve.threshold, curve.tar, strict=True):
        assert tuple(point) == expected_point(similarities.tolist(), is_same.tolist(), far)


def test_tar_equals_that_of_verification_metrics():
    similarities, is_same = sample(3, 4000)
    metrics = verification_metrics(1 - similarities, is_same)
    assert {row.far: row.tar for row in single(similarities, is_same).table} == {
        far: metrics[f"tar@far={far:g}"] for far in (0.1, 0.01, 0.001)
    }


def test_thresholds_equal_those_computed_by_hand():
    is_same = [True] * 10 + [False] * 10
    genuine = [0.9, 0.5, 0.3, *[0.1] * 7]
    # Of 10 impostors one may be accepted. The second has 0.4, and the genuine pair above it 0.5.
    calibration = single([*genuine, 0.6, 0.4, *[0.0] * 8], is_same)
    (row,) = calibration.table
    assert (row.threshold, row.tar) == (pytest.approx(0.45), 0.2)
    # At FAR 0 no impostor may be accepted: the threshold is between the impostor of 0.6 and the genuine
    # pair of 0.9.
    assert (calibration.curve.threshold[-1], calibration.curve.tar[-1]) == (0.75, 0.1)
    # Two impostors share 0.5 with a genuine pair, and only one may be accepted.
    tied = single([*genuine, 0.5, 0.5, *[0.0] * 8], is_same)
    assert (tied.table[0].threshold, tied.table[0].tar) == (0.7, 0.1)


def test_no_threshold_lies_between_adjacent_floats():
    impostor, genuine = 0.5, math.nextafter(0.5, 1)
    calibration = single([*[genuine] * 10, *[impostor] * 10], [True] * 10 + [False] * 10)
    assert (calibration.curve.threshold[-1], calibration.curve.tar[-1]) == (genuine, 1)


def test_tar_is_0_if_no_pair_may_be_accepted():
    (row,) = single([0.5] * 20, [True] * 10 + [False] * 10).table
    assert row.threshold == math.nextafter(0.5, 1)
    assert row.tar == 0


@pytest.mark.parametrize("num_impostor", [10, 99, 100, 1000, 9999, 10_000])
def test_fars_are_limited_by_the_number_of_impostor_pairs(num_impostor):
    is_same = np.arange(num_impostor + 20) < 20
    calibration = single(np.linspace(1, 0, is_same.size), is_same)
    assert [row.far for row in calibration.table] == [far for far in FARS if far * num_impostor >= 1]
    assert (calibration.num_genuine, calibration.num_impostor) == (20, num_impostor)
    fars = calibration.curve.far
    assert (fars[0], fars[-2], fars[-1]) == (1.0, 1 / num_impostor, 0.0)
    assert {row.far for row in calibration.table} <= set(fars)
    ratios = np.divide(fars[:-3], fars[1:-2])
    np.testing.assert_allclose(ratios, 10**0.1)
    assert ("not measured" in list(calibration.lines())[-1]) == (num_impostor < 10_000)


def test_a_threshold_has_at_most_the_requested_far():
    similarities, is_same = sample(5, 2000)
    calibration = single(similarities, is_same)
    impostors = similarities[~is_same]
    row = calibration.table[1]
    assert calibration.threshold_at(row.far).threshold == row.threshold
    for far in (1.0, 0.3, 0.011, 0.0123, 1 / len(impostors)):
        point = calibration.threshold_at(far)
        assert (impostors >= point.threshold).mean() <= point.far <= far <= point.far * 10**0.1
        assert point.note is None
    point = calibration.threshold_at(1e-5)
    assert point.threshold > impostors.max()
    assert point.far == 0
    assert point.note and f"{len(impostors)} impostor pairs of set" in point.note
    for far in (0, -1, 1.1, math.nan):
        with pytest.raises(ValueError, match="FAR"):
            calibration.threshold_at(far)


def test_a_threshold_for_an_fpir_follows_from_the_gallery_size():
    calibration = single(*sample(6, 4000))
    far = 1 - (1 - 0.1) ** (1 / 25)
    point = calibration.threshold_for_fpir(0.1, 25)
    assert point.asked_far == pytest.approx(far)
    assert point.threshold == calibration.threshold_at(far).threshold
    assert calibration.threshold_for_fpir(0.1, 1).asked_far == pytest.approx(0.1)
    for fpir, size in ((0, 5), (1, 5), (0.1, 0)):
        with pytest.raises(ValueError, match="FPIR"):
            calibration.threshold_for_fpir(fpir, size)


def test_resampling_identities_gives_wider_intervals_than_pairs():
    """Pairs that share a person are not independent: drawing people gives wider intervals."""
    rng = np.random.default_rng(0)
    is_same = np.tile([True, False], 600)
    people = np.repeat(np.arange(40), 30)
    similarities = rng.normal(np.where(is_same, 0.5, 0.0), 0.1) + rng.normal(0, 0.2, 40)[people]
    widths = {}
    for identities in (None, (people, np.where(is_same, people, 1000 + np.arange(1200)))):
        calibration = single(similarities, is_same, identities=identities)
        low, high = calibration.table[0].interval
        widths[calibration.resampled] = high - low
    assert widths["identities"] > 1.5 * widths["pairs"] > 0


def test_percentiles_agree_with_numpy():
    similarities, is_same = sample(1)
    calibration = single(similarities, is_same)
    for percentiles, values in (
        (calibration.genuine, similarities[is_same]),
        (calibration.impostor, similarities[~is_same]),
    ):
        np.testing.assert_allclose(percentiles, np.percentile(values, range(101)), atol=1e-5)


def test_a_calibration_is_read_back_from_json():
    calibration = calibrate(
        *sample(2),
        kind="template",
        name="set",
        flip=True,
        pooling="mean",
        files={"splits.txt": "ab"},
        max_frames=8,
    )
    values = json.loads(json.dumps(dataclasses.asdict(calibration)))
    assert from_json(Calibration, values, Path("card")) == calibration


@pytest.mark.parametrize(
    ("similarities", "is_same", "shown"),
    [
        ([0.5] * 20, [True] * 20, "received 20 and 0"),
        ([0.5] * 20, [False] * 20, "received 0 and 20"),
        ([0.5] * 19, [True] * 10 + [False] * 9, "received 10 and 9"),
        ([0.5] * 19, [True] * 9 + [False] * 10, "received 9 and 10"),
        ([math.nan] * 20, [True] * 10 + [False] * 10, "finite"),
    ],
)
def test_sets_that_cannot_be_calibrated_are_refused(similarities, is_same, shown):
    with pytest.raises(ValueError, match=f"set: .*{shown}"):
        single(similarities, is_same)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("kind", "video"),
        ("pooling", None),
        ("pooling", "best"),
        ("num_impostor", 0),
        ("curve", {"far": [1.0, 0.0], "threshold": [0.1], "tar": [1.0, 0.5]}),
        ("curve", {"far": [1.0, 0.5], "threshold": [0.1, 0.2], "tar": [1.0, 0.5]}),
        ("curve", {"far": [1.0, 0.0], "threshold": [0.2, 0.1], "tar": [1.0, 0.5]}),
        ("curve", {"far": [], "threshold": [], "tar": []}),
        ("table", [{"far": 0.1}]),
        ("genuine", "many"),
    ],
)
def test_damaged_calibrations_are_refused(key, value):
    calibration = calibrate(*sample(2), kind="template", name="set", pooling="mean")
    values = json.loads(json.dumps(dataclasses.asdict(calibration)))
    with pytest.raises(ValueError, match=key):
        from_json(Calibration, {**values, key: value}, Path("card"))
