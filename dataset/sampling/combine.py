"""Several converted sources as one set: records and identities numbered through."""

import dataclasses
import functools
from pathlib import Path

import numpy as np

from dataset.records.manifest import RECORD_DTYPE
from dataset.records.tfrecord import TFRecordFile


@dataclasses.dataclass(frozen=True)
class RecordPlace:
    """One record of a converted source, as a person can find it again.

    Attributes:
        source: str, name of the source.
        record: int, row of the source's index.
        label: int, its identity within the source.
        identity: int, its identity in the run, where sources are numbered through.
        shard: Path of the TFRecord file.
        offset: int, bytes from the start of the shard to the record.
        length: int, bytes of its data.
    """

    source: str
    record: int
    label: int
    identity: int
    shard: Path
    offset: int
    length: int

    def __str__(self):
        which = f"record {self.record} of {self.source}, label {self.label}"
        return f"{self.shard}: record at byte {self.offset} ({which})"


# Open files; there can be more shards than a process may open.
_MAX_OPEN_SHARDS = 256


class CombinedSources:
    """Records of several sources by one number, their labels offset by the identities before.

    References:
    - margin-centre-face, `dataset/sampling/combine.py`: labels of set `k` are offset by the number of
      identities of the sets before it.

    Args:
        manifests: sequence of `dataset.records.manifest.Manifest`, at least one; all images of one size.

    Raises:
        ValueError: no source, or images of different sizes.
    """

    def __init__(self, manifests):
        if not manifests:
            raise ValueError("expected at least one source, received none")
        first = manifests[0]
        for manifest in manifests:
            if manifest.image_size != first.image_size:
                raise ValueError(
                    f"{manifest.folder}: expected images of {first.image_size} as in {first.folder}, "
                    f"received {manifest.image_size}"
                )
        self.manifests = list(manifests)
        self.image_size = first.image_size
        self.sizes = [manifest.num_images for manifest in manifests]
        self.num_images = sum(self.sizes)
        self.num_identities = sum(manifest.num_identities for manifest in manifests)
        self.label_offsets = np.cumsum([0] + [manifest.num_identities for manifest in manifests])[:-1]
        self.shards = [manifest.folder / shard.name for manifest in manifests for shard in manifest.shards]

        self._indices = [_checked_index(manifest) for manifest in manifests]
        self._first_record = np.cumsum([0, *self.sizes])
        shard_sizes = [shard.num_images for manifest in manifests for shard in manifest.shards]
        self._shard_bytes = [shard.num_bytes for manifest in manifests for shard in manifest.shards]
        self._first_of_shard = np.cumsum([0, *shard_sizes])
        paths = self.shards  # not `self`, which would keep the files open until garbage is collected
        self._open = functools.lru_cache(_MAX_OPEN_SHARDS)(lambda shard: TFRecordFile(paths[shard]))

    @property
    def labels(self):
        """Labels of every source's records, not offset: uint32 arrays, read anew each time."""
        return [_labels(manifest) for manifest in self.manifests]

    def read(self, records):
        """Fetches records by number; every one is checked against its checksums.

        Args:
            records: int array of record numbers, shape `(n,)`.

        Returns:
            `(examples, sources)`: iterator of `n` serialised `tf.train.Example`, each read when it is asked
            for; int64 array of the source of each, by number.

        Raises:
            ValueError: on the way, a record is damaged; names shard and offset.
        """
        sources = np.searchsorted(self._first_record, records, side="right") - 1
        shards = np.searchsorted(self._first_of_shard, records, side="right") - 1
        # All of a source at once: one entry of the index takes as long to pick out as a record to read.
        entries = np.empty(len(records), RECORD_DTYPE)
        for source in np.unique(sources):
            chosen = sources == source
            entries[chosen] = self._indices[source][records[chosen] - self._first_record[source]]
        places = zip(shards.tolist(), entries["offset"].tolist(), entries["length"].tolist(), strict=True)
        return (self._open(shard).read(offset, length) for shard, offset, length in places), sources

    def identities_of(self, records):
        """Labels by the index, offset as in a batch.

        Args:
            records: int array of record numbers, shape `(n,)`.

        Returns:
            int64 array `(n,)`.
        """
        sources = np.searchsorted(self._first_record, records, side="right") - 1
        return np.array(
            [
                int(self._indices[source][record - self._first_record[source]]["label"])
                + int(self.label_offsets[source])
                for record, source in zip(records, sources, strict=True)
            ],
            np.int64,
        )

    def place_of(self, record):
        """Where a record lies.

        Args:
            record: int, its number.

        Returns:
            A `RecordPlace`.
        """
        source = self.source_of(record)
        shard = int(np.searchsorted(self._first_of_shard, record, side="right")) - 1
        within = int(record - self._first_record[source])
        entry = self._indices[source][within]
        return RecordPlace(
            source=self.manifests[source].source,
            record=within,
            label=int(entry["label"]),
            identity=int(entry["label"]) + int(self.label_offsets[source]),
            shard=self.shards[shard],
            offset=int(entry["offset"]),
            length=int(entry["length"]),
        )

    def source_of(self, record):
        """The number of the source of a record, int."""
        return int(np.searchsorted(self._first_record, record, side="right")) - 1

    def check_shard(self, record):
        """Tells a damaged record from a lost shard.

        Args:
            record: int, number of a record in the shard.

        Raises:
            ValueError: the shard has not the size that it was written with, or is not there at all.
        """
        shard = int(np.searchsorted(self._first_of_shard, record, side="right")) - 1
        path, expected = self.shards[shard], self._shard_bytes[shard]
        received = f"{path.stat().st_size} bytes" if path.is_file() else "no such file"
        if received != f"{expected} bytes":
            raise ValueError(f"{path}: expected a shard of {expected} bytes, received {received}")

    def find(self, example, source):
        """The number of a record by its content, for whoever reads shards in sequence.

        Args:
            example: bytes, a serialised `tf.train.Example`.
            source: int, number of its source.

        Returns:
            int, the first record of that content; `None` if there is none.
        """
        index = self._indices[source]
        for within in np.flatnonzero(index["length"] == len(example)):
            record = int(within + self._first_record[source])
            try:
                (found,), _ = self.read(np.array([record]))
            except ValueError:  # a damaged one is not the one that was read
                continue
            if found == example:
                return record
        return None

    def shards_of(self, source):
        """Paths of one source's shards, for reading in sequence: list of str."""
        manifest = self.manifests[source]
        return [str(manifest.folder / shard.name) for shard in manifest.shards]


def _labels(manifest):
    labels = np.empty(manifest.num_images, np.uint32)
    start = 0
    for rows in manifest.index_chunks():
        labels[start : start + len(rows)] = rows["label"]
        start += len(rows)
    return labels


def _checked_index(manifest):
    start = 0
    for rows in manifest.index_chunks():
        wrong = np.flatnonzero(rows["label"] >= manifest.num_identities)
        if len(wrong):
            record = start + int(wrong[0])
            raise ValueError(
                f"{manifest.folder}: record {record}: expected a label in [0, {manifest.num_identities}), "
                f"received {rows['label'][wrong[0]]}"
            )
        start += len(rows)
    return manifest.open_index()
