"""Reads and writes MXNet's RecordIO files and image records without MXNet.

A file is a sequence of parts, little-endian:

    uint32 magic, uint32 (cflag << 29 | length), payload, zeros up to a multiple of 4

A `cflag` of 0 marks a whole record. A record is split if its payload contains the magic at a 4-byte-aligned
offset, which happens among millions of JPEGs. Then 1, 2 and 3 mark its first, middle and last parts. The
magic between two parts is not stored: the reader inserts it.
"""

import contextlib
import mmap
import operator
import re
import struct
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np

from common.files import atomic_file

MAGIC = struct.pack("<I", 0xCED7230A)
FIRST_LABEL_BYTES = 28  # length of the header of an image record and the first label after it

_PART = struct.Struct("<4sI")
_CFLAG_BITS = 29
_MAX_LENGTH = (1 << _CFLAG_BITS) - 1
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)
_IMAGE_HEADER = struct.Struct("<IfQQ")  # number of labels that follow, label, id, id2
_OWN_LABEL = 4  # byte offset of the label in the header, which is used if no other labels follow
_LABEL = struct.Struct("<f")


class RecordReader:
    """Random access to the records of one memory-mapped `.rec` file.

    The keys come from the `.idx` file next to it, in the same order. They need not be contiguous or sorted.
    Without an `.idx`, the constructor scans the file, and the keys are 0, 1, 2, ...

    The constructor detects an incomplete download and a wrong `.idx`. Every record is checked when it is
    read. A pickled reader includes its index, and maps the file again when it is unpickled, so worker
    processes neither parse an index nor scan a file.

    Args:
        rec_path: the `.rec` file.

    Attributes:
        keys: int64 `(num_records,)`.
        offsets: int64 `(num_records,)`, first byte of each key's record.

    Raises:
        FileNotFoundError: the `.rec` does not exist.
        ValueError: the `.rec` is empty or truncated, or the `.idx` is malformed, contains a key twice, or
            points past the end of the `.rec`.

    Example:

    >>> labels, image = unpack_image(RecordReader("tests/golden/rec/rec_small/train.rec").read(7))
    >>> labels.tolist(), len(image)
    ([1.0], 2567)
    """

    def __init__(self, rec_path: Path) -> None:
        self.rec_path = Path(rec_path)
        self.idx_path = self.rec_path.with_suffix(".idx")
        self._map = _map_file(self.rec_path)
        if self.idx_path.exists():
            self.keys, self.offsets = _read_index(self.idx_path)
            self._check_offsets()
        else:
            self.offsets = self._scan()
            self.keys = np.arange(len(self.offsets), dtype=np.int64)
        # Keys are nearly always sorted. Then 10 million keys need no second array.
        self._order = None if np.all(self.keys[1:] > self.keys[:-1]) else self._sort_keys()
        self._first_key = None  # The first key if keys have no gaps, so that they need no search.
        if self._order is None and self.keys[-1] - self.keys[0] == len(self.keys) - 1:
            self._first_key = int(self.keys[0])

    def read(self, key: int) -> bytes:
        """Returns the payload of a record.

        Raises:
            ValueError: there is no such key, or the record is damaged.
        """
        offset = self._offset(key)
        start, size = offset + _PART.size, len(self._map)
        if start <= size:
            # Nearly all records are whole. The others are read part by part below.
            magic, length = _PART.unpack_from(self._map, offset)
            if magic == MAGIC and length <= _MAX_LENGTH and start + length + -length % 4 <= size:
                return self._map[start : start + length]
        return MAGIC.join([self._map[start:stop] for start, stop in self._parts(key, offset)])

    def read_head(self, key: int, num_bytes: int) -> bytes:
        """Returns the first `num_bytes` bytes of a record's payload, or all of a shorter payload."""
        (start, stop), *others = self._parts(key, self._offset(key))
        if others:
            return self.read(key)[:num_bytes]
        return self._map[start : min(stop, start + num_bytes)]

    def __getstate__(self):
        return {name: value for name, value in self.__dict__.items() if name != "_map"}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._map = _map_file(self.rec_path)

    def _offset(self, key):
        key = operator.index(key)
        if self._first_key is not None and 0 <= key - self._first_key < len(self.keys):
            return self.offsets.item(key - self._first_key)
        at = self.keys.searchsorted(key, sorter=self._order)
        if at < len(self.keys):
            at = at if self._order is None else self._order[at]
            if self.keys[at] == key:
                return int(self.offsets[at])
        raise ValueError(
            f"{self.rec_path}: record {key}: expected one of its {len(self.keys)} keys, "
            f"{self.keys.min()} to {self.keys.max()}, received an unknown key"
        )

    def _parts(self, key, offset):
        """Checks all parts of one record, and returns `(start, stop)` of the payload of each."""
        parts = []
        at = offset
        cflag = None
        while cflag not in (_WHOLE, _LAST):
            start = at + _PART.size
            if start > len(self._map):
                raise self._damaged(key, at, f"a part's header, {_PART.size} bytes", "the end of the file")
            magic, lrec = _PART.unpack_from(self._map, at)
            if magic != MAGIC:
                raise self._damaged(key, at, f"the magic {MAGIC.hex()}", magic.hex())
            cflag, length = lrec >> _CFLAG_BITS, lrec & _MAX_LENGTH
            allowed = (_MIDDLE, _LAST) if parts else (_WHOLE, _FIRST)
            if cflag not in allowed:
                raise self._damaged(key, at, f"a part with cflag {allowed[0]} or {allowed[1]}", cflag)
            at = start + length + -length % 4
            if at > len(self._map):
                received = f"{len(self._map) - start} before the end of the file. Is the file incomplete?"
                raise self._damaged(key, start, f"{at - start} bytes of payload", received)
            parts.append((start, start + length))
        return parts

    def _damaged(self, key, at, expected, received):
        return ValueError(
            f"{self.rec_path}: record {key}, byte {at}: expected {expected}, received {received}"
        )

    def _scan(self):
        offsets = []
        at = 0
        while at < len(self._map):
            _, stop = self._parts(len(offsets), at)[-1]
            offsets.append(at)
            at = stop + -stop % 4
        return np.array(offsets, np.int64)

    def _check_offsets(self):
        last = self.offsets.argmax()
        if self.offsets.min() < 0 or self.offsets[last] >= len(self._map):
            raise ValueError(
                f"{self.idx_path}: expected byte offsets inside {self.rec_path}, {len(self._map)} bytes, "
                f"received {self.offsets.min()} to {self.offsets[last]}. Is the .rec incomplete?"
            )
        self._parts(self.keys[last], int(self.offsets[last]))

    def _sort_keys(self):
        order = np.argsort(self.keys, kind="stable")
        ordered = self.keys[order]
        twice = ordered[1:][ordered[1:] == ordered[:-1]]
        if len(twice):
            raise ValueError(f"{self.idx_path}: expected every key once, received key {twice[0]} twice")
        return order


