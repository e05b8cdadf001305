"""Which records make up a batch of identities with several images each, for the triplet loss."""

import logging

import numpy as np

from dataset.sampling.shuffled import ShuffledSampler

logger = logging.getLogger(__name__)

# Last number of a seed: it keeps these draws apart from each other and from those of `ShuffledSampler`.
_OWN_IMAGES, _ANY_IMAGES = 1, 2
# Of a number that holds a label and, in its lower bits, a place among the records of a source.
_PLACE_BITS = np.uint64(32)
_PLACE = np.uint64(2**32 - 1)
_CHUNK = 1 << 20  # records at a time, where a copy of all would double the memory


class IdentitySampler:
    """Batches of P identities with K images each: every identity in turn, and all of its images.

    Batch `k` is a pure function of the labels, the seed and `k`, as with `ShuffledSampler`, which
    orders the identities here: each comes once per pass, in an order of its own, and sources have
    their shares of the identities by number or by weight. Where a pass ends within a batch, an
    identity that would come twice in it makes room for the next one of its pool.

    Each time an identity comes it gives the next K of its images, in an order that is new when all have
    been used. One with fewer than K images gives all of them, and some again. Identities with a
    single image have no positive, and are left out.

    References:
    - Row 13 of docs/fidelity.md, for `with_replacement`.
    - margin-centre-face, `dataset/sampling/combine.py`: runs of `num_per_class` images of one identity.

    Args:
        labels: sequence of int arrays, the labels of each source's records, such as
            `dataset.sampling.combine.CombinedSources.labels`; records are numbered through the sources.
        batch_size: int > 0, `P * images_per_identity`.
        images_per_identity: int >= 2, K.
        seed: int >= 0. Defaults to `0`.
        weights: sequence of float >= 0 that sums to 1, one per source, or `None` for numbers of
            identities (of images, with replacement).
        with_replacement: bool, draw as the original did: identities in proportion to their
            images, and images, both with replacement. An identity can come twice in a batch, an image
            twice in a group, and identities with one image are drawn, too. Defaults to `False`.

    Raises:
        ValueError: an argument is out of range, or a source has fewer than P identities.

    Example:

    >>> sampler = IdentitySampler([np.array([0, 1, 1, 0])], batch_size=4, images_per_identity=2)
    >>> sorted(sampler.batch(0)[:2].tolist()) in ([0, 3], [1, 2])
    True
    """

    def __init__(self, labels, batch_size, images_per_identity, seed=0, weights=None, with_replacement=False):
        if images_per_identity < 2:
            raise ValueError(f"images_per_identity: expected at least 2, received {images_per_identity}")
        if batch_size < 1 or batch_size % images_per_identity:
            raise ValueError(
                f"batch_size: expected a multiple of images_per_identity, {images_per_identity}, "
                f"received {batch_size}"
            )
        self.batch_size = batch_size
        self.images_per_identity = images_per_identity
        self.seed = seed
        self.weights = weights
        self.with_replacement = with_replacement

        self._records, counts = _grouped(labels)
        least = 1 if with_replacement else 2
        sizes = [np.count_nonzero(of_source >= least) for of_source in counts]
        counts = np.concatenate(counts)
        chosen = counts >= least
        self._starts, self._counts = (np.cumsum(counts) - counts)[chosen], counts[chosen]
        self._bounds = np.cumsum([0, *map(len, labels)])
        num_seen = np.count_nonzero(counts)
        if len(self._counts) < num_seen:
            logger.info(
                "%d of %d identities have one image, hence no positive, and are left out",
                num_seen - len(self._counts),
                num_seen,
            )

        # One pool of all sources, or one of each.
        if weights is None:
            sizes, self._bounds = [sum(sizes)], self._bounds[[0, -1]]
        num_drawn = batch_size // images_per_identity
        shares = [1.0] if weights is None else weights
        # Not strict: it is for `ShuffledSampler` to check the weights.
        for source, (size, share) in enumerate(zip(sizes, shares, strict=False)):
            expected = num_drawn if share > 0 and not with_replacement else 1
            if size < expected:
                where = "sources" if weights is None else f"source {source}"
                raise ValueError(
                    f"{where}: expected at least {expected} identities of {least} images or more, "
                    f"received {size}"
                )
        self._turns = ShuffledSampler(sizes, num_drawn, seed, weights)
        self._sizes = np.array(sizes)
        self._key = np.random.SeedSequence((seed, _OWN_IMAGES)).generate_state(1, np.uint64)
        self._row_bits = np.uint64(num_drawn.bit_length())
        self._image_bits = np.uint64(int(self._counts.max()).bit_length())

    @property
    def batches_per_epoch(self):
        """float: batches that hold as many samples as there are records."""
        return len(self._records) / self.batch_size

    def batch(self, k):
        """The records of batch `k`.

        Args:
            k: int >= 0.

        Returns:
            int64 array of record numbers, shape `(batch_size,)`: the images of the first identity,
            of the second, and so on.
        """
        num_drawn = self._turns.batch_size
        pools, positions = self._turns.positions(np.arange(k * num_drawn, (k + 1) * num_drawn))
        places = self._any(k, pools) if self.with_replacement else self._in_turn(pools, positions)
        return self._records[places].astype(np.int64).ravel()

    def _in_turn(self, pools, positions):
        """Places in `_records`, shape `(P, K)`."""
        identities = self._turns.records(pools, positions)
        visits = positions // self._sizes[pools]
        _, first = np.unique(identities, return_index=True)
        for i in np.setdiff1d(np.arange(len(identities)), first):
            while np.count_nonzero(identities == identities[i]) > 1:
                positions[i] += 1
                identities[i] = self._turns.records(pools[i : i + 1], positions[i : i + 1])[0]
            # Its own turn is about to come, with the images of this pass: it lends those of the next.
            visits[i] = positions[i] // self._sizes[pools[i]] + 1
        return self._next_images(identities, visits)

    def _next_images(self, identities, visits):
        """What each identity gives at its n-th visit: places in `_records`, shape `(P, K)`."""
        num, counts = self.images_per_identity, self._counts[identities]
        cycles, groups = np.divmod(visits, -(-counts // num))
        # Shuffled all at once, by the order of random numbers that hold, in the bits below, whose they are.
        rows, first = np.repeat(np.arange(len(counts)), counts), np.cumsum(counts) - counts
        images = (np.arange(len(rows)) - first[rows]).astype(np.uint64)
        streams = _mixed(_mixed(identities.astype(np.uint64) + self._key) + cycles.astype(np.uint64))
        keys = _mixed(streams[rows] + images) >> self._row_bits
        keys |= rows.astype(np.uint64) << np.uint64(64) - self._row_bits
        keys = keys >> self._image_bits << self._image_bits | images
        keys.sort()
        order = keys & (np.uint64(1) << self._image_bits) - np.uint64(1)
        # The last group of a cycle is filled up from its first.
        chosen = (groups[:, None] * num + np.arange(num)) % counts[:, None]
        return self._starts[identities, None] + order[first[:, None] + chosen].astype(np.int64)

    def _any(self, k, pools):
        """Places in `_records`, shape `(P, K)`."""
        rng = np.random.default_rng((self.seed, k, 0, _ANY_IMAGES))
        places = rng.integers(self._bounds[pools], self._bounds[pools + 1])
        identities = np.searchsorted(self._starts, places, side="right") - 1
        images = rng.integers(self._counts[identities, None], size=(len(pools), self.images_per_identity))
        return self._starts[identities, None] + images


def _mixed(numbers):
    """Random-looking uint64 numbers, one for each: the last steps of SplitMix64 (Steele et al., 2014)."""
    numbers = (numbers ^ numbers >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ numbers >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return numbers ^ numbers >> np.uint64(31)


def _grouped(labels):
    """Records by source and identity, and how many each identity has, by source."""
    num_records = sum(map(len, labels))
    records = np.empty(num_records, np.uint32 if num_records < 2**32 else np.uint64)
    counts = []
    first = 0
    for of_source in labels:
        # Label and place in one number: sorted in place, in a fraction of the memory and of the time of a
        # stable argsort, whose order it has.
        keys = np.empty(len(of_source), np.uint64)
        for start in range(0, len(keys), _CHUNK):
            chunk = keys[start : start + _CHUNK]
            chunk[:] = of_source[start : start + _CHUNK]
            chunk <<= _PLACE_BITS
            chunk |= np.arange(start, start + len(chunk), dtype=np.uint64)
        keys.sort()
        counted = np.zeros(int(keys[-1] >> _PLACE_BITS) + 1, np.int64)
        for start in range(0, len(keys), _CHUNK):
            chunk = keys[start : start + _CHUNK]
            records[first + start : first + start + len(chunk)] = (chunk & _PLACE) + np.uint64(first)
            own = (chunk >> _PLACE_BITS).astype(np.int64)
            own -= (least := own[0])
            of_chunk = np.bincount(own)
            counted[least : least + len(of_chunk)] += of_chunk
        counts.append(counted)
        first += len(of_source)
    return records, counts
