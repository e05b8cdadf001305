"""Reads images and identities from an InsightFace `.rec` file."""

import hashlib
import logging
import math
from pathlib import Path

import numpy as np

from common.files import file_sha256
from dataset.config import SourceConfig
from dataset.records.recordio import (
    FIRST_LABEL_BYTES,
    RecordReader,
    first_label,
    unpack_first_label,
    unpack_image,
)
from dataset.sources.labels import count_identities
from dataset.sources.mxnet_reader import MXNetReader

logger = logging.getLogger(__name__)

READERS = {"own": RecordReader, "mxnet": MXNetReader}

_STORED = np.float32
_EXACT = 1 << 24  # Above this, float32 cannot represent every integer.
# Largest distance between a record number and its rounded value, among up to 2**32 records.
_NEAR = 256


class InsightFaceRec:
    """The images of one `.rec` file, each with the integer label of its identity. See `Source`.

    In the InsightFace layout, record 0 contains no image, but two labels `(first, last)`. Records
    `1 .. first-1` are images. Records `first .. last-1` are identities. The two labels `(a, b)` of an
    identity mean that its images are the records `a .. b-1`. The label of an image is the position of its
    identity record, as in the original, so only the identity records are read.

    Labels are float32, so record numbers are rounded in a set of more than 2**24 records. There the label in
    the image's own record is used, if the range of every identity matches those labels after rounding.

    Any other file is flat: every record is an image, and the first label in its record is used. The number
    of identities comes from `property`, or else is the largest label + 1.

    Args:
        folder: folder with `train.rec`, or path of a `.rec` file. An `.idx` and a file `property`
            (`identities,height,width`) next to it are optional.
        reader: `RecordReader`, or a class with the same interface. Defaults to `RecordReader`.

    Raises:
        FileNotFoundError: the `.rec` does not exist.
        ValueError: the files are inconsistent.

    Example:

    >>> rec = InsightFaceRec("tests/golden/rec/rec_small")
    >>> rec.num_images, rec.num_identities, rec.image_size
    (30, 6, (112, 112))
    """

    def __init__(self, folder: Path, reader: type[RecordReader] | type[MXNetReader] = RecordReader) -> None:
        self.rec_path = _rec_path(folder)
        self.num_bytes = self.rec_path.stat().st_size  # upper bound
        self._property_path = self.rec_path.with_name("property")
        num_declared, self.image_size = _read_property(self._property_path)
        self._reader = reader(self.rec_path)
        if 0 in self._reader.keys and self._is_identity(0):
            self._read_identity_records(num_declared)
        else:
            self._read_own_labels(num_declared)
        self.num_images = len(self.labels)

    def read(self, index: int) -> tuple[bytes, float]:
        """Returns `(image, own_label)`, as in `Source`. The own label is the first label in the record."""
        own_label, image = self._unpack(self._keys.item(index), unpack_first_label)
        return image, own_label

    def describe(self, index: int) -> str:
        """Returns the file and record of an image, such as `.../train.rec record 17`."""
        return f"{self.rec_path} record {self._keys[index]}"

    def _unpack(self, key, unpack=unpack_image):
        is_head = unpack is first_label
        payload = self._reader.read_head(key, FIRST_LABEL_BYTES) if is_head else self._reader.read(key)
        try:
            return unpack(payload)
        except ValueError as error:
            raise ValueError(f"{self.rec_path}: record {key}: {error}") from None

    def _error(self, key, expected, received):
        return ValueError(f"{self.rec_path}: record {key}: expected {expected}, received {received}")

    def _read_identity_records(self, num_declared):
        is_exact = np.abs(self._unpack(0)[0]).max() < _EXACT
        first, last = self._read_range(0) if is_exact else self._find_identity_records()
        if not 1 < first < last:
            raise self._error(0, "1 < first < last for its identity records", f"({first}, {last})")
        self.num_identities = last - first
        if num_declared not in (None, self.num_identities):
            raise ValueError(
                f"{self._property_path}: expected {self.num_identities} identities, as record 0 of "
                f"{self.rec_path} says, received {num_declared}"
            )
        self._check_present(np.arange(first, last))
        if is_exact:
            ranges = np.array([self._read_range(key) for key in range(first, last)])
            self._keys, self.labels = self._assign(ranges, first)
            self._check_present(self._keys)
        else:
            self._keys = np.arange(1, first)
            self.labels = self._own_labels(self._keys)
            ranges = np.full((last - first, 2), np.nan)
            for label, key in enumerate(range(first, last)):
                labels, _ = self._unpack(key)
                if len(labels) == 2:
                    ranges[label] = labels
            _check_ranges(self.rec_path, self.labels, ranges)

    def _find_identity_records(self):
        """Returns the exact `(first, last)` if those in record 0 are rounded."""
        first, last = self._unpack(0)[0].tolist()
        keys = self._reader.keys
        if keys[0] != 0 or (np.diff(keys) != 1).any() or _STORED(len(keys)) != last:
            expected = f"more than {_EXACT} records, about {last:.0f}, all of them in the index, in order"
            raise self._error(0, expected, f"{len(keys)} records, {keys.min()} to {keys.max()}")
        return _first_identity_record(self.rec_path, first, len(keys), self._is_identity), len(keys)

    def _is_identity(self, key):
        labels, image = self._unpack(key)
        return len(labels) == 2 and not image

    def _read_range(self, key):
        labels = self._unpack(key)[0].tolist()
        if len(labels) != 2 or not all(label.is_integer() or math.isinf(label) for label in labels):
            raise self._error(key, "two integer labels, the start and end of a range of records", labels[:8])
        if max(map(abs, labels)) >= _EXACT:
            expected = f"record numbers below {_EXACT}, where float32 is exact"
            raise self._error(key, expected, labels)
        return int(labels[0]), int(labels[1])

    def _assign(self, ranges, first):
        """Returns the ascending keys of the images, and their labels from the ranges of the identities."""
        begin, end = ranges.T
        wrong = np.flatnonzero((begin > end) | ((begin < end) & ((begin < 1) | (end > first))))
        if len(wrong):
            label = wrong[0]
            expected = f"a range within the images [1, {first})"
            raise self._error(first + label, expected, f"[{begin[label]}, {end[label]})")
        order = np.argsort(begin, kind="stable")
        order = order[begin[order] < end[order]]  # An identity may have no images.
        begin, end = begin[order], end[order]
        overlap = np.flatnonzero(begin[1:] < end[:-1])
        if len(overlap):
            at = overlap[0]
            raise ValueError(
                f"{self.rec_path}: records {first + order[at]} and {first + order[at + 1]}: expected ranges "
                f"that do not overlap, received [{begin[at]}, {end[at]}) and [{begin[at + 1]}, {end[at + 1]})"
            )
        identity_of = np.full(first, -1, np.int64)
        for label, start, stop in zip(order, begin, end, strict=True):
            identity_of[start:stop] = label
        keys = np.flatnonzero(identity_of >= 0)
        if not len(keys):
            raise ValueError(f"{self.rec_path}: expected at least one image, received none")
        if len(keys) < first - 1:
            logger.warning(
                f"{self.rec_path}: {first - 1 - len(keys)} of the images [1, {first}) belong to no identity "
                "and are left out"
            )
        return keys, identity_of[keys]

    def _check_present(self, keys):
        missing = np.setdiff1d(keys, self._reader.keys, assume_unique=True)
        if len(missing):
            expected = f"records {keys[0]} to {keys[-1]}"
            raise self._error(missing[0], expected, f"an index without {len(missing)} of them")

    def _own_labels(self, keys):
        """Returns the first label of every record, int64."""
        own = np.fromiter((self._unpack(key, first_label) for key in keys), np.float32, len(keys))
        wrong = np.flatnonzero(~((own >= 0) & (own < _EXACT) & (own == np.floor(own))))
        if len(wrong):
            raise self._error(keys[wrong[0]], f"an integer label in [0, {_EXACT})", own[wrong[0]])
        return own.astype(np.int64)

    def _read_own_labels(self, num_declared):
        self._keys = self._reader.keys
        self.labels = self._own_labels(self._keys)
        self.num_identities = count_identities(self.labels, self.rec_path)
        if num_declared is not None:
            if num_declared < self.num_identities:
                raise ValueError(
                    f"{self._property_path}: expected at least {self.num_identities} identities for the "
                    f"labels in {self.rec_path}, received {num_declared}"
                )
            self.num_identities = num_declared


