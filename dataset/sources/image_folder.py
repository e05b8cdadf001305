"""Reads training images without labels: all images below a folder."""

import functools
import hashlib
import os
from pathlib import Path

import numpy as np

from dataset.config import SourceConfig
from dataset.images import SUFFIXES
from dataset.pairs.image_folders import walk_files
from dataset.sources.image_list import read_image


class ImageFolder:
    """All images below a folder, in natural order. They all get the label 0. See `Source`.

    Args:
        folder: the folder. Its subfolders are included. Hidden files and folders are ignored.

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: raised on first use if the folder contains no image.
    """

    image_size: tuple[int, int] | None = None
    num_identities = 1

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise FileNotFoundError(f"{self.folder}: no such folder")

    @property
    def num_images(self) -> int:
        """Number of images."""
        return len(self._names[1]) - 1

    @property
    def labels(self) -> np.ndarray:
        """Zeros: int64 `(num_images,)`."""
        return np.zeros(self.num_images, np.int64)

    @functools.cached_property
    def num_bytes(self) -> int:
        """Size of all images in bytes."""
        return sum(self._path(index).stat().st_size for index in range(self.num_images))

    def read(self, index: int) -> tuple[bytes, None]:
        """Returns `(image, None)`, as in `Source`."""
        return read_image(self._path(index)), None

    def describe(self, index: int) -> str:
        """Returns the path of an image."""
        return str(self._path(index))

    @property
    def digest(self) -> str:
        """SHA-256 of the names of all images."""
        return hashlib.sha256(b"".join(array.tobytes() for array in self._names)).hexdigest()

    # They are arrays because the workers of a conversion share the memory of arrays.
    @functools.cached_property
    def _names(self):
        """All names in one array of bytes, and the offsets where each begins and ends."""
        files = walk_files(self.folder)
        names = [os.fsencode(name) for name in files if name.lower().endswith(SUFFIXES)]
        if not names:
            raise ValueError(f"{self.folder}: expected images ({', '.join(SUFFIXES)}), received none")
        return np.frombuffer(b"".join(names), np.uint8), np.cumsum([0, *map(len, names)])

    def _path(self, index):
        names, ends = self._names
        return self.folder / os.fsdecode(names[ends[index] : ends[index + 1]].tobytes())


def open_source(config: SourceConfig, reader: str) -> ImageFolder:
    """Opens the source of a section, see `SOURCE_MODULES`."""
    return ImageFolder(config.path)


def fingerprint(config: SourceConfig) -> str:
    """Returns the fingerprint of a source, see `SOURCE_MODULES`. It does not change when an image does."""
    return f"folder {config.path}, names sha256 {ImageFolder(config.path).digest}"
