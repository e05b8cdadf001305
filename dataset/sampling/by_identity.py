"""Draws batches of identities with several images each, for the triplet loss."""

import logging
from collections.abc import Sequence

import numpy as np

from dataset.sampling.shuffled import ShuffledSampler

logger = logging.getLogger(__name__)

# Last number of a seed. It makes these draws independent of each other and of those of `ShuffledSampler`.
_OWN_IMAGES, _ANY_IMAGES = 1, 2
# A sort key contains a label and, in its lower bits, the position of a record in its source.
_PLACE_BITS = np.uint64(32)
_PLACE = np.uint64(2**32 - 1)
_CHUNK = 1 << 20  # records to process at a time; a copy of all records would double the memory


class IdentitySampler:
    """Draws batches of P identities with K images each.

    Batch `k` is a pure function of the labels, the seed and `k`. A `ShuffledSampler` orders the identities:
    each is drawn once per pass, and the shares of the sources follow from weights, or from their numbers of
    identities. If a pass ends within a batch, an identity that would be drawn twice in it is replaced by the
    next one of its pool.

    Each time an identity is drawn, the batch gets the next K of its images. When all have been used, they are
    shuffled again. An identity with fewer than K images repeats some. Identities with a single image have no
    positive and are left out.

    References:
    - Row 13 of docs/fidelity.md, for `with_replacement`.
    - margin-centre-face, `dataset/combine.py`: `num_per_class` consecutive images of one identity.

    Args:
        labels: int `(num_images,)` for each source, such as `CombinedSources.labels`.
        batch_size: P * K.
        images_per_identity: K, at least 2.
        seed: at least 0. Defaults to `0`.
        weights: share of each source, at least 0, with a sum of 1. Defaults to shares by the number of
            identities, or by the number of images if `with_replacement`.
        with_replacement: draw like the original: identities in proportion to their number of images, and
            then images, both with replacement. An identity can be drawn twice in a batch, and an image twice
            in a group. Identities with one image are drawn too. Defaults to `False`.

    Raises:
        ValueError: a source, or all sources without weights, has too few identities for a batch.

    Example:

    >>> sampler = IdentitySampler([np.array([0, 1, 1, 0])], batch_size=4, images_per_identity=2)
    >>> sorted(sampler.batch(0)[:2].tolist()) in ([0, 3], [1, 2])
    True
    """

    def __init__(
        self,
        labels: Sequence[np.ndarray],
        batch_size: int,
        images_per_identity: int,
        seed: int = 0,
        weights: Sequence[float] | None = None,
        with_replacement: bool = False,
    ) -> None:
        self.batch_size = batch_size
        self.images_per_identity = images_per_identity
        self.seed = seed
        self.with_replacement = with_replacement

        self._records, source_counts = _group(labels)
        least = 1 if with_replacement else 2
        sizes = [int(np.count_nonzero(counts >= least)) for counts in source_counts]
        counts = np.concatenate(source_counts)
        chosen = counts >= least
        self._starts, self._counts = (np.cumsum(counts) - counts)[chosen], counts[chosen]
        self._bounds = np.cumsum([0, *map(len, labels)])
        num_seen = np.count_nonzero(counts)
        if len(self._counts) < num_seen:
            num_left_out = num_seen - len(self._counts)
            logger.info("%d of %d identities have only one image and are left out", num_left_out, num_seen)

        # Without weights, all sources form one pool. With weights, each source is a pool.
        if weights is None:
            sizes, self._bounds = [sum(sizes)], self._bounds[[0, -1]]
        num_drawn = batch_size // images_per_identity
        shares = [1.0] if weights is None else weights
        for source, (size, share) in enumerate(zip(sizes, shares, strict=True)):
            expected = num_drawn if share > 0 and not with_replacement else 1
            if size < expected:
                where = "sources" if weights is None else f"source {source}"
                raise ValueError(
                    f"{where}: expected at least {expected} identities with at least {least} images, "
                    f"received {size}"
                )
        self._turns = ShuffledSampler(sizes, num_drawn, seed, weights)
        self._sizes = np.array(sizes)
        self._key = np.random.SeedSequence((seed, _OWN_IMAGES)).generate_state(1, np.uint64)
        self._row_bits = np.uint64(num_drawn.bit_length())
        self._image_bits = np.uint64(int(self._counts.max()).bit_length())

    @property
    def batches_per_epoch(self) -> float:
        """Number of records divided by the batch size."""
        return len(self._records) / self.batch_size

    def batch(self, k: int) -> np.ndarray:
        """Returns the record numbers of batch `k`, grouped by identity: int64 `(batch_size,)`."""
        num_drawn = self._turns.batch_size
        pools, positions = self._turns.positions(np.arange(k * num_drawn, (k + 1) * num_drawn))
        if self.with_replacement:
            places = self._draw_with_replacement(k, pools)
        else:
            places = self._draw_in_turn(pools, positions)
        return self._records[places].astype(np.int64).ravel()

    def _draw_in_turn(self, pools, positions):
        """Returns indices into `_records`, shape `(P, K)`."""
        identities = self._turns.records(pools, positions)
        visits = positions // self._sizes[pools]
        _, first = np.unique(identities, return_index=True)
        for i in np.setdiff1d(np.arange(len(identities)), first):
            while np.count_nonzero(identities == identities[i]) > 1:
                positions[i] += 1
                identities[i] = self._turns.records(pools[i : i + 1], positions[i : i + 1])[0]
            # This identity still has its own turn in this pass. So use the images of its next pass now.
            visits[i] = positions[i] // self._sizes[pools[i]] + 1
        return self._next_images(identities, visits)

    def _next_images(self, identities, visits):
        """Returns the images of each identity at its n-th visit, as indices into `_records`, `(P, K)`."""
        num, counts = self.images_per_identity, self._counts[identities]
        cycles, groups = np.divmod(visits, -(-counts // num))
        # One sort shuffles the images of all identities. The upper bits of each key contain the row, the
        # lower bits the image, and the bits in between are random.
        rows, first = np.repeat(np.arange(len(counts)), counts), np.cumsum(counts) - counts
        images = (np.arange(len(rows)) - first[rows]).astype(np.uint64)
        streams = _mix(_mix(identities.astype(np.uint64) + self._key) + cycles.astype(np.uint64))
        keys = _mix(streams[rows] + images) >> self._row_bits
        keys |= rows.astype(np.uint64) << np.uint64(64) - self._row_bits
        keys = keys >> self._image_bits << self._image_bits | images
        keys.sort()
        order = keys & (np.uint64(1) << self._image_bits) - np.uint64(1)
        # If the last group of a cycle is incomplete, the first images of the cycle fill it up.
        chosen = (groups[:, None] * num + np.arange(num)) % counts[:, None]
        return self._starts[identities, None] + order[first[:, None] + chosen].astype(np.int64)

    def _draw_with_replacement(self, k, pools):
        """Returns indices into `_records`, shape `(P, K)`."""
        rng = np.random.default_rng((self.seed, k, 0, _ANY_IMAGES))
        places = rng.integers(self._bounds[pools], self._bounds[pools + 1])
        identities = np.searchsorted(self._starts, places, side="right") - 1
        images = rng.integers(self._counts[identities, None], size=(len(pools), self.images_per_identity))
        return self._starts[identities, None] + images


def _mix(numbers):
    """Hashes uint64 numbers with the last steps of SplitMix64 (Steele et al., 2014)."""
    numbers = (numbers ^ numbers >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ numbers >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return numbers ^ numbers >> np.uint64(31)


def _group(labels):
    """Sorts records by source and identity, and counts the records of each identity in each source."""
    num_records = sum(map(len, labels))
    records = np.empty(num_records, np.uint32 if num_records < 2**32 else np.uint64)
    counts = []
    first = 0
    for source_labels in labels:
        # Sorting keys of label and position gives the order of a stable argsort in a fraction of its memory
        # and time.
        keys = np.empty(len(source_labels), np.uint64)
        for start in range(0, len(keys), _CHUNK):
            chunk = keys[start : start + _CHUNK]
            chunk[:] = source_labels[start : start + _CHUNK]
            chunk <<= _PLACE_BITS
            chunk |= np.arange(start, start + len(chunk), dtype=np.uint64)
        keys.sort()
        counted = np.zeros(int(keys[-1] >> _PLACE_BITS) + 1, np.int64)
        for start in range(0, len(keys), _CHUNK):
            chunk = keys[start : start + _CHUNK]
            records[first + start : first + start + len(chunk)] = (chunk & _PLACE) + np.uint64(first)
            own = (chunk >> _PLACE_BITS).astype(np.int64)
            own -= (least := own[0])
            chunk_counts = np.bincount(own)
            counted[least : least + len(chunk_counts)] += chunk_counts
        counts.append(counted)
        first += len(source_labels)
    return records, counts