def _first_identity_record(path, rounded, num_records, is_identity):
    """Finds the first identity record, given its rounded number."""
    if np.isfinite(rounded):
        for key in range(max(2, int(rounded) - _NEAR), min(num_records, int(rounded) + _NEAR)):
            if _STORED(key) == rounded and is_identity(key) and not is_identity(key - 1):
                return key
    raise ValueError(
        f"{path}: record 0: expected the first record without an image near record {rounded:.0f}, "
        "received no such record there"
    )


def _check_ranges(path, own_labels, ranges):
    """Checks that the range of every identity matches the images with its label, after rounding.

    Args:
        path: file to name in errors.
        own_labels: int64 `(num_images,)`, labels in the records 1, 2, ...
        ranges: float `(num_identities, 2)`, stored number of the first record of every identity, and of the
            record after its last.
    """
    starts = np.flatnonzero(np.diff(own_labels, prepend=-1))
    labels = own_labels[starts]
    ends = np.append(starts[1:], len(own_labels))
    wrong = np.flatnonzero(labels >= len(ranges))
    if len(wrong):
        raise ValueError(
            f"record {starts[wrong[0]] + 1}: expected a label in [0, {len(ranges)}), "
            f"received {labels[wrong[0]]}"
        )
    expected = np.zeros((len(ranges), 2), np.int64)
    expected[labels, 0], expected[labels, 1] = starts + 1, ends + 1
    has_images = expected[:, 1] > 0
    # An identity without images has an empty range at any position.
    is_right = np.where(has_images, (_STORED(expected) == ranges).all(axis=1), ranges[:, 0] == ranges[:, 1])
    wrong = np.flatnonzero(~is_right)
    if len(wrong):
        label, first = wrong[0], len(own_labels) + 1
        raise ValueError(
            f"{path}: record {first + label}: expected the range {expected[label].tolist()} of the images "
            f"with label {label}, possibly rounded, received {ranges[label].tolist()}"
        )
    # If the images of a label are in two separate rows, `expected` contains only the last row.
    if len(starts) != np.count_nonzero(has_images):
        raise ValueError(
            f"{path}: expected the images of each identity in consecutive records, received {len(starts)} "
            f"runs of records for {np.count_nonzero(has_images)} identities"
        )


