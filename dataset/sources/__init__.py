"""Reads training images to convert.

To add a kind of source, add a module here and a line in `SOURCE_MODULES`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np

    from dataset.config import SourceConfig

# Maps a key in a section of config.ini to a module of this package. The module has two functions:
# `open_source(config, reader)` returns a `Source`, and `fingerprint(config)` quickly returns a string that
# changes when the source changes.
SOURCE_MODULES = {
    "mxrec": "insightface_rec",
    "train_list": "image_list",
    "tfrecord": "tfrecords",
    "folder": "image_folder",
}
UNLABELLED = ("folder",)  # keys of sources without identities


class Source(Protocol):
    """Encoded images with their identities. A source can be pickled for worker processes."""

    @property
    def num_images(self) -> int:
        """Number of images."""
        ...

    @property
    def num_identities(self) -> int:
        """Number of identities."""
        ...

    @property
    def labels(self) -> np.ndarray:
        """Identity of every image: int64 `(num_images,)`, in `[0, num_identities)`."""
        ...

    @property
    def image_size(self) -> tuple[int, int] | None:
        """`(height, width)`, or `None` if it is unknown until an image is read."""
        ...

    @property
    def num_bytes(self) -> int:
        """Upper bound of the size of all images in bytes."""
        ...

    def read(self, index: int) -> tuple[bytes, float | None]:
        """Returns `(image, own_label)`: the encoded image, and the label stored with it or `None`.

        Raises:
            ValueError: the image cannot be read.
        """
        ...

    def describe(self, index: int) -> str:
        """Returns the place of an image, such as a file and record, for reports."""
        ...


def open_source(config: SourceConfig, reader: str = "own") -> Source:
    """Opens the source of a section of config.ini.

    Args:
        config: the section.
        reader: reader of `.rec` files, a key of `dataset.sources.insightface_rec.READERS`. Defaults to
            `"own"`.

    Raises:
        FileNotFoundError: the source does not exist.
        ValueError: the source is malformed.
    """
    return _module(config).open_source(config, reader)


def source_fingerprint(config: SourceConfig) -> str:
    """Returns the fingerprint of a source without opening it. This may take seconds."""
    return _module(config).fingerprint(config)


def _module(config):
    return importlib.import_module(f"{__name__}.{SOURCE_MODULES[config.kind]}")