class RecordWriter:
    """Writes a `.rec` file and its `.idx`. The bytes are the same as from MXNet.

    Both files get their names when the writer is closed. An exception inside `with` removes them.

    Args:
        rec_path: file to write. An existing file is replaced.

    Example:

    >>> with RecordWriter("train.rec") as writer:  # doctest: +SKIP
    ...     writer.write(0, pack_image(3, 0, image))
    """

    def __init__(self, rec_path: Path) -> None:
        self.rec_path = Path(rec_path)
        self._keys: set[int] = set()
        with contextlib.ExitStack() as files:
            # They are closed in reverse order, so an .idx never exists without its .rec.
            self._idx = files.enter_context(atomic_file(self.rec_path.with_suffix(".idx")))
            self._rec = files.enter_context(atomic_file(self.rec_path))
            self._files = files.pop_all()

    def write(self, key: int, payload: bytes) -> None:
        """Appends one record.

        Args:
            key: a key that was not written before.
            payload: less than `2**29` bytes.

        Raises:
            ValueError: the key was written before, or the payload is too long.
        """
        key = operator.index(key)
        place = f"{self.rec_path}: record {key}"
        if key in self._keys:
            raise ValueError(f"{place}: expected a new key, received one that is already in the file")
        if len(payload) > _MAX_LENGTH:
            raise ValueError(f"{place}: expected at most {_MAX_LENGTH} bytes, received {len(payload)}")
        self._keys.add(key)
        self._idx.write(b"%d\t%d\n" % (key, self._rec.tell()))
        magics = re.finditer(re.escape(MAGIC), payload)
        cuts = [magic.start() for magic in magics if magic.start() % len(MAGIC) == 0]
        spans = zip([0, *(cut + len(MAGIC) for cut in cuts)], [*cuts, len(payload)], strict=True)
        parts = [payload[start:stop] for start, stop in spans]
        cflags = [_FIRST, *[_MIDDLE] * (len(parts) - 2), _LAST] if cuts else [_WHOLE]
        for cflag, part in zip(cflags, parts, strict=True):
            self._rec.write(_PART.pack(MAGIC, cflag << _CFLAG_BITS | len(part)))
            self._rec.write(part)
            self._rec.write(bytes(-len(part) % 4))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error) -> bool | None:
        return self._files.__exit__(*error)


