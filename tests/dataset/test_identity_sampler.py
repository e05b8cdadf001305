import itertools
import logging

import numpy as np
import pytest

from dataset.sampling.by_identity import IdentitySampler, _group
from dataset.sampling.shuffled import ShuffledSampler

# Images of each identity, in two sources: 6 and 9 identities.
COUNTS = [[4, 9, 5, 12, 8, 6], [7, 4, 10, 6, 5, 4, 8, 11, 4]]
WEIGHTS = [None, [0.3, 0.7]]
with_and_without_weights = pytest.mark.parametrize("weights", WEIGHTS, ids=["by number", "by weight"])


def make_labels(counts, seed=0):
    """Labels of records in a random order, for each source."""
    rng = np.random.default_rng(seed)
    return [rng.permutation(np.repeat(np.arange(len(c), dtype=np.uint32), c)) for c in counts]


def identities_of(labels):
    """Returns the identity of every record, numbered consecutively over the sources."""
    offsets = np.cumsum([0, *(source_labels.max() + 1 for source_labels in labels)])
    return np.concatenate(
        [source_labels + offset for source_labels, offset in zip(labels, offsets, strict=False)]
    )


def draw(sampler, num_batches):
    """Returns the records of the first batches in groups, `(num_batches, P, K)`."""
    shape = (num_batches, -1, sampler.images_per_identity)
    return np.array([sampler.batch(k) for k in range(num_batches)]).reshape(shape)


def assert_distinct(values):
    """Checks that no value occurs twice along the last axis."""
    ordered = np.sort(values)
    assert (ordered[..., 1:] != ordered[..., :-1]).all()


# P = 1, 2, 4, 5 and 6 identities; the smaller source has 6.
@pytest.mark.parametrize("num", [1, 2, 4, 5, 6])
@with_and_without_weights
def test_a_batch_has_distinct_identities_with_distinct_images(num, weights):
    """Row 13 of docs/fidelity.md. It also holds if passes end within a batch."""
    labels = make_labels(COUNTS)
    sampler = IdentitySampler(labels, 4 * num, 4, 3, weights)
    groups = draw(sampler, 300)
    assert groups.shape == (300, num, 4)
    identities = identities_of(labels)[groups]
    assert (identities == identities[..., :1]).all()
    assert_distinct(identities[..., 0])
    assert_distinct(groups)
    assert sampler.batches_per_epoch == sum(map(sum, COUNTS)) / (4 * num)


