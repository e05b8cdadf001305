"""Reads training images from a TFRecord file of InsightFace_TF."""

import array
import functools
from pathlib import Path

import numpy as np

from dataset.config import SourceConfig
from dataset.records.tfrecord import TFRecordFile, decode_example
from dataset.sources.labels import count_identities


class TFRecordSource:
    """Images of a `tran.tfrecords`: one file that is not sharded, shuffled or indexed. See `Source`.

    The labels are inside the records, so the first use reads the whole file. A damaged record gets label 0,
    which is never used, because reading the record fails.

    References:
    - InsightFace_TF, `data/generate_tfrecord.py`

    Args:
        path: the file.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: raised on first use if the length of a record is damaged, so that the next record cannot
            be found, if the file ends within a record, or if a label is negative.
    """

    image_size = None

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"{self.path}: no such TFRecord file")
        self._file = TFRecordFile(self.path)
        self.num_bytes = self.path.stat().st_size

    @property
    def num_images(self) -> int:
        """Number of images."""
        return len(self._records[0])

    @functools.cached_property
    def num_identities(self) -> int:
        """The largest label + 1."""
        return count_identities(self.labels, self.path)

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """Identity of every image: int64 `(num_images,)`."""
        labels = array.array("q")
        for index in range(self.num_images):
            try:
                labels.append(self._example(index)[1])
            except ValueError:
                labels.append(0)
        return np.frombuffer(labels, np.int64)

    def read(self, index: int) -> tuple[bytes, None]:
        """Returns `(image, None)`, as in `Source`."""
        return self._example(index)[0], None

    def describe(self, index: int) -> str:
        """Returns the place of an image: file, record and byte."""
        return f"{self.path}: record {index} at byte {self._records[0][index]}"

    @functools.cached_property
    def _records(self):
        return self._file.scan()

    def _example(self, index):
        offsets, lengths = self._records
        return decode_example(self._file.read(int(offsets[index]), int(lengths[index])))


def open_source(config: SourceConfig, reader: str) -> TFRecordSource:
    """Opens the source of a section, see `SOURCE_MODULES`."""
    return TFRecordSource(config.path)


def fingerprint(config: SourceConfig) -> str:
    """Returns the fingerprint of a source, see `SOURCE_MODULES`."""
    status = open_source(config, "").path.stat()
    return f"tfrecord of {status.st_size} bytes modified at {status.st_mtime_ns} ns"
