"""Several converted sources as one set: records and identities numbered through."""

import functools

import numpy as np

from dataset.tfrecord import TFRecordFile

# Open files; there can be more shards than a process may open.
_MAX_OPEN_SHARDS = 256


class CombinedSources:
    """Records of several sources by one number, their labels offset by the identities before.

    References:
    - margin-centre-face, `dataset/combine.py`: labels of set `k` are offset by the number of
      identities of the sets before it.

    Args:
        manifests: sequence of `dataset.manifest.Manifest`, at least one; all images of one size.

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
        self._first_of_shard = np.cumsum([0, *shard_sizes])
        self._open = functools.lru_cache(_MAX_OPEN_SHARDS)(TFRecordFile)

    @property
    def labels(self):
        """Labels of every source's records, not offset: uint32 arrays, memory-mapped."""
        return [index["label"] for index in self._indices]

    def read(self, records):
        """Fetches records by number; every one is checked against its checksums.

        Args:
            records: int array of record numbers, shape `(n,)`.

        Returns:
            `(examples, sources)`: object array of serialised `tf.train.Example`, and int64 array of
            the source of each, by number; both of shape `(n,)`.

        Raises:
            ValueError: a record is damaged; names shard and offset.
        """
        sources = np.searchsorted(self._first_record, records, side="right") - 1
        shards = np.searchsorted(self._first_of_shard, records, side="right") - 1
        examples = np.empty(len(records), object)
        for i, (record, source, shard) in enumerate(zip(records, sources, shards, strict=True)):
            entry = self._indices[source][record - self._first_record[source]]
            examples[i] = self._open(self.shards[shard]).read(int(entry["offset"]), int(entry["length"]))
        return examples, sources

    def shards_of(self, source):
        """Paths of one source's shards, for reading in sequence: list of str."""
        manifest = self.manifests[source]
        return [str(manifest.folder / shard.name) for shard in manifest.shards]


def _checked_index(manifest):
    index = manifest.open_index()
    largest = int(index["label"].max())
    if largest >= manifest.num_identities:
        record = int(index["label"].argmax())
        raise ValueError(
            f"{manifest.folder}: record {record}: expected a label in [0, {manifest.num_identities}), "
            f"received {largest}"
        )
    return index