def pack_image(labels: float | Sequence[float], key: int, image: bytes) -> bytes:
    """Returns the payload of an image record, as `mxnet.recordio.pack` does.

    Args:
        labels: one number or several. They are stored as float32, which is exact up to `2**24`.
        key: key of the record, stored as its id.
        image: JPEG or PNG, or `b""` for a record without an image.
    """
    if np.ndim(labels) == 0:
        return _IMAGE_HEADER.pack(0, labels, key, 0) + image
    array = np.asarray(labels, "<f4")
    return _IMAGE_HEADER.pack(array.size, 0.0, key, 0) + array.tobytes() + image


def unpack_image(payload: bytes) -> tuple[np.ndarray, bytes]:
    """Returns `(labels, image)` of an image record. Labels are float32 `(num_labels,)`, at least one.

    Raises:
        ValueError: the payload is shorter than its header says.
    """
    num_labels, first, image = _layout(payload)
    labels = np.frombuffer(payload, "<f4", num_labels, first)
    return labels.astype(np.float32), payload[image:]


def unpack_first_label(payload: bytes) -> tuple[float, bytes]:
    """Returns `(label, image)` with only the first label. Faster than `unpack_image`."""
    _, first, image = _layout(payload)
    return _LABEL.unpack_from(payload, first)[0], payload[image:]


def first_label(head: bytes) -> float:
    """Returns the first label of an image record from its first `FIRST_LABEL_BYTES` bytes."""
    _, first, _ = _layout(head, is_head=True)
    return _LABEL.unpack_from(head, first)[0]


def _layout(payload, is_head=False):
    """Checks the length. Returns the number of labels, and the offsets of the first label and the image."""
    num_labels, first, image = 1, _OWN_LABEL, _IMAGE_HEADER.size
    if len(payload) >= image:
        stored = _IMAGE_HEADER.unpack_from(payload)[0]
        if stored:
            num_labels, first, image = stored, image, image + 4 * stored
    needed = min(image, FIRST_LABEL_BYTES) if is_head else image
    if len(payload) < needed:
        raise ValueError(
            f"expected an image record: {needed} bytes of header and labels, received {len(payload)} bytes"
        )
    return num_labels, first, image


def _map_file(path):
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            raise ValueError(f"{path}: expected RecordIO records, received an empty file")
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _read_index(path):
    try:
        with warnings.catch_warnings():
            # NumPy only warns if the file is empty.
            warnings.simplefilter("error")
            keys, offsets = np.loadtxt(path, np.int64, comments=None, ndmin=2).T.copy()
    except (ValueError, Warning):
        raise ValueError(f"{path}: {_first_fault(path)}") from None
    return keys, offsets


def _first_fault(path):
    expected = "expected 'key<TAB>byte offset', two integers"
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not re.fullmatch(rb"(-?\d{1,18}\s+\d{1,18})?\s*", line):
                return f"line {number}: {expected}, received {line.rstrip()[:80]!r}"
    return f"{expected}, received no lines"
