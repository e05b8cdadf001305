"""Combines converted sources into one set, in which records and identities are numbered consecutively."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from dataset.records.manifest import RECORD_DTYPE, Manifest, check_size
from dataset.records.tfrecord import TFRecordFile


@dataclasses.dataclass(frozen=True)
class RecordPlace:
    """Place of one record of a converted source, for reports.

    Args:
        source: name of the source.
        record: row in the index of the source.
        label: identity within the source.
        identity: identity in the combined set.
        shard: the TFRecord file.
        offset: position of the record in the shard in bytes.
    """

    source: str
    record: int
    label: int
    identity: int
    shard: Path
    offset: int

    def __str__(self) -> str:
        which = f"record {self.record} of {self.source}, label {self.label}"
        return f"{self.shard}: record at byte {self.offset} ({which})"


# There can be more shards than files that a process may open.
_MAX_OPEN_SHARDS = 256


class CombinedSources:
    """Records of several sources, numbered consecutively.

    The labels of a source are shifted by the number of identities in the sources before it.

    References:
    - margin-centre-face, `dataset/combine.py`

    Args:
        manifests: one manifest per source, at least one.

    Raises:
        ValueError: images of the sources differ in size, or an index is damaged.
    """

    def __init__(self, manifests: Sequence[Manifest]) -> None:
        first = manifests[0]
        for manifest in manifests:
            if manifest.image_size != first.image_size:
                raise ValueError(
                    "{}: expected images of {}x{} as in {}, received {}x{}".format(
                        manifest.folder, *first.image_size, first.folder, *manifest.image_size
                    )
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
        paths = self.shards  # With `self` instead, files would stay open until garbage collection.
        self._open = functools.lru_cache(_MAX_OPEN_SHARDS)(lambda shard: TFRecordFile(paths[shard]))

    @property
    def labels(self) -> list[np.ndarray]:
        """Labels of each source's records, not shifted: uint32 `(num_images,)`. Every access reads them."""
        return [_labels(manifest) for manifest in self.manifests]

    def read(self, records: np.ndarray) -> tuple[Iterator[bytes], np.ndarray]:
        """Reads records and verifies their checksums.

        Args:
            records: int `(n,)`, numbers of records.

        Returns:
            `(examples, sources)`. Examples is an iterator that reads one serialised `tf.train.Example` at a
            time. It raises `ValueError` with shard and offset if a record is damaged. Sources is the number
            of each record's source, int64 `(n,)`.
        """
        sources = np.searchsorted(self._first_record, records, side="right") - 1
        shards = np.searchsorted(self._first_of_shard, records, side="right") - 1
        # Looking up single entries of the index would take as long as reading the records.
        entries = np.empty(len(records), RECORD_DTYPE)
        for source in np.unique(sources):
            chosen = sources == source
            entries[chosen] = self._indices[source][records[chosen] - self._first_record[source]]
        places = zip(shards.tolist(), entries["offset"].tolist(), entries["length"].tolist(), strict=True)
        return (self._open(shard).read(offset, length) for shard, offset, length in places), sources

    def rows_of(self, arrays: Sequence[np.ndarray], records: np.ndarray) -> np.ndarray:
        """Returns the rows of records in arrays with one row per record.

        Args:
            arrays: float32 `(num_images, dim)`, one array for each source.
            records: int `(n,)`, numbers of records.

        Returns:
            float32 `(n, dim)`.
        """
        sources = np.searchsorted(self._first_record, records, side="right") - 1
        rows = np.empty((len(records), arrays[0].shape[1]), np.float32)
        for source in np.unique(sources):
            chosen = sources == source
            rows[chosen] = arrays[source][records[chosen] - self._first_record[source]]
        return rows

    def place_of(self, record: int) -> RecordPlace:
        """Returns the place of a record."""
        source = self.source_of(record)
        within = int(record - self._first_record[source])
        entry = self._indices[source][within]
        return RecordPlace(
            source=self.manifests[source].source,
            record=within,
            label=int(entry["label"]),
            identity=int(entry["label"]) + int(self.label_offsets[source]),
            shard=self.shards[self._shard_of(record)],
            offset=int(entry["offset"]),
        )

    def source_of(self, record: int) -> int:
        """Returns the number of a record's source."""
        return int(np.searchsorted(self._first_record, record, side="right")) - 1

    def check_shard(self, record: int) -> None:
        """Raises `ValueError` if the shard of a record is missing or has changed its size."""
        shard = self._shard_of(record)
        check_size(self.shards[shard], self._shard_bytes[shard])

    def _shard_of(self, record):
        return int(np.searchsorted(self._first_of_shard, record, side="right")) - 1

    def find(self, example: bytes, source: int) -> int | None:
        """Returns the number of the first record of a source whose data is `example`, or `None`."""
        index = self._indices[source]
        for within in np.flatnonzero(index["length"] == len(example)):
            record = int(within + self._first_record[source])
            try:
                (found,), _ = self.read(np.array([record]))
            except ValueError:  # A damaged record cannot be the one that was read before.
                continue
            if found == example:
                return record
        return None

    def shards_of(self, source: int) -> list[str]:
        """Returns the paths of one source's shards."""
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
