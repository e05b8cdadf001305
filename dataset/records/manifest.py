"""The manifest of a converted source: what its folder must hold, and where each record lies.

A TFRecord file that was cut at a record boundary reads as a shorter one without an error. So the
manifest counts images and bytes, and is written last: a folder without one is not a conversion.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np

from common.files import file_sha256, write_json

VERSION = 1
MANIFEST_NAME = "manifest.json"
INDEX_NAME = "index.npy"
# `offset`: bytes from the start of the shard to the record; `length`: of its data. As `TFRecordFile.read`.
RECORD_DTYPE = np.dtype([("offset", "<u8"), ("length", "<u4"), ("label", "<u4")])
_INDEX_CHUNK = 1 << 18  # rows, 4 MB


@dataclasses.dataclass(frozen=True)
class Shard:
    """One TFRecord file of a conversion."""

    name: str
    num_images: int
    num_bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Manifest:
    """A converted source.

    The index has one row per image, shard after shard: the shard of record `r` is
    `numpy.searchsorted(numpy.cumsum([s.num_images for s in shards]), r, side="right")`.

    Args:
        folder: Path, where the shards are; not written, so that a folder can be moved.
        source: str, name of the source.
        num_identities: int > 0; labels are in `[0, num_identities)`.
        num_images: int > 0.
        image_size: `(height, width)` of every image.
        colour: str, what the bytes of an image are, in words.
        seed: int, of the order of the images.
        verify: `"full"` or `"header"`: how the images were checked.
        fingerprint: str, of the source that was converted.
        num_bad: int, images left out.
        num_label_mismatches: int, images whose own label is not that of their identity.
        index_sha256: str.
        shards: tuple of `Shard`.
        version: int, of the format. Defaults to the one that this module reads.
    """

    folder: Path
    source: str
    num_identities: int
    num_images: int
    image_size: tuple[int, int]
    colour: str
    seed: int
    verify: str
    fingerprint: str
    num_bad: int
    num_label_mismatches: int
    index_sha256: str
    shards: tuple[Shard, ...]
    version: int = VERSION

    @property
    def num_bytes(self):
        """Bytes of all shards."""
        return sum(shard.num_bytes for shard in self.shards)

    def open_index(self):
        """The memory-mapped index.

        Returns:
            `numpy.memmap` of `RECORD_DTYPE`, shape `(num_images,)`, read-only.
        """
        return np.load(self.folder / INDEX_NAME, mmap_mode="r")

    def index_chunks(self):
        """Reads the index from its first row to its last, without holding it in memory.

        A map of it would count as memory of the process from then on: 670 MB for 42 million images.

        Yields:
            Arrays of `RECORD_DTYPE`, in their order.
        """
        first_byte = self.open_index().offset
        with (self.folder / INDEX_NAME).open("rb") as file:
            file.seek(first_byte)
            for start in range(0, self.num_images, _INDEX_CHUNK):
                yield np.fromfile(file, RECORD_DTYPE, min(_INDEX_CHUNK, self.num_images - start))

    def write(self):
        """Writes `manifest.json` into the folder: whole or not at all."""
        values = dataclasses.asdict(self)
        del values["folder"]
        write_json(self.folder / MANIFEST_NAME, values)


def read_manifest(folder):
    """Reads a manifest and checks that the files are there in full size; it reads no records.

    Args:
        folder: str or Path.

    Returns:
        A `Manifest`.

    Raises:
        FileNotFoundError: no manifest in the folder.
        ValueError: a manifest of another format version, or one that does not fit the files.
    """
    folder = Path(folder)
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; expected a converted source (python -m dataset.convert)"
        )
    try:
        values = json.loads(path.read_bytes())
        version = values["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: expected a manifest, received {type(error).__name__}: {error}") from None
    if version != VERSION:
        raise ValueError(f"{path}: expected format version {VERSION}, received {version}")
    try:
        values["image_size"] = tuple(values["image_size"])
        values["shards"] = tuple(Shard(**shard) for shard in values["shards"])
        manifest = Manifest(folder=folder, **values)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: expected the fields of format version {VERSION}: {error}") from None
    _check(manifest, path)
    return manifest


def verify_checksums(manifest, progress=iter):
    """Reads every file of a conversion and compares its SHA-256.

    Args:
        manifest: a `Manifest`.
        progress: called with the list of files, returns them one by one, for instance `tqdm`.

    Raises:
        ValueError: a file that is not what was written.
    """
    files = [(shard.name, shard.sha256) for shard in manifest.shards]
    for name, expected in progress([*files, (INDEX_NAME, manifest.index_sha256)]):
        received = file_sha256(manifest.folder / name)
        if received != expected:
            raise ValueError(f"{manifest.folder / name}: expected SHA-256 {expected}, received {received}")


def _check(manifest, path):
    counted = sum(shard.num_images for shard in manifest.shards)
    if counted != manifest.num_images:
        raise ValueError(f"{path}: expected {manifest.num_images} images in all shards, received {counted}")
    for shard in manifest.shards:
        file = manifest.folder / shard.name
        received = f"{file.stat().st_size} bytes" if file.is_file() else "no such file"
        if received != f"{shard.num_bytes} bytes":
            raise ValueError(f"{file}: expected {shard.num_bytes} bytes, received {received}")
    index_path = manifest.folder / INDEX_NAME
    try:
        index = manifest.open_index()
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(f"{index_path}: expected an index, received: {error}") from None
    if index.dtype != RECORD_DTYPE or index.shape != (manifest.num_images,):
        raise ValueError(
            f"{index_path}: expected {manifest.num_images} rows of {RECORD_DTYPE}, "
            f"received shape {index.shape} of {index.dtype}"
        )
