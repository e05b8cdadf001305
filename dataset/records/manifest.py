"""Reads and writes the manifest of a converted source, which describes the files in its folder.

If a TFRecord file was cut at a record boundary, TensorFlow reads it without an error. So the manifest
contains the numbers of images and bytes. It is written last: a folder without a manifest is not a finished
conversion.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from common.files import file_sha256, write_json
from common.npy import read_header
from common.typed_json import from_json, read_json

VERSION = 1
MANIFEST_NAME = "manifest.json"
INDEX_NAME = "index.npy"
# `offset` and `length` are arguments of `TFRecordFile.read`.
RECORD_DTYPE = np.dtype([("offset", "<u8"), ("length", "<u4"), ("label", "<u4")])
_INDEX_CHUNK = 1 << 18  # rows, 4 MB
_LONGEST_NAME = 100  # characters; our shards' names have fewer than 40


@dataclasses.dataclass(frozen=True)
class Shard:
    """One TFRecord file of a conversion."""

    name: str
    num_images: int
    num_bytes: int
    sha256: str

    def __post_init__(self):
        if not self.name or len(self.name) > _LONGEST_NAME or Path(self.name).name != self.name:
            raise ValueError(f"name: expected the name of a file, received {self.name[:80]!r}")


@dataclasses.dataclass(frozen=True)
class Manifest:
    """A converted source.

    The index has one row per image, shard after shard. The shard of record `r` is
    `numpy.searchsorted(numpy.cumsum([s.num_images for s in shards]), r, side="right")`.

    Args:
        folder: folder of the shards. It is not stored in the file, so you can move the folder.
        source: name of the source.
        num_identities: labels are in `[0, num_identities)`.
        num_images: number of images in all shards.
        image_size: `(height, width)` of every image.
        colour: description of the stored images.
        seed: seed of the order of the images.
        verify: how the images were checked, `"full"` or `"header"`.
        fingerprint: fingerprint of the source, see `dataset.sources`.
        num_bad: number of images that were left out.
        num_label_mismatches: number of images whose record contains another label than their identity.
        index_sha256: SHA-256 of the index in hexadecimal digits.
        shards: the shards, in order.
        version: version of the format. Defaults to `VERSION`.
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
    def num_bytes(self) -> int:
        """Size of all shards in bytes."""
        return sum(shard.num_bytes for shard in self.shards)

    def __post_init__(self) -> None:
        counts = [value for shard in self.shards for value in (shard.num_images, shard.num_bytes)]
        counts += [self.num_identities, self.num_images, self.num_bad, self.num_label_mismatches]
        if min(*counts, *self.image_size) < 0:
            raise ValueError("expected counts and sizes of at least 0, received a negative one")
        for shard in self.shards:
            if Path(shard.name).name != shard.name:
                raise ValueError(f"expected shards in this folder, received {shard.name[:80]!r}")

    def open_index(self) -> np.memmap:
        """Maps the index into memory, read-only.

        Returns:
            `(num_images,)` of `RECORD_DTYPE`.

        Raises:
            ValueError: the index cannot be read, is damaged, or has another number of rows.
        """
        path = self.folder / INDEX_NAME
        try:
            with path.open("rb") as file:
                descr, shape = read_header(file)
                offset = file.tell()
        except OSError as error:
            raise ValueError(f"{path}: expected an index, received: {error.strerror}") from None
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        if descr != RECORD_DTYPE.descr or shape != (self.num_images,):
            raise ValueError(
                f"{path}: expected {self.num_images} rows of {RECORD_DTYPE}, "
                f"received shape {shape} of {str(descr)[:200]}"
            )
        check_size(path, offset + self.num_images * RECORD_DTYPE.itemsize)
        return np.memmap(path, RECORD_DTYPE, "r", offset, (self.num_images,))

    def index_chunks(self) -> Iterator[np.ndarray]:
        """Yields the index in arrays of `RECORD_DTYPE`, without keeping it in memory.

        A memory map would count as memory of the process: 670 MB for 42 million images.
        """
        first_byte = self.open_index().offset
        with (self.folder / INDEX_NAME).open("rb") as file:
            file.seek(first_byte)
            for start in range(0, self.num_images, _INDEX_CHUNK):
                yield np.fromfile(file, RECORD_DTYPE, min(_INDEX_CHUNK, self.num_images - start))

    def write(self) -> None:
        """Writes `manifest.json` into the folder."""
        values = dataclasses.asdict(self)
        del values["folder"]
        write_json(self.folder / MANIFEST_NAME, values)


def read_manifest(folder: Path) -> Manifest:
    """Reads a manifest, and checks the sizes of the files but not their content.

    Raises:
        FileNotFoundError: the folder has no manifest.
        ValueError: the manifest is damaged, has another format version, or does not match the files.
    """
    folder = Path(folder)
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file. Convert the source with python -m dataset.convert.")
    try:
        values = read_json(path)
        version = values["version"]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: expected a manifest, received {type(error).__name__}: {error}") from None
    if version != VERSION:
        raise ValueError(f"{path}: expected format version {VERSION}, received {str(version)[:80]}")
    manifest = from_json(Manifest, {**values, "folder": folder}, path)
    counted = sum(shard.num_images for shard in manifest.shards)
    if counted != manifest.num_images:
        raise ValueError(f"{path}: expected {manifest.num_images} images in all shards, received {counted}")
    for shard in manifest.shards:
        check_size(folder / shard.name, shard.num_bytes)
    manifest.open_index()
    return manifest


def verify_checksums(
    manifest: Manifest, progress: Callable[[list[tuple[str, str]]], Iterable[tuple[str, str]]] = iter
) -> None:
    """Reads every file of a conversion and compares its SHA-256 with the manifest.

    Args:
        manifest: the conversion.
        progress: function that wraps the list of files in an iterable that shows progress, such as `tqdm`.
            Defaults to `iter`.

    Raises:
        ValueError: a file has changed.
    """
    files = [(shard.name, shard.sha256) for shard in manifest.shards]
    for name, expected in progress([*files, (INDEX_NAME, manifest.index_sha256)]):
        received = file_sha256(manifest.folder / name)
        if received != expected:
            raise ValueError(f"{manifest.folder / name}: expected SHA-256 {expected}, received {received}")


def check_size(path: Path, num_bytes: int) -> None:
    """Raises `ValueError` if a file is missing or does not have the expected size."""
    received = f"{path.stat().st_size} bytes" if path.is_file() else "no such file"
    if received != f"{num_bytes} bytes":
        raise ValueError(f"{path}: expected {num_bytes} bytes, received {received}")
