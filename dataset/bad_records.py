"""Records that cannot be used, and what a batch holds in their place."""

import numpy as np
import tensorflow as tf

from dataset.preprocess import decode
from dataset.tfrecord import decode_example


class BadRecords:
    """Reads the records of batches, and puts others in the place of those that cannot be used.

    A record is bad when its bytes do not fit its checksum, or when `inspect` has found that its image
    cannot be decoded. Which record takes its place depends on the records of the batch alone: the
    next good one of the same identity, or the next good one if there is none. So batch `k` stays
    a pure function of the data, the seed and `k`, keeps its size, and a P x K batch its groups.

    Row 27 of docs/fidelity.md.

    Args:
        sources: `dataset.combine.CombinedSources`.

    Attributes:
        reasons: dict from the number of every bad record met so far to a line that names and explains it.
    """

    def __init__(self, sources):
        self.sources = sources
        self.reasons = {}
        self._contents = {}  # of undecodable ones, for shards that are read in sequence

    def read(self, records):
        """Reads a batch.

        Args:
            records: int64 array of record numbers, shape `(n,)`.

        Returns:
            `(examples, sources, bad)`: as `CombinedSources.read` gives them, each bad one
            replaced, and the list of the bad ones' numbers.

        Raises:
            ValueError: a whole shard is damaged, or no record of the batch can be used.
            OSError: a shard cannot be read.
        """
        if self.reasons.keys().isdisjoint(records.tolist()):
            try:
                return *self.sources.read(records), []
            except ValueError:
                pass  # which ones are bad is found below
        examples = np.empty(len(records), object)
        sources = np.empty(len(records), np.int64)
        is_bad = np.zeros(len(records), bool)
        for i, record in enumerate(records.tolist()):
            is_bad[i] = record in self.reasons
            if not is_bad[i]:
                try:
                    examples[i : i + 1], sources[i : i + 1] = self.sources.read(records[i : i + 1])
                except ValueError as error:
                    self.sources.check_shard(record)
                    self._add(record, str(error))
                    is_bad[i] = True
        bad = records[is_bad].tolist()
        if bad:
            chosen = self._replacements(self.sources.identities_of(records), is_bad, bad)
            examples, sources = examples[chosen], sources[chosen]
        return examples, sources, bad

    def replace(self, examples, sources):
        """The same for a batch that was read in sequence, as far as `inspect` knows its bad records.

        Args:
            examples: object array of bytes, shape `(n,)`.
            sources: int64 array `(n,)`, numbers of their sources.

        Returns:
            As `read`.

        Raises:
            ValueError: no record of the batch can be used.
        """
        bad = [self._contents[example] for example in examples if example in self._contents]
        if bad:
            is_bad = np.array([example in self._contents for example in examples])
            identities = [
                self.sources.identities_of([self._contents[example]])[0]
                if example in self._contents
                else decode_example(example)[1] + self.sources.label_offsets[source]
                for example, source in zip(examples, sources, strict=True)
            ]
            chosen = self._replacements(np.array(identities), is_bad, bad)
            examples, sources = examples[chosen], sources[chosen]
        return examples, sources, bad

    def inspect(self, examples, records):
        """Decodes the images of a batch one by one, to find those that cannot be.

        Args:
            examples: sequence of bytes, serialised `tf.train.Example`.
            records: sequence of int, their numbers; `None` for one that has none is left out.

        Returns:
            bool, whether there are bad ones that were not known before.
        """
        found = False
        for example, record in zip(examples, records, strict=True):
            is_known = record is None or record in self.reasons
            reason = None if is_known else self._reason(example)
            if reason:
                self._add(record, f"{self.sources.place_of(record).shard}: {reason}")
                self._contents[example] = record
                found = True
        return found

    def _add(self, record, reason):
        place = self.sources.place_of(record)
        reason = reason.removeprefix(f"{place.shard}: ").removeprefix(f"record at byte {place.offset}: ")
        self.reasons[record] = f"{place}: {reason}"

    def _reason(self, example):
        try:
            image, _ = decode_example(example)
            size = tuple(decode(tf.constant(image)).shape[:2])
        except ValueError as error:
            return str(error)
        except tf.errors.OpError as error:
            return f"expected an image, received one that cannot be decoded: {error.message.splitlines()[0]}"
        if size != self.sources.image_size:
            return "expected an image of {}x{}, received {}x{}".format(*self.sources.image_size, *size)
        return None

    def _replacements(self, identities, is_bad, bad):
        if is_bad.all():
            raise ValueError(
                f"{self.reasons[bad[0]]}; expected a batch of {len(is_bad)} with an image that can be used, "
                "received none"
            )
        return replacements(identities, is_bad)


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
