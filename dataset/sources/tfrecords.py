"""Training images in a TFRecord file made by InsightFace_TF."""

import array
import functools
from pathlib import Path

import numpy as np

from dataset.records.tfrecord import TFRecordFile, decode_example
from dataset.sources.labels import count_identities


class TFRecordSource:
    """Images of a `tran.tfrecords`: one file, neither sharded nor shuffled nor indexed.

    The labels are inside the records, so on first use the whole file is read. A damaged record
    has label 0 there; nothing uses it, as reading the record raises.

    References:
    - InsightFace_TF, `data/generate_tfrecord.py`

    Args:
        path: str or Path.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: on first use, when a record's length is damaged, so that the next one cannot be
            found, when the file ends within a record, or when a label is negative.
    """

    image_size = None

    def __init__(self, path):
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"{self.path}: no such TFRecord file")
        self._file = TFRecordFile(self.path)

    @property
    def num_images(self):
        """Number of images."""
        return len(self._records[0])

    @functools.cached_property
    def num_identities(self):
        """The largest label + 1."""
        return count_identities(self.labels, self.path)

    @functools.cached_property
    def labels(self):
        """The identity of every image: int64, shape `(num_images,)`."""
        labels = array.array("q")
        for index in range(self.num_images):
            try:
                labels.append(self._example(index)[1])
            except ValueError:
                labels.append(0)
        return np.frombuffer(labels, np.int64)

    @property
    def num_bytes(self):
        """An upper bound of the size of all images."""
        return self.path.stat().st_size

    def read(self, index):
        """The encoded image.

        Returns:
            `(image, None)`: bytes; there is no label besides the one in `labels`.

        Raises:
            ValueError: the record is damaged.
        """
        return self._example(index)[0], None

    def describe(self, index):
        """Names the image for a report."""
        return f"{self.path}: record {index} at byte {self._records[0][index]}"

    def fingerprint(self):
        """Changes when the file does: its size and time of modification."""
        status = self.path.stat()
        return f"tfrecord of {status.st_size} bytes modified at {status.st_mtime_ns} ns"

    @functools.cached_property
    def _records(self):
        return self._file.scan()

    def _example(self, index):
        offsets, lengths = self._records
        return decode_example(self._file.read(int(offsets[index]), int(lengths[index])))
