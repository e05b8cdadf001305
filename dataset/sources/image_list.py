"""Reads training images from separate files that a list names."""

import array
import functools
import logging
import mmap
import os
from pathlib import Path

import numpy as np

from common.files import file_sha256
from dataset.config import SourceConfig
from dataset.sources.labels import LARGEST_LABEL, count_identities

logger = logging.getLogger(__name__)

# Above this number of images, the total size is estimated, because reading millions of file sizes takes long.
_LARGEST_EXACT_SIZE = 100_000
_SIZE_SAMPLE = 10_000
# The estimate is increased by this factor, so that it is still an upper bound.
_SIZE_MARGIN = 1.05


class ImageList:
    """Images of a list with lines `path label` or `path,label`. See `Source`.

    Other lines are skipped with a warning (the original skips them too). The list is read on first use.
    Memory holds only the position of each line: ten million paths would take a gigabyte in every worker.

    References:
    - margin-centre-face, image lists of `[WebFace] train_list`

    Args:
        train_list: the list, a text file in UTF-8.
        prefix: folder that the paths are relative to. Defaults to the list's folder.

    Raises:
        FileNotFoundError: the list does not exist.
        ValueError: raised on first use if a label is not an integer in `[0, 2**31)`, or there is no image.
    """

    image_size: tuple[int, int] | None = None

    def __init__(self, train_list: Path, prefix: Path | None = None) -> None:
        self.train_list = Path(train_list)
        self.prefix = self.train_list.parent if prefix is None else Path(prefix)
        if not self.train_list.is_file():
            raise FileNotFoundError(f"{self.train_list}: no such image list")

    def __getstate__(self):
        return {key: value for key, value in self.__dict__.items() if key != "_text"}

    @property
    def num_images(self) -> int:
        """Number of images."""
        return len(self.labels)

    @functools.cached_property
    def num_identities(self) -> int:
        """The largest label + 1."""
        return count_identities(self.labels, self.train_list)

    @property
    def labels(self) -> np.ndarray:
        """Identity of every image: int64 `(num_images,)`."""
        return self._lines[1]

    @functools.cached_property
    def num_bytes(self) -> int:
        """Upper bound of the size of all images in bytes. It is estimated if there are many images."""
        indices = range(self.num_images)
        if self.num_images <= _LARGEST_EXACT_SIZE:
            return sum(map(self._file_size, indices))
        sample = indices[:: self.num_images // _SIZE_SAMPLE]
        return int(_SIZE_MARGIN * sum(map(self._file_size, sample)) / len(sample) * self.num_images)

    def read(self, index: int) -> tuple[bytes, None]:
        """Returns `(image, None)`, as in `Source`."""
        return read_image(self._path(index)), None

    def describe(self, index: int) -> str:
        """Returns the path of an image."""
        return str(self._path(index))

    @functools.cached_property
    def _lines(self):
        offsets, labels = array.array("q"), array.array("q")
        num_skipped, first_skipped = 0, None
        offset = 0
        with self.train_list.open("rb") as file:
            for number, line in enumerate(file, start=1):
                fields = _fields(line)
                if len(fields) == 2 and all(fields) and b"\0" not in line:
                    offsets.append(offset)
                    labels.append(self._label(number, fields[1]))
                elif line.strip():
                    num_skipped += 1
                    first_skipped = first_skipped or number
                offset += len(line)
        if num_skipped:
            logger.warning(
                f"{self.train_list}: skipped {num_skipped} lines that are not `path label` or `path,label`. "
                f"The first is line {first_skipped}."
            )
        return np.frombuffer(offsets, np.int64), np.frombuffer(labels, np.int64)

    @functools.cached_property
    def _text(self):
        with self.train_list.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def _label(self, number, field):
        if not field.isdigit() or len(field) > 20 or int(field) > LARGEST_LABEL:
            raise ValueError(
                f"{self.train_list}: line {number}: expected an integer label in [0, {LARGEST_LABEL}], "
                f"received '{field[:80].decode(errors='replace')}'"
            )
        return int(field)

    def _path(self, index):
        start = int(self._lines[0][index])
        end = self._text.find(b"\n", start)
        line = self._text[start:] if end < 0 else self._text[start:end]
        return self.prefix / os.fsdecode(_fields(line)[0])

    def _file_size(self, index):
        try:
            return self._path(index).stat().st_size
        except OSError:  # `read` reports the reason.
            return 0


def read_image(path: Path) -> bytes:
    """Returns the content of an image file. Raises `ValueError` if it cannot be read."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
        raise ValueError(f"expected an image file, received: {error.strerror}") from None


def _fields(line):
    """Returns `[path, label]`, or a list of another length if the line must be skipped."""
    return [field.strip() for field in line.split(b",", 2)] if b"," in line else line.split(maxsplit=2)


def open_source(config: SourceConfig, reader: str) -> ImageList:
    """Opens the source of a section, see `SOURCE_MODULES`."""
    return ImageList(config.path, config.prefix)


def fingerprint(config: SourceConfig) -> str:
    """Returns the fingerprint of a source, see `SOURCE_MODULES`. It does not change when an image does."""
    images = open_source(config, "")
    return f"list sha256 {file_sha256(images.train_list)} below {images.prefix}"
