"""Reads and decodes the images of a batch, and replaces bad records."""

import math
from collections.abc import Collection, Sequence

import numpy as np

from dataset.images import decode_image
from dataset.records.tfrecord import decode_example
from dataset.sampling.combine import CombinedSources

_ALIGNMENT = 64  # alignment of TensorFlow's tensors in bytes

Batch = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, list[int]]


class BatchLoader:
    """Reads and decodes the images of batches. Several threads may call it.

    A record is bad if its checksum is wrong or its image cannot be decoded. It is replaced by the next good
    record of the same identity in the batch, or else by the next good record. So batch `k` stays a pure
    function of the data, the seed and `k`, keeps its size, and a P x K batch keeps its groups.

    Row 27 of docs/fidelity.md.

    Args:
        sources: the records.
        rows: int `(num_rows,)`, positions in every batch of the images to return. The others are read only
            if one of these is bad.
        rgb_sources: numbers of the sources whose images are returned in RGB. Others are returned in BGR.

    Attributes:
        reasons: dict from the number of every bad record found so far to a message that names the record and
            the reason.
    """

    def __init__(self, sources: CombinedSources, rows: np.ndarray, rgb_sources: Collection[int] = ()) -> None:
        self.sources = sources
        self.rows = np.asarray(rows)
        self.reasons: dict[int, str] = {}
        self._orders = ["RGB" if source in rgb_sources else "BGR" for source in range(len(sources.sizes))]

    def load(self, records: np.ndarray) -> Batch:
        """Loads a batch by the numbers of its records, int64 `(n,)`.

        Returns:
            `(images, identities, sources, loaded, bad)`. Images are uint8
            `(num_rows, *sources.image_size, 3)`. Identities, sources and loaded, the numbers of the returned
            records, are int64 `(num_rows,)`. Bad is a list with the numbers of the batch's bad records.

        Raises:
            ValueError: a whole shard is damaged, or no record of the batch is good.
            OSError: a shard cannot be read.
        """
        try:
            chosen = records[self.rows]
            return *self._decode(*self.sources.read(chosen)), chosen, []
        except ValueError:
            return self._load_around_bad(*self._read(records), records.tolist())

    def load_examples(self, examples: Sequence[bytes], sources: np.ndarray) -> Batch:
        """Loads a batch that was read sequentially. Returns the same as `load`, but -1 as loaded records.

        Args:
            examples: a serialised `tf.train.Example` for each image.
            sources: int64 `(n,)`, numbers of their sources.

        Raises:
            ValueError: no record of the batch is good, or a bad record is not in the index of its source.
        """
        try:
            decoded = self._decode([examples[row] for row in self.rows], sources[self.rows])
            return *decoded, np.full(len(self.rows), -1), []
        except ValueError:
            return self._load_around_bad(list(examples), sources, [None] * len(examples))

    def _decode(self, examples, sources):
        # One pass decodes a record while it is still in the processor's cache.
        images = _aligned((len(sources), *self.sources.image_size, 3))
        labels = np.empty(len(sources), np.int64)
        for row, (example, source) in enumerate(zip(examples, sources.tolist(), strict=True)):
            image, labels[row] = decode_example(example)
            decode_image(image, images[row], self._orders[source])
        return images, labels + self.sources.label_offsets[sources], sources

    def _load_around_bad(self, examples: list, sources: np.ndarray, records: list) -> Batch:
        # The whole batch is decoded, because a replacement must not depend on the rows.
        self._remove_undecodable(examples, sources, records)
        is_bad = np.array([example is None for example in examples])
        bad = [records[place] for place in np.flatnonzero(is_bad)]
        if is_bad.all():
            raise ValueError(
                f"{self.reasons[bad[0]]}; expected a good image in a batch of {len(is_bad)}, received none"
            )
        identities = [
            self.sources.place_of(record).identity
            if example is None
            else decode_example(example)[1] + int(self.sources.label_offsets[source])
            for example, source, record in zip(examples, sources, records, strict=True)
        ]
        places = replacements(np.array(identities), is_bad)[self.rows]
        loaded = np.array([-1 if number is None else number for number in records])[places]
        return *self._decode([examples[place] for place in places], sources[places]), loaded, bad

    def _read(self, records):
        examples: list[bytes | None] = [None] * len(records)
        sources = np.empty(len(records), np.int64)
        for i, record in enumerate(records.tolist()):
            sources[i] = self.sources.source_of(record)
            try:
                (examples[i],), _ = self.sources.read(records[i : i + 1])
            except ValueError as error:
                self.sources.check_shard(record)
                self._add(record, str(error))
        return examples, sources

    def _remove_undecodable(self, examples, sources, records):
        """Sets examples whose images cannot be decoded to `None`, and finds their record numbers."""
        out = np.empty((*self.sources.image_size, 3), np.uint8)
        for place, (example, source) in enumerate(zip(examples, sources.tolist(), strict=True)):
            if example is None:
                continue
            try:
                decode_image(decode_example(example)[0], out, "RGB")
            except ValueError as error:
                if records[place] is None:
                    records[place] = self.sources.find(example, source)
                if records[place] is None:
                    folder = self.sources.manifests[source].folder
                    raise ValueError(f"{folder}: bad record that is not in the index: {error}") from None
                self._add(records[place], str(error))
                examples[place] = None

    def _add(self, record, reason):
        place = self.sources.place_of(record)
        reason = reason.removeprefix(f"{place.shard}: record at byte {place.offset}: ")
        self.reasons[record] = f"{place}: {reason}"


def _aligned(shape):
    """Returns an empty uint8 array that TensorFlow does not copy. A copy would block all Python threads."""
    size = math.prod(shape)
    buffer = np.empty(size + _ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % _ALIGNMENT
    return buffer[start : start + size].reshape(shape)


def replacements(identities: np.ndarray, is_bad: np.ndarray) -> np.ndarray:
    """Chooses the image for each position of a batch, and replaces bad images with good ones.

    Args:
        identities: int `(batch,)`.
        is_bad: bool `(batch,)`, at least one is false.

    Returns:
        int64 `(batch,)`, the position of the chosen image. A good image keeps its own position. A bad one is
        replaced by the next good image of its identity, or else by the next good image. The search wraps
        around at the end of the batch.

    Example:

    >>> replacements(np.array([7, 7, 8, 8]), np.array([True, False, True, True])).tolist()
    [1, 1, 1, 1]
    """
    size = len(identities)
    chosen = np.arange(size)
    for place in np.flatnonzero(is_bad):
        after = (place + 1 + np.arange(size)) % size
        good = after[~is_bad[after]]
        same = good[identities[good] == identities[place]]
        chosen[place] = (same if len(same) else good)[0]
    return chosen
