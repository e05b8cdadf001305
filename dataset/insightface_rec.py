"""Identities and images of an InsightFace `.rec` file."""

import hashlib
import logging
from pathlib import Path

import numpy as np

from dataset.identities import count_identities
from dataset.recordio import FIRST_LABEL_BYTES, RecordReader, first_label, unpack_image

logger = logging.getLogger(__name__)

_EXACT_FLOAT32 = 1 << 24  # labels are stored as float32: from here on, not every integer has its own


class InsightFaceRec:
    """The images of one `.rec` file, each with the integer label of its identity.

    In the InsightFace layout record 0 holds no image but two labels `(first, last)`: images are
    records `1 .. first-1`, identities are records `first .. last-1`, and an identity's two labels
    `(a, b)` say that its images are records `a .. b-1`. An image's label is the position of its
    identity record, as in the original; only the identity records are read to find it.

    Any other file is flat: every record is an image, and its own (first) label counts.

    An instance can be pickled; each process opens the file for itself.

    Args:
        folder: str or `os.PathLike`: a folder with `train.rec`, or the path of a `.rec` file. Its
            `.idx`, and a `property` file (`identities,height,width`) beside it, are optional.
        reader: `RecordReader` or a class with the same interface. Defaults to `RecordReader`.

    Attributes:
        num_images: int.
        num_identities: int. In a flat file the number in `property`, or else the largest label + 1.
        labels: int64, shape `(num_images,)`, in `[0, num_identities)`.
        image_size: `(height, width)` from `property`; None without that file.
        num_bytes: int, an upper bound of the bytes of all images together.

    Raises:
        FileNotFoundError: there is no such `.rec`.
        ValueError: the files contradict themselves or each other; the message says where.

    Example:

    >>> rec = InsightFaceRec("tests/golden/rec/rec_small")
    >>> rec.num_images, rec.num_identities, rec.image_size
    (30, 6, (112, 112))
    """

    def __init__(self, folder, reader=RecordReader):
        folder = Path(folder)
        self.rec_path = folder / "train.rec" if folder.is_dir() else folder
        if not self.rec_path.is_file():
            raise FileNotFoundError(
                f"{self.rec_path}: no such file; expected a folder with train.rec, or a .rec"
            )
        self.num_bytes = self.rec_path.stat().st_size
        num_declared, self.image_size = _read_property(self._property_path)
        self._reader = reader(self.rec_path)
        if self._has_identity_records():
            self._read_identity_records(num_declared)
        else:
            self._read_own_labels(num_declared)
        self.num_images = len(self.labels)

    def read(self, i):
        """One image, still encoded.

        Args:
            i: int in `[0, num_images)`.

        Returns:
            `(image, own_label)`: JPEG or PNG bytes, and the first label of the image's own record,
            a float, which should equal `labels[i]`.
        """
        labels, image = self._unpack(self._keys[i])
        return image, float(labels[0])

    def describe(self, i):
        """Where image `i` lies, for reports: `.../train.rec record 17`."""
        return f"{self.rec_path} record {self._keys[i]}"

    def fingerprint(self):
        """A str that changes when the files change. Cheap: the `.rec` counts by size and time only."""
        status = self.rec_path.stat()
        digest = hashlib.sha256(f"{status.st_size} {status.st_mtime_ns}".encode())
        for path in (self.rec_path.with_suffix(".idx"), self._property_path):
            if path.is_file():
                with path.open("rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    @property
    def _property_path(self):
        return self.rec_path.with_name("property")

    def _unpack(self, key):
        payload = self._reader.read(key)
        try:
            return unpack_image(payload)
        except ValueError as error:
            raise ValueError(f"{self.rec_path}: record {key}: {error}") from None

    def _has_identity_records(self):
        if 0 not in self._reader.keys:
            return False
        labels, image = self._unpack(0)
        return len(labels) == 2 and not image

    def _read_identity_records(self, num_declared):
        first, last = self._read_range(0)
        if not 1 < first < last:
            raise ValueError(
                f"{self.rec_path}: record 0: expected 1 < first < last for its identity records, "
                f"received ({first}, {last})"
            )
        self.num_identities = last - first
        if num_declared not in (None, self.num_identities):
            raise ValueError(
                f"{self._property_path}: expected {self.num_identities} identities, as record 0 of "
                f"{self.rec_path} says, received {num_declared}"
            )
        self._check_present(np.arange(first, last))
        ranges = np.array([self._read_range(key) for key in range(first, last)])
        self._keys, self.labels = self._assign(ranges, first)
        self._check_present(self._keys)

    def _read_range(self, key):
        labels, _ = self._unpack(key)
        if len(labels) != 2 or np.any(labels != np.floor(labels)):
            raise ValueError(
                f"{self.rec_path}: record {key}: expected two integer labels, begin and end of a range of "
                f"records, received {labels[:8].tolist()}"
            )
        if np.any(np.abs(labels) >= _EXACT_FLOAT32):
            raise ValueError(
                f"{self.rec_path}: record {key}: expected record numbers below {_EXACT_FLOAT32}, up to "
                f"which float32 labels are exact, received {labels.tolist()}"
            )
        return int(labels[0]), int(labels[1])

    def _assign(self, ranges, first):
        """Keys of the images, ascending, and their labels, from the ranges of the identities."""
        begin, end = ranges.T
        wrong = np.flatnonzero((begin > end) | ((begin < end) & ((begin < 1) | (end > first))))
        if len(wrong):
            label = wrong[0]
            raise ValueError(
                f"{self.rec_path}: record {first + label}: expected a range within the images [1, {first}), "
                f"received [{begin[label]}, {end[label]})"
            )
        order = np.argsort(begin, kind="stable")
        order = order[begin[order] < end[order]]  # an identity may be left without images
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
                "%s: %d of its images [1, %d) belong to no identity and are left out",
                self.rec_path,
                first - 1 - len(keys),
                first,
            )
        return keys, identity_of[keys]

    def _check_present(self, keys):
        missing = np.setdiff1d(keys, self._reader.keys, assume_unique=True)
        if len(missing):
            raise ValueError(
                f"{self.rec_path}: record {missing[0]}: expected records {keys[0]} to {keys[-1]}, "
                f"received an index without {len(missing)} of them"
            )

    def _read_own_labels(self, num_declared):
        self._keys = self._reader.keys
        own = np.empty(len(self._keys), np.float32)
        for i, key in enumerate(self._keys):
            head = self._reader.read_head(key, FIRST_LABEL_BYTES)
            try:
                own[i] = first_label(head)
            except ValueError as error:
                raise ValueError(f"{self.rec_path}: record {key}: {error}") from None
        wrong = np.flatnonzero(~((own >= 0) & (own < _EXACT_FLOAT32) & (own == np.floor(own))))
        if len(wrong):
            raise ValueError(
                f"{self.rec_path}: record {self._keys[wrong[0]]}: expected an integer label in "
                f"[0, {_EXACT_FLOAT32}), received {own[wrong[0]]}"
            )
        self.labels = own.astype(np.int64)
        self.num_identities = count_identities(self.labels, self.rec_path)
        if num_declared is not None:
            if num_declared < self.num_identities:
                raise ValueError(
                    f"{self._property_path}: expected at least {self.num_identities} identities, "
                    f"as the labels in {self.rec_path} need, received {num_declared}"
                )
            self.num_identities = num_declared


def _read_property(path):
    """`(num_identities, (height, width))` from a `property` file, `(None, None)` without one."""
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
