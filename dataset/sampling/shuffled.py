"""Draws the records of a batch as a pure function of the seed and the number of the batch."""

import functools
import threading
from collections.abc import Sequence
from concurrent.futures import Future

import numpy as np

# Number of consecutive samples that contain the exact share of every source.
_PLAN_SIZE = 10_000
# With this many records or more, a thread shuffles the next epoch ahead. Fewer take only a millisecond.
_LARGE = 1 << 16


class ShuffledSampler:
    """Draws every record once per epoch, each epoch in a new order.

    Samples form one endless sequence, and batch `k` is the samples `[k * batch_size, (k + 1) * batch_size)`.
    So a resumed run, or one with another number of replicas, draws the same batches. `k` is the only state.

    Without weights, all sources form one pool, so their shares are proportional to their sizes. With weights,
    every source has its own epochs, and each 10,000 samples contain the share of each source, in random
    order.

    References:
    - Row 12 of docs/fidelity.md: the original keeps one order for all epochs.
    - margin-centre-face, `dataset/combine.py`: sources drawn in proportion to their size.

    Args:
        sizes: number of records of each source, at least 1. Source `s` holds the records
            `[sum(sizes[:s]), sum(sizes[:s + 1]))`.
        batch_size: at least 1.
        seed: at least 0.
        weights: share of each source, at least 0, with a sum of 1. Defaults to shares by size.
        reshuffle: draw a new order for every epoch. `False` repeats the order of the first epoch. Defaults to
            `True`.

    Attributes:
        pools: list with a tuple for each pool, which contains the numbers of the sources in it.

    Raises:
        ValueError: a weight is negative, or their sum is not 1.

    Example:

    >>> sampler = ShuffledSampler([4], batch_size=2)
    >>> sorted(np.concatenate([sampler.batch(0), sampler.batch(1)]).tolist())
    [0, 1, 2, 3]
    """

    def __init__(
        self,
        sizes: Sequence[int],
        batch_size: int,
        seed: int = 0,
        weights: Sequence[float] | None = None,
        reshuffle: bool = True,
    ) -> None:
        self.sizes = list(sizes)
        self.batch_size = batch_size
        self.seed = seed
        self.reshuffle = reshuffle
        everything = range(len(self.sizes))
        self.pools = [tuple(everything)] if weights is None else [(source,) for source in everything]
        self._pool_sizes = [sum(self.sizes[source] for source in pool) for pool in self.pools]
        self._first = np.cumsum([0, *self._pool_sizes])
        self._quotas = None if weights is None else _quotas(weights)
        # Start half an epoch ahead, because a permutation of 42 million records takes seconds.
        self._prepare_from = [size // 2 if size >= _LARGE else size for size in self._pool_sizes]
        self._orders: dict[tuple[str | int, int], Future[np.ndarray]] = {}
        self._lock = threading.Lock()

    @property
    def batches_per_epoch(self) -> float:
        """Number of records divided by the batch size."""
        return sum(self.sizes) / self.batch_size

    def batch(self, k: int) -> np.ndarray:
        """Returns the record numbers of batch `k`: int64 `(batch_size,)`."""
        return self.records(*self.positions(np.arange(k * self.batch_size, (k + 1) * self.batch_size)))

    def records(self, pools: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Returns the record numbers at given positions in the endless sequences of pools.

        Args:
            pools: int64 `(n,)`, indices into the attribute `pools`.
            positions: int64 `(n,)`, at least 0.

        Returns:
            int64 `(n,)`.
        """
        records = np.empty_like(positions)
        for pool in np.unique(pools):
            epochs, places = np.divmod(positions, self._pool_sizes[pool])
            for epoch in np.unique(epochs[pools == pool]):
                chosen = (pools == pool) & (epochs == epoch)
                order = self._shuffled(pool, epoch if self.reshuffle else 0, self._pool_sizes[pool])
                records[chosen] = self._first[pool] + order[places[chosen]]
                if self.reshuffle and places[chosen].max() >= self._prepare_from[pool]:
                    self._permutation(pool, epoch + 1, self._pool_sizes[pool], ahead=True)
        return records

    def positions(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the pool of each sample, and its position in the endless sequence of that pool.

        Args:
            samples: int64 `(n,)`, at least 0.

        Returns:
            `(pools, positions)`, both int64 `(n,)`.
        """
        if self._quotas is None:
            return np.zeros_like(samples), samples
        plans, slots = np.divmod(samples, _PLAN_SIZE)
        layout = np.repeat(np.arange(len(self.pools)), self._quotas)
        places = np.empty(_PLAN_SIZE, np.int64)
        pools = np.empty_like(samples)
        positions = np.empty_like(samples)
        for plan in np.unique(plans):
            chosen = plans == plan
            drawn = layout[self._shuffled("plan", plan, _PLAN_SIZE)]
            # Numbering the samples of a pool in order keeps its epochs one after another within a plan, too.
            for pool, quota in enumerate(self._quotas):
                places[drawn == pool] = np.arange(quota)
            pools[chosen] = drawn[slots[chosen]]
            positions[chosen] = plan * self._quotas[pools[chosen]] + places[slots[chosen]]
        return pools, positions

    def used_before(self, sample: int) -> np.ndarray:
        """Returns the number of samples from each pool before sample `sample`: int64 `(num_pools,)`."""
        if self._quotas is None:
            return np.array([sample])
        plans, slot = divmod(sample, _PLAN_SIZE)
        pools, _ = self.positions(np.arange(sample - slot, sample))
        return plans * self._quotas + np.bincount(pools, minlength=len(self.pools))

    def _shuffled(self, kind, number, size):
        """Returns a permutation of `range(size)`. The two latest permutations of each kind are kept."""
        return self._permutation(kind, number, size).result()

    def _permutation(self, kind, number, size, ahead=False):
        """Returns the permutation as a `Future`. If `ahead` is true, a thread computes it.

        `kind` is the number of a pool, or `"plan"`.
        """
        key = (kind, int(number))
        with self._lock:  # One thread draws batches ahead, and another thread reports them.
            if key not in self._orders:
                for old in [k for k in self._orders if k[0] == kind and abs(k[1] - key[1]) > 1]:
                    del self._orders[old]
                order = self._orders[key] = Future()
                stream = 0 if kind == "plan" else 1 + int(kind)
                make = functools.partial(_permute, order, (self.seed, stream, key[1]), size)
                if ahead:
                    threading.Thread(target=make, daemon=True).start()
                else:
                    make()
            return self._orders[key]


def _permute(future, seed, size):
    try:
        order = np.arange(size, dtype=np.uint32 if size < 2**32 else np.uint64)
    except MemoryError as error:
        future.set_exception(error)  # It is raised when the order is used.
        return
    np.random.default_rng(seed).shuffle(order)  # NumPy lets other threads run meanwhile.
    future.set_result(order)


def _quotas(weights):
    """Returns the number of samples of each source in a plan, by largest remainder."""
    weights = np.asarray(weights, np.float64)
    # Row 28 of docs/fidelity.md: weights are probabilities, never mixed with image counts.
    if (weights < 0).any() or not np.isclose(weights.sum(), 1.0):
        raise ValueError(f"weights: expected numbers >= 0 that sum to 1, received {weights.tolist()}")
    exact = weights * _PLAN_SIZE
    quotas = np.floor(exact).astype(np.int64)
    short = _PLAN_SIZE - quotas.sum()
    quotas[np.argsort(quotas - exact, kind="stable")[:short]] += 1
    return quotas
