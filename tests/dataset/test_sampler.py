import numpy as np
import pytest

from dataset.sampling.shuffled import ShuffledSampler

PLAN = 10_000


def draw(sampler, num_samples):
    """Returns the first samples of the endless sequence, from whole batches."""
    num_batches = -(-num_samples // sampler.batch_size)
    return np.concatenate([sampler.batch(k) for k in range(num_batches)])[:num_samples]


def assert_epochs(records, first, size):
    """Checks that every whole epoch has each of `range(first, first + size)` once, in its own order."""
    epochs = records[: len(records) // size * size].reshape(-1, size)
    assert len(epochs) > 1
    assert (np.sort(epochs) == np.arange(first, first + size)).all()
    assert len(np.unique(epochs, axis=0)) == len(epochs)


# Batches that divide the epoch, that cross its end, and that contain several epochs.
@pytest.mark.parametrize("batch_size", [1, 6, 5, 23, 100])
def test_every_record_occurs_once_per_epoch(batch_size):
    """Row 12 of docs/fidelity.md."""
    sampler = ShuffledSampler([7, 5, 12], batch_size, seed=3)
    assert sampler.pools == [(0, 1, 2)]
    assert_epochs(draw(sampler, 24 * 10), 0, 24)
    assert sampler.batches_per_epoch == 24 / batch_size


@pytest.mark.parametrize("weights", [None, [0.25, 0.75]])
def test_faithful_repeats_one_order_in_all_epochs(weights):
    """Row 12 of docs/fidelity.md, `--faithful`: epochs repeat the order of the first."""
    sizes = [7, 17]
    records, reshuffled = (
        draw(ShuffledSampler(sizes, 10, 3, weights, reshuffle=reshuffle), 240) for reshuffle in (False, True)
    )
    firsts = [(0, 24)] if weights is None else [(0, 7), (7, 17)]
    for first, size in firsts:
        ours, others = (drawn[(drawn >= first) & (drawn < first + size)] for drawn in (records, reshuffled))
        assert len(ours) > 5 * size
        np.testing.assert_array_equal(ours, np.resize(others[:size], len(ours)))


def test_sources_are_mixed_by_size():
    records = draw(ShuffledSampler([9000, 1000], 100), 5000)
    assert 0.08 < (records >= 9000).mean() < 0.12


def test_the_batch_size_does_not_change_the_sequence():
    for weights in (None, [0.3, 0.7]):
        sequences = [draw(ShuffledSampler([7, 5], size, 3, weights), 60) for size in (1, 4, 32, 60)]
        assert (np.array(sequences) == sequences[0]).all()


@pytest.mark.parametrize("weights", [None, [0.2, 0.5, 0.3]])
def test_a_batch_is_a_pure_function_of_seed_and_number(weights):
    sizes, numbers = [40, 30, 50], np.arange(0, 200, 7)
    expected = {k: ShuffledSampler(sizes, 64, 9, weights).batch(k) for k in numbers}
    sampler = ShuffledSampler(sizes, 64, 9, weights)
    for k in [*numbers, *numbers[::-1], *np.random.default_rng(0).permutation(numbers)]:
        batch = sampler.batch(int(k))
        assert batch.dtype == np.int64
        np.testing.assert_array_equal(batch, expected[k])


@pytest.mark.parametrize("weights", [None, [0.5, 0.5]])
def test_seeds_give_different_orders(weights):
    batches = [ShuffledSampler([500, 500], 64, seed, weights).batch(0) for seed in range(5)]
    assert len(np.unique(batches, axis=0)) == 5


def test_the_order_is_the_same_in_every_version():
    """A run that is resumed with another version must continue in the same order."""
    assert ShuffledSampler([10], 10, seed=1).batch(3).tolist() == [4, 7, 1, 2, 5, 6, 3, 9, 0, 8]
    weighted = ShuffledSampler([10, 10], 8, seed=1, weights=[0.25, 0.75])
    assert weighted.batch(3).tolist() == [17, 14, 16, 19, 15, 12, 1, 13]


@pytest.mark.parametrize(
    "weights, shares",
    [
        ([0.25, 0.6, 0.15], [2500, 6000, 1500]),
        ([0.29, 0.57, 0.14], [2900, 5700, 1400]),  # 0.29 * 10_000 is not an integer in binary
        ([1 / 3, 1 / 3, 1 / 3], [3334, 3333, 3333]),
        ([0.99996, 0.00004, 0.0], [10_000, 0, 0]),
        ([0.0, 1.0, 0.0], [0, 10_000, 0]),
    ],
)
def test_weights_are_exact_in_every_plan(weights, shares):
    """Row 28 of docs/fidelity.md."""
    sizes = [40, 700, 13_000]
    sampler = ShuffledSampler(sizes, 250, seed=2, weights=weights)
    assert sampler.pools == [(0,), (1,), (2,)]
    plans = draw(sampler, 3 * PLAN).reshape(3, PLAN)
    sources = np.searchsorted(np.cumsum(sizes), plans, side="right")
    assert [np.bincount(plan, minlength=3).tolist() for plan in sources] == [shares] * 3
    assert len(np.unique(sources, axis=0)) == 3 or max(shares) == PLAN
    # The order within a plan is random, so that every batch has its share of each source.
    part = np.array([np.bincount(plan[:1000], minlength=3) for plan in sources])
    np.testing.assert_allclose(part, np.tile(shares, (3, 1)) / 10, atol=100)


@pytest.mark.parametrize("batch_size", [250, 333])
def test_weighted_sources_have_their_own_epochs(batch_size):
    sizes = [40, 700, 9000]
    records = draw(ShuffledSampler(sizes, batch_size, seed=2, weights=[0.1, 0.3, 0.6]), 4 * PLAN)
    for first, size in zip((0, 40, 740), sizes, strict=True):
        assert_epochs(records[(records >= first) & (records < first + size)], first, size)


def test_samples_of_each_pool_are_counted_and_numbered():
    sampler = ShuffledSampler([40, 700, 9000], 64, seed=2, weights=[0.1, 0.3, 0.6])
    pools, positions = sampler.positions(np.arange(3 * PLAN))
    for sample in (0, 1, 777, PLAN - 1, PLAN, PLAN + 1, 2 * PLAN, 23_456):
        assert sampler.used_before(sample).tolist() == np.bincount(pools[:sample], minlength=3).tolist()
    for pool in range(3):
        np.testing.assert_array_equal(positions[pools == pool], np.arange((pools == pool).sum()))


def test_without_weights_all_samples_are_in_one_pool():
    assert ShuffledSampler([4, 3], 2).used_before(12_345).tolist() == [12_345]


def test_only_two_orders_of_a_pool_are_kept():
    sampler = ShuffledSampler([50, 70], 30, weights=[0.5, 0.5])
    for k in range(700):
        sampler.batch(k)
        kinds = [what for what, _ in sampler._orders]
        assert max(kinds.count(what) for what in kinds) <= 2


@pytest.mark.parametrize("weights", [None, [0.3, 0.7]])
def test_the_order_of_the_next_epoch_is_made_ahead(weights, monkeypatch):
    expected = draw(ShuffledSampler([60, 90], 10, 4, weights), 1500)
    monkeypatch.setattr("dataset.sampling.shuffled._LARGE", 50)
    sampler = ShuffledSampler([60, 90], 10, 4, weights)
    np.testing.assert_array_equal(draw(sampler, 1500), expected)


def test_the_next_order_of_a_large_pool_is_made_half_an_epoch_ahead(monkeypatch):
    monkeypatch.setattr("dataset.sampling.shuffled._LARGE", 100)
    sampler = ShuffledSampler([40, 60], 10)
    for k, orders in enumerate([[0]] * 5 + [[0, 1]] * 10 + [[1, 2]] * 5):
        sampler.batch(k)
        assert [epoch for _, epoch in sampler._orders] == orders, k
    monkeypatch.setattr("dataset.sampling.shuffled._LARGE", 101)
    sampler = ShuffledSampler([40, 60], 10)
    sampler.batch(9)
    assert list(sampler._orders) == [(0, 0)]


def test_a_memory_error_in_the_thread_is_raised_when_drawing(monkeypatch):
    arange = np.arange

    def scarce(*args, **options):
        if "dtype" in options:
            raise MemoryError
        return arange(*args, **options)

    monkeypatch.setattr("dataset.sampling.shuffled._LARGE", 50)
    sampler = ShuffledSampler([100], 10)
    sampler.batch(0)
    monkeypatch.setattr(np, "arange", scarce)
    sampler.batch(5)  # starts to make the next order
    with pytest.raises(MemoryError):
        sampler.batch(10)


def test_a_fixed_order_is_drawn_once(monkeypatch):
    monkeypatch.setattr("dataset.sampling.shuffled._LARGE", 5)
    sampler = ShuffledSampler([7, 17], 10, reshuffle=False)
    draw(sampler, 240)
    assert list(sampler._orders) == [(0, 0)]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (([5, 5], 4, 0, [0.5, 0.4]), r"weights: .* sum to 1, received \[0.5, 0.4\]"),
        (([5, 5], 4, 0, [1.5, -0.5]), r"weights: expected numbers >= 0 .* received \[1.5, -0.5\]"),
        (([5, 5], 4, 0, [-1, 0.5]), "weights: expected numbers >= 0"),  # -1 was the original's image count
        (([5, 5], 4, 0, [float("nan"), 1.0]), "weights: expected numbers >= 0"),
    ],
)
def test_wrong_arguments_are_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        ShuffledSampler(*arguments)
