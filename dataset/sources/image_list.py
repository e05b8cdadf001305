"""Training images that are files of their own, named in a list."""

import array
import functools
import hashlib
import logging
import mmap
import os
from pathlib import Path

import numpy as np

from dataset.sources.labels import LARGEST_LABEL, count_identities

logger = logging.getLogger(__name__)

# Above this many images the size of the set is estimated: asking for millions of file sizes takes long.
_LARGEST_EXACT_SIZE = 100_000
_SIZE_SAMPLE = 10_000
# Estimated from a sample, the size must still be an upper bound.
_SIZE_MARGIN = 1.05


class ImageList:
    """Images of a list with lines `path label` or `path,label`.

    Other lines are skipped, as in the original, and counted in `num_skipped`. The list is read when first
    needed. Only the place of each line is kept: ten million paths would fill a gigabyte in every worker.

    References:
    - margin-centre-face, image lists of `[WebFace] train_list`

    Args:
        train_list: str or Path, the list, UTF-8.
        prefix: str or Path, the folder that paths are relative to, or `None` for the list's own.

    Raises:
        FileNotFoundError: there is no such list.
        ValueError: on first use, when a label is no integer >= 0, or when there is no image.
    """

    image_size = None

    def __init__(self, train_list, prefix=None):
        self.train_list = Path(train_list)
        self.prefix = self.train_list.parent if prefix is None else Path(prefix)
        if not self.train_list.is_file():
            raise FileNotFoundError(f"{self.train_list}: no such image list")

    def __getstate__(self):
        return {key: value for key, value in self.__dict__.items() if key != "_text"}

    @property
    def num_images(self):
        """Number of images."""
        return len(self.labels)

    @functools.cached_property
    def num_identities(self):
        """The largest label + 1."""
        return count_identities(self.labels, self.train_list)

    @property
    def labels(self):
        """The identity of every image: int64, shape `(num_images,)`."""
        return self._lines[1]

    @property
    def num_skipped(self):
        """Number of lines that are neither `path label` nor `path,label`."""
        return self._lines[2]

    @functools.cached_property
    def num_bytes(self):
        """An upper bound of the size of all images; from a sample if there are very many."""
        indices = range(self.num_images)
        if self.num_images <= _LARGEST_EXACT_SIZE:
            return sum(map(self._file_size, indices))
        sample = indices[:: self.num_images // _SIZE_SAMPLE]
        return int(_SIZE_MARGIN * sum(map(self._file_size, sample)) / len(sample) * self.num_images)

    def read(self, index):
        """The image as it is on disk.

        Returns:
            `(image, None)`: bytes; the list is the only one to know a label.

        Raises:
            ValueError: there is no such image file.
        """
        try:
            return self._path(index).read_bytes(), None
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
            raise ValueError(f"expected an image file, received: {error.strerror}") from None

    def describe(self, index):
        """Names the image for a report."""
        return str(self._path(index))

    def fingerprint(self):
        """Changes when the list does, or the folder it speaks of; it does not look at the images."""
        with self.train_list.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return f"list sha256 {digest} below {self.prefix}"

    @functools.cached_property
    def _lines(self):
        offsets, labels = array.array("q"), array.array("q")
        num_skipped, first_skipped = 0, None
        offset = 0
        with self.train_list.open("rb") as file:
            for number, line in enumerate(file, start=1):
                fields = _fields(line)
                if len(fields) == 2 and all(fields):
                    offsets.append(offset)
                    labels.append(self._label(number, fields[1]))
                elif line.strip():
                    num_skipped += 1
                    first_skipped = first_skipped or number
                offset += len(line)
        if num_skipped:
            logger.warning(
                "%s: skipped %d lines that are not `path label` or `path,label`, the first of them line %d",
                self.train_list,
                num_skipped,
                first_skipped,
            )
        return np.frombuffer(offsets, np.int64), np.frombuffer(labels, np.int64), num_skipped

    @functools.cached_property
    def _text(self):
        with self.train_list.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def _label(self, number, field):
        if not field.isdigit() or int(field) > LARGEST_LABEL:
            raise ValueError(
                f"{self.train_list}: line {number}: expected an integer label in [0, {LARGEST_LABEL}], "
                f"received '{field.decode(errors='replace')}'"
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
        except OSError:  # reading it will tell why
            return 0


def _fields(line):
    """Path and label, or another number of fields for a line to skip."""
    return [field.strip() for field in line.split(b",")] if b"," in line else line.split()
