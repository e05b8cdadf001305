"""The records of a batch -> its pixels and identities, with others in the place of bad records."""

import dataclasses
import math

import numpy as np

from dataset.images import decode_image
from dataset.records.tfrecord import decode_example

_ALIGNMENT = 64  # bytes, of TensorFlow's tensors


class BatchLoader:
    """Reads and decodes the images of batches, one batch after the other or several at once.

    A record is bad when its bytes do not fit its checksum, or when its image cannot be decoded. Which
    record takes its place depends on the records of the batch alone: the next good one of the
    same identity, or the next good one if there is none. So batch `k` stays a pure function of the
    data, the seed and `k`, keeps its size, and a P x K batch its groups.

    Row 27 of docs/fidelity.md.

    Args:
        sources: `dataset.sampling.combine.CombinedSources`.
        rows: int array, which images of every batch are wanted; the others are read only where one of these
            is bad.
        rgb_sources: sequence of int, sources whose images are given in RGB; others in BGR.

    Attributes:
        reasons: dict from the number of every bad record met so far to a line that names and explains it.
    """

    def __init__(self, sources, rows, rgb_sources=()):
        self.sources = sources
        self.rows = np.asarray(rows)
        self.reasons = {}
        self._orders = ["RGB" if source in rgb_sources else "BGR" for source in range(len(sources.sizes))]

    def load(self, records):
        """Loads a batch by the numbers of its records.

        Args:
            records: int64 array, shape `(n,)`.

        Returns:
            `(images, identities, sources, bad)`: uint8 `(num_rows, *sources.image_size, 3)`; int32 and int64
            `(num_rows,)`; the list of the numbers of the batch's bad records.

        Raises:
            ValueError: a whole shard is damaged, or no record of the batch can be used.
            OSError: a shard cannot be read.
        """
        try:
            return *self._decode(*self.sources.read(records[self.rows])), []
        except ValueError:
            return self._load_around_bad(_Batch(*self._read(records), records.tolist()))

    def load_examples(self, examples, sources):
        """Loads a batch that was read in sequence.

        Args:
            examples: sequence of bytes, serialised `tf.train.Example`, of length `n`.
            sources: int64 array `(n,)`, numbers of their sources.

        Returns:
            As `load`.

        Raises:
            ValueError: no record of the batch can be used, or a bad one is not in its source's index.
        """
        try:
            return *self._decode([examples[row] for row in self.rows], sources[self.rows]), []
        except ValueError:
            return self._load_around_bad(_Batch(list(examples), sources, [None] * len(examples)))

    def _decode(self, examples, sources):
        # In one pass: what is read is still in the processor's cache when it is decoded.
        images = _aligned((len(sources), *self.sources.image_size, 3))
        labels = np.empty(len(sources), np.int64)
        for row, (example, source) in enumerate(zip(examples, sources.tolist(), strict=True)):
            image, labels[row] = decode_example(example)
            decode_image(image, images[row], self._orders[source])
        return images, (labels + self.sources.label_offsets[sources]).astype(np.int32), sources

    def _load_around_bad(self, batch):
        # All of the batch, for what stands in the place of a bad record must not depend on the rows.
        self._drop_undecodable(batch)
        is_bad = np.array([example is None for example in batch.examples])
        bad = [batch.records[place] for place in np.flatnonzero(is_bad)]
        places = self._replacements(batch, is_bad, bad)[self.rows]
        return *self._decode([batch.examples[place] for place in places], batch.sources[places]), bad

    def _read(self, records):
        examples, sources = [None] * len(records), np.empty(len(records), np.int64)
        for i, record in enumerate(records.tolist()):
            sources[i] = self.sources.source_of(record)
            try:
                (examples[i],), _ = self.sources.read(records[i : i + 1])
            except ValueError as error:
                self.sources.check_shard(record)
                self._add(record, str(error))
        return examples, sources

    def _drop_undecodable(self, batch):
        """Takes out the examples whose images cannot be decoded."""
        out = np.empty((*self.sources.image_size, 3), np.uint8)
        for place, example in enumerate(batch.examples):
            if example is None:
                continue
            try:
                decode_image(decode_example(example)[0], out, "RGB")
            except ValueError as error:
                source = int(batch.sources[place])
                if batch.records[place] is None:
                    batch.records[place] = self.sources.find(example, source)
                if batch.records[place] is None:
                    folder = self.sources.manifests[source].folder
                    raise ValueError(f"{folder}: a record that is not in its index: {error}") from None
                self._add(batch.records[place], str(error))
                batch.examples[place] = None

    def _replacements(self, batch, is_bad, bad):
        if is_bad.all():
            raise ValueError(
                f"{self.reasons[bad[0]]}; expected a batch of {len(is_bad)} with an image that can be used, "
                "received none"
            )
        identities = [
            int(self.sources.identities_of([record])[0])
            if example is None
            else decode_example(example)[1] + int(self.sources.label_offsets[source])
            for example, source, record in zip(batch.examples, batch.sources, batch.records, strict=True)
        ]
        return replacements(np.array(identities), is_bad)

    def _add(self, record, reason):
        place = self.sources.place_of(record)
        reason = reason.removeprefix(f"{place.shard}: record at byte {place.offset}: ")
        self.reasons[record] = f"{place}: {reason}"


def _aligned(shape):
    """An empty uint8 array that TensorFlow takes as it is; others it copies, while no thread runs Python."""
    size = math.prod(shape)
    buffer = np.empty(size + _ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % _ALIGNMENT
    return buffer[start : start + size].reshape(shape)


@dataclasses.dataclass
class _Batch:
    examples: list  # bytes; None where there is a bad one
    sources: np.ndarray
    records: list  # None as long as a number is not needed


def replacements(identities, is_bad):
    """Which image stands at each place of a batch.

    Args:
        identities: int array `(batch,)`.
        is_bad: bool array `(batch,)`, not all of them.

    Returns:
        int64 array `(batch,)` of places: its own for a good image; for a bad one the next good place, around
        the batch's end, of the same identity, or of any where there is none.

    Example:

    >>> replacements(np.array([7, 7, 8, 8]), np.array([True, False, True, True])).tolist()
    [1, 1, 1, 1]
    """
    size = len(identities)
    chosen = np.arange(size)
    for place in np.flatnonzero(is_bad):
        after = (place + 1 + np.arange(size)) % size
        good = after[~is_bad[after]]
        alike = good[identities[good] == identities[place]]
        chosen[place] = (alike if len(alike) else good)[0]
    return chosen