def open_source(config: SourceConfig, reader: str) -> InsightFaceRec:
    """Opens the source of a section, see `SOURCE_MODULES`."""
    return InsightFaceRec(config.path, READERS[reader])


def fingerprint(config: SourceConfig) -> str:
    """Returns the fingerprint of a source, see `SOURCE_MODULES`. It uses only size and time of the `.rec`."""
    path = _rec_path(config.path)
    status = path.stat()
    digest = hashlib.sha256(f"{status.st_size} {status.st_mtime_ns}".encode())
    for companion in (path.with_suffix(".idx"), path.with_name("property")):
        if companion.is_file():
            digest.update(bytes.fromhex(file_sha256(companion)))
    return digest.hexdigest()


def _rec_path(folder):
    folder = Path(folder)
    path = folder / "train.rec" if folder.is_dir() else folder
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file. Give a folder with train.rec, or a .rec file.")
    return path


def _read_property(path):
    """Reads `(num_identities, (height, width))`, or returns `(None, None)` if there is no file."""
    if not path.is_file():
        return None, None
    text = path.read_text(encoding="utf-8", errors="replace").strip()
    fields = text.split(",")
    if len(fields) != 3 or not all(field.strip().isdecimal() and int(field) > 0 for field in fields):
        raise ValueError(
            f"{path}: expected 'identities,height,width', positive integers, received {text[:80]!r}"
        )
    num_identities, height, width = map(int, fields)
    return num_identities, (height, width)
