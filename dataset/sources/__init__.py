"""Training images that can be converted. A new kind is one module here and one line in `SOURCE_MODULES`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np

    from dataset.config import SourceConfig

# Key of a section in config.ini -> module of this package. The module has two functions:
# `open_source(config, reader)` returns a `Source`, and `fingerprint(config)` quickly returns a text that
# changes when the source does.
SOURCE_MODULES = {
    "mxrec": "insightface_rec",
    "train_list": "image_list",
    "tfrecord": "tfrecords",
    "folder": "image_folder",
}
UNLABELLED = ("folder",)  # keys of sources that do not say who is on an image


class Source(Protocol):
    """Encoded images with their identities. It can be pickled for worker processes."""

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
        """`(height, width)`, or `None` where only the images tell."""
        ...

    @property
    def num_bytes(self) -> int:
        """Upper bound of the size of all images."""
        ...

    def read(self, index: int) -> tuple[bytes, float | None]:
        """Returns `(image, own_label)`: the encoded image and a label stored with it, or `None`.

        Raises:
            ValueError: the image cannot be read.
        """
        ...

    def describe(self, index: int) -> str:
        """Names the place of an image, for reports."""
        ...


def open_source(config: SourceConfig, reader: str = "own") -> Source:
    """Opens the source of a section of config.ini.

    Args:
        config: the section.
        reader: reader of `.rec` files, a key of `dataset.sources.insightface_rec.READERS`.

    Raises:
        FileNotFoundError: the source does not exist.
        ValueError: the source is malformed.
    """
    return _module(config).open_source(config, reader)


def source_fingerprint(config: SourceConfig) -> str:
    """Returns the fingerprint of a source without opening it, which may take seconds."""
    return _module(config).fingerprint(config)


def _module(config):
    return importlib.import_module(f"{__name__}.{SOURCE_MODULES[config.kind]}")