@pytest.mark.parametrize("num", [3, 5, 15])
def test_each_identity_is_drawn_once_per_pass(num):
    """The 15 identities form one pool."""
    labels = make_labels(COUNTS)
    identities = identities_of(labels)[draw(IdentitySampler(labels, 2 * num, 2), 150 // num)[..., 0]]
    passes = identities.reshape(10, 15)
    assert (np.sort(passes) == np.arange(15)).all()
    assert len(np.unique(passes, axis=0)) == 10


@pytest.mark.parametrize("num", [4, 7, 11, 14])
def test_identities_are_drawn_equally_often_when_passes_end_within_a_batch(num):
    """Row 13 of docs/fidelity.md: only identities that would be drawn twice in a batch are replaced."""
    labels = make_labels(COUNTS)
    identities = identities_of(labels)[draw(IdentitySampler(labels, 2 * num, 2, 5), 1500)[..., 0]]
    turns = ShuffledSampler([15], num, 5)
    expected = np.array([turns.batch(k) for k in range(1500)])
    repeated = np.array([[i in batch[:place] for place, i in enumerate(batch)] for batch in expected])
    assert repeated.any()
    np.testing.assert_array_equal(identities[~repeated], expected[~repeated])
    times = np.bincount(identities.ravel(), minlength=15) / (100 * num)
    np.testing.assert_allclose(times, 1, atol=0.15)


@with_and_without_weights
@pytest.mark.parametrize("with_replacement", [False, True])
def test_a_batch_is_a_pure_function_of_seed_and_number(weights, with_replacement):
    labels, numbers = make_labels(COUNTS), np.arange(0, 300, 11)

    def make():
        return IdentitySampler(labels, 20, 4, 9, weights, with_replacement)

    expected = {k: make().batch(k) for k in numbers}
    sampler = make()
    for k in [*numbers, *numbers[::-1], *np.random.default_rng(0).permutation(numbers)]:
        batch = sampler.batch(int(k))
        assert batch.dtype == np.int64 and batch.shape == (20,)
        np.testing.assert_array_equal(batch, expected[k])


@with_and_without_weights
@pytest.mark.parametrize("with_replacement", [False, True])
def test_seeds_and_batches_differ(weights, with_replacement):
    labels = make_labels(COUNTS)
    runs = [draw(IdentitySampler(labels, 12, 4, seed, weights, with_replacement), 5) for seed in range(5)]
    assert len(np.unique(np.reshape(runs, (25, 12)), axis=0)) == 25


def test_records_are_grouped_as_a_stable_argsort_orders_them(monkeypatch):
    monkeypatch.setattr("dataset.sampling.by_identity._CHUNK", 7)
    labels = [*make_labels([[3, 0, 9, 1], [4]]), np.full(15, 2**32 - 7, np.uint32) // 2**27]
    records, counts = _group(labels)
    firsts = [0, 13, 17]
    expected = [first + np.argsort(own, kind="stable") for first, own in zip(firsts, labels, strict=True)]
    assert records.dtype == np.uint32 and records.tolist() == np.concatenate(expected).tolist()
    assert [c.tolist() for c in counts] == [np.bincount(own).tolist() for own in labels]


def test_the_order_is_the_same_in_every_version():
    """A run that is resumed with another version must continue in the same order."""
    labels = make_labels([[3, 4, 2], [4, 5, 3]])
    assert IdentitySampler(labels, 8, 2, seed=1).batch(4).tolist() == [19, 13, 14, 9, 5, 6, 4, 3]
    assert IdentitySampler(labels, 4, 2, 1, [0.25, 0.75]).batch(4).tolist() == [14, 9, 19, 13]
    assert IdentitySampler(labels, 4, 2, 1, with_replacement=True).batch(4).tolist() == [4, 4, 18, 12]


@pytest.mark.parametrize("num_images, num_groups", [(4, 1), (5, 2), (8, 2), (11, 3), (12, 3)])
@with_and_without_weights
def test_all_images_are_used_before_they_are_shuffled_again(num_images, num_groups, weights):
    labels = make_labels([[num_images] * 3, [num_images] * 2])
    groups = draw(IdentitySampler(labels, 4, 4, 2, weights), 60 * num_groups)[:, 0]
    identities = identities_of(labels)
    for identity in range(5):
        visits = groups[identities[groups[:, 0]] == identity]
        cycles = visits[: len(visits) // num_groups * num_groups].reshape(-1, 4 * num_groups)
        assert len(cycles) > 4
        assert_distinct(cycles[:, :num_images])
        assert (np.sort(cycles[:, :num_images]) == np.flatnonzero(identities == identity)).all()
        assert len(np.unique(cycles, axis=0)) > 4


def test_each_identity_has_an_image_order_of_its_own_for_each_seed():
    labels = [np.repeat(np.arange(5), 40)]
    orders = []
    for seed in range(3):
        groups = draw(IdentitySampler(labels, 20, 4, seed), 10).reshape(-1, 4)
        orders += [groups[groups[:, 0] // 40 == identity].ravel() % 40 for identity in range(5)]
    assert np.unique(orders, axis=0).shape == (15, 40)


def test_all_orders_are_equally_likely():
    sampler = IdentitySampler([np.repeat(np.arange(2000), 4)], 8, 4)
    orders = np.concatenate([sampler.batch(k).reshape(2, 4) for k in range(6000)]) % 4
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 24
    assert ((counts - 500) ** 2 / 500).sum() < 49.7  # chi-squared with 23 degrees of freedom, p = 0.001


def test_a_replacement_does_not_use_the_images_of_its_next_turn():
    """An identity that replaces another one uses other images than in its next turn."""
    labels = make_labels([[40] * 7])
    groups = draw(IdentitySampler(labels, 16, 4, 2), 300).reshape(-1, 4)
    identities = labels[0][groups[:, 0]]
    for identity in range(7):
        visits = np.sort(groups[identities == identity])
        shared = [len(np.intersect1d(*pair)) for pair in itertools.pairwise(visits)]
        assert max(shared) < 4


def test_small_identities_use_all_images_and_repeat_some():
    """Row 13 of docs/fidelity.md: images are distinct only if the identity has K images."""
    labels = make_labels([[2, 3, 4]])
    for batch in draw(IdentitySampler(labels, 12, 4), 20):
        for group in batch:
            identity = labels[0][group[0]]
            _, times = np.unique(group, return_counts=True)
            assert sorted(times) == {0: [2, 2], 1: [1, 1, 2], 2: [1, 1, 1, 1]}[identity]


def test_identities_without_a_pair_are_left_out(caplog):
    labels = make_labels([[0, 4, 1, 5], [1, 3, 0, 2]])
    with caplog.at_level(logging.INFO):
        sampler = IdentitySampler(labels, 8, 2)
        groups = draw(sampler, 50)
    assert np.unique(identities_of(labels)[groups]).tolist() == [1, 3, 5, 7]
    (message,) = caplog.messages
    assert message.startswith("2 of 6 identities")
    caplog.clear()
    with caplog.at_level(logging.INFO):
        IdentitySampler(make_labels([[2, 0, 3]]), 4, 2)
        IdentitySampler(labels, 8, 2, with_replacement=True)
    assert not caplog.messages


def test_weights_are_shares_of_the_identities(monkeypatch):
    """Row 28 of docs/fidelity.md. Shares are exact within each plan, and each source has its own passes."""
    monkeypatch.setattr("dataset.sampling.shuffled._PLAN_SIZE", 100)
    labels = make_labels(COUNTS)
    identities = identities_of(labels)[draw(IdentitySampler(labels, 4, 2, 1, [0.3, 0.7]), 450)[..., 0]]
    sources = identities.reshape(9, 100) >= 6
    assert sources.sum(axis=1).tolist() == [70] * 9
    times = np.bincount(identities.ravel(), minlength=15)
    np.testing.assert_allclose(times[:6], 270 / 6, atol=3)
    np.testing.assert_allclose(times[6:], 630 / 9, atol=3)


def test_a_source_without_weight_may_be_small():
    labels = make_labels([[2], [3, 3, 3]])
    groups = draw(IdentitySampler(labels, 6, 2, weights=[0.0, 1.0]), 10)
    assert groups.min() == 2
    assert draw(IdentitySampler(labels, 8, 2), 10).min() == 0  # Without weights, all sources form one pool.


def test_faithful_draws_identities_in_proportion_to_their_images():
    """Row 13 of docs/fidelity.md, `--faithful`."""
    counts = [[1, 10, 40, 0], [9, 20, 120]]
    labels = make_labels(counts)
    groups = draw(IdentitySampler(labels, 40, 4, with_replacement=True), 2000)
    identities = identities_of(labels)[groups]
    assert (identities == identities[..., :1]).all()
    drawn = np.bincount(identities[..., 0].ravel(), minlength=6)
    share = np.concatenate([counts[0][:3], counts[1]]) / 200
    np.testing.assert_allclose(drawn, 20_000 * share, atol=4 * np.sqrt(20_000 * 0.25))
    assert drawn[0] == pytest.approx(100, abs=40)
    # Within an identity, all images are equally likely.
    np.testing.assert_allclose(np.bincount(groups.ravel(), minlength=200), 400, atol=140)
    # With replacement, two draws from n images are equal with probability 1 / n.
    forty_images = groups[identities[..., 0] == 2]
    assert (forty_images[:, 0] == forty_images[:, 1]).mean() == pytest.approx(1 / 40, abs=0.01)
    same = identities[:, 0, 0] == identities[:, 1, 0]
    assert same.mean() == pytest.approx((share**2).sum(), abs=0.05)


def test_faithful_with_weights_draws_the_source_first():
    """Row 13 of docs/fidelity.md: draws the source, then an identity in proportion to its images."""
    labels = make_labels([[10, 30], [50, 150]])
    groups = draw(IdentitySampler(labels, 20, 2, weights=[0.8, 0.2], with_replacement=True), 1000)
    times = np.bincount(identities_of(labels)[groups[..., 0]].ravel(), minlength=4)
    assert times[:2].sum() == 8000
    np.testing.assert_allclose(times, [2000, 6000, 500, 1500], atol=160)
    # There is no minimum number of identities.
    draw(IdentitySampler(make_labels([[3]]), 20, 2, with_replacement=True), 1)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((32, 4), "sources: expected at least 8 identities with at least 2 images, received 7"),
        (
            (16, 4, 0, [0.5, 0.5]),
            "source 1: expected at least 4 identities with at least 2 images, received 3",
        ),
        ((8, 4, 0, [0.5, 0.4]), "weights: .* sum to 1"),
    ],
)
def test_wrong_arguments_are_errors(arguments, message):
    labels = make_labels([[2, 3, 1, 4, 5], [6, 2, 2, 1]])
    with pytest.raises(ValueError, match=message):
        IdentitySampler(labels, *arguments)
