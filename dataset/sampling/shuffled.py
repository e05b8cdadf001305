"""Which records make up a batch: a pure function of the seed and the batch's number."""

import functools
import threading
from concurrent.futures import Future

import numpy as np

# Weights are honoured exactly within every so many samples.
_PLAN_SIZE = 10_000
# Records from which on the next epoch's order is made ahead: a smaller one is there within a millisecond.
_LARGE = 1 << 16


class ShuffledSampler:
    """Every record once per epoch, in an order of its own; sources by size or by weight.

    Samples form one endless sequence, and batch `k` is samples `[k * batch_size,
    (k + 1) * batch_size)` of it. So a run that resumes, or that has another number of replicas,
    draws the same batches, and nothing about the position has to be saved but `k`.

    Without weights all sources form one pool, which gives each a share by its size. With
    weights every source has its own epochs, and each 10,000 samples hold each source's share
    of them in a random order.

    References:
    - Row 12 of docs/fidelity.md: the original keeps one order for all epochs.
    - margin-centre-face, `dataset/sampling/combine.py`: sources drawn in proportion to their size.

    Args:
        sizes: sequence of int > 0, records of each source; source `s` holds the records
            `[sum(sizes[:s]), sum(sizes[:s + 1]))`.
        batch_size: int > 0.
        seed: int >= 0. Defaults to `0`.
        weights: sequence of float >= 0 that sums to 1, one per source, or `None` for
            sizes.
        reshuffle: bool, an order of its own for every epoch. Defaults to `True`; `False` keeps that
            of the first.

    Attributes:
        pools: list of tuples of sources that are shuffled together.

    Raises:
        ValueError: an argument is out of range.

    Example:

    >>> sampler = ShuffledSampler([4], batch_size=2)
    >>> sorted(np.concatenate([sampler.batch(0), sampler.batch(1)]).tolist())
    [0, 1, 2, 3]
    """

    def __init__(self, sizes, batch_size, seed=0, weights=None, reshuffle=True):
        if not sizes or min(sizes) < 1:
            raise ValueError(f"sizes: expected at least one record in every source, received {list(sizes)}")
        if batch_size < 1:
            raise ValueError(f"batch_size: expected at least 1, received {batch_size}")
        if seed < 0:
            raise ValueError(f"seed: expected at least 0, received {seed}")
        self.sizes = list(sizes)
        self.batch_size = batch_size
        self.seed = seed
        self.weights = None if weights is None else _checked(weights, len(self.sizes))
        self.reshuffle = reshuffle
        everything = range(len(self.sizes))
        self.pools = [tuple(everything)] if weights is None else [(source,) for source in everything]
        self._pool_sizes = [sum(self.sizes[source] for source in pool) for pool in self.pools]
        self._first = np.cumsum([0, *self._pool_sizes])
        self._quotas = None if weights is None else _quotas(self.weights)
        # Half an epoch before it is wanted: of 42 million records a permutation takes seconds.
        self._prepare_from = [size // 2 if size >= _LARGE else size for size in self._pool_sizes]
        self._orders = {}
        self._lock = threading.Lock()

    @property
    def batches_per_epoch(self):
        """float: batches that hold as many samples as there are records."""
        return sum(self.sizes) / self.batch_size

    def batch(self, k):
        """The records of batch `k`.

        Args:
            k: int >= 0.

        Returns:
            int64 array of record numbers, shape `(batch_size,)`.
        """
        return self.records(*self.positions(np.arange(k * self.batch_size, (k + 1) * self.batch_size)))

    def records(self, pools, positions):
        """The records at places in the endless sequences of pools.

        Args:
            pools: int64 array, which of `pools`.
            positions: int64 array of the same shape, numbers >= 0.

        Returns:
            int64 array of record numbers, of the same shape.
        """
        records = np.empty_like(positions)
        for pool in np.unique(pools):
            epochs, places = np.divmod(positions, self._pool_sizes[pool])
            for epoch in np.unique(epochs[pools == pool]):
                chosen = (pools == pool) & (epochs == epoch)
                records[chosen] = self._first[pool] + self._order(pool, epoch)[places[chosen]]
                if self.reshuffle and places[chosen].max() >= self._prepare_from[pool]:
                    self._permutation(pool, epoch + 1, self._pool_sizes[pool], ahead=True)
        return records

    def positions(self, samples):
        """Where samples of the endless sequence come from.

        Args:
            samples: int64 array of numbers >= 0.

        Returns:
            `(pools, positions)`, int64 arrays: which of `pools`, and the place in the endless
            sequence of that pool.
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
            # A pool's samples are numbered as they come: its epochs follow each other also within a plan.
            for pool, quota in enumerate(self._quotas):
                places[drawn == pool] = np.arange(quota)
            pools[chosen] = drawn[slots[chosen]]
            positions[chosen] = plan * self._quotas[pools[chosen]] + places[slots[chosen]]
        return pools, positions

    def used_before(self, sample):
        """How many of the samples before this one come from each pool: int64 array `(num_pools,)`."""
        if self._quotas is None:
            return np.array([sample])
        plans, slot = divmod(sample, _PLAN_SIZE)
        pools, _ = self.positions(np.arange(sample - slot, sample))
        return plans * self._quotas + np.bincount(pools, minlength=len(self.pools))

    def _order(self, pool, epoch):
        return self._shuffled(pool, epoch if self.reshuffle else 0, self._pool_sizes[pool])

    def _shuffled(self, what, number, size):
        """A permutation of `range(size)`; the two newest of each kind are kept."""
        return self._permutation(what, number, size).result()

    def _permutation(self, what, number, size, ahead=False):
        """The same as a `Future`; `ahead`: made in a thread, unless it is there."""
        key = (what, int(number))
        with self._lock:  # batches are drawn ahead by one thread, and looked at by another
            if key not in self._orders:
                for old in [k for k in self._orders if k[0] == what and abs(k[1] - key[1]) > 1]:
                    del self._orders[old]
                order = self._orders[key] = Future()
                kind = 0 if what == "plan" else 1 + int(what)
                make = functools.partial(_permute, order, (self.seed, kind, key[1]), size)
                if ahead:
                    threading.Thread(target=make, daemon=True).start()
                else:
                    make()
            return self._orders[key]


def _permute(future, seed, size):
    try:
        order = np.arange(size, dtype=np.uint32 if size < 2**32 else np.uint64)
    except MemoryError as error:
        future.set_exception(error)  # for whoever draws, not for this thread
        return
    np.random.default_rng(seed).shuffle(order)  # lets other threads run meanwhile
    future.set_result(order)


def _checked(weights, num_sources):
    weights = np.asarray(weights, np.float64)
    if len(weights) != num_sources:
        raise ValueError(f"weights: expected {num_sources}, one per source, received {len(weights)}")
    # Row 28 of docs/fidelity.md: weights are probabilities, never mixed with image counts.
    if (weights < 0).any() or not np.isclose(weights.sum(), 1.0):
        raise ValueError(f"weights: expected numbers >= 0 that sum to 1, received {weights.tolist()}")
    return weights


def _quotas(weights):
    """Shares of a plan by largest remainder."""
    exact = weights * _PLAN_SIZE
    quotas = np.floor(exact).astype(np.int64)
    short = _PLAN_SIZE - quotas.sum()
    quotas[np.argsort(quotas - exact, kind="stable")[:short]] += 1
    return quotas
