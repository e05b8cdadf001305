"""The MXNet RecordIO container: read, write, scan; and the header of its image records.

Needs neither MXNet nor TensorFlow. A record file is a row of parts, little-endian:

    uint32 magic, uint32 (cflag << 29 | length), payload, zeros up to a multiple of 4

`cflag` 0 is a whole record; 1, 2, 3 are the first, a middle and the last part of a record that
was split because its payload holds the magic at a 4-byte-aligned offset. That magic is not
stored: the reader puts it back between the parts. In millions of JPEGs this happens.
"""

import contextlib
import mmap
import operator
import re
import struct
import warnings
from pathlib import Path

import numpy as np

from common.files import atomic_file

MAGIC = struct.pack("<I", 0xCED7230A)
FIRST_LABEL_BYTES = 28  # of an image record: its header and the first label after it

_PART = struct.Struct("<4sI")
_CFLAG_BITS = 29
_MAX_LENGTH = (1 << _CFLAG_BITS) - 1
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)
_IMAGE_HEADER = struct.Struct("<IfQQ")  # number of labels that follow, label, id, id2
_LABEL = struct.Struct("<f")


class RecordReader:
    """Random access to the records of one `.rec` file, memory-mapped.

    Keys are those of the `.idx` file, in its order; they need be neither contiguous nor sorted.
    Without an `.idx` the file is scanned, and the keys are 0, 1, 2, ...

    Opening checks what a broken download or a wrong `.idx` would show; every record is checked
    when it is read. A pickled reader carries its index and maps the file anew where it is
    unpickled, so worker processes neither parse nor scan again.

    Args:
        rec_path: str or `os.PathLike`.
        idx_path: str or `os.PathLike`. Defaults to `rec_path` with the suffix `.idx`, if that exists.

    Attributes:
        keys: int64, shape `(num_records,)`.
        offsets: int64, shape `(num_records,)`: where each key's record begins in the file.

    Raises:
        FileNotFoundError: there is no such `.rec`, or no such `.idx` though one was named.
        ValueError: an empty or truncated `.rec`; an `.idx` that is malformed, names a key twice
            or points past the end of the `.rec`.

    Example:

    >>> with RecordReader("tests/golden/rec/rec_small/train.rec") as reader:
    ...     labels, image = unpack_image(reader.read(7))
    >>> labels.tolist(), len(image)
    ([1.0], 2567)
    """

    def __init__(self, rec_path, idx_path=None):
        self.rec_path = Path(rec_path)
        self.idx_path = self.rec_path.with_suffix(".idx") if idx_path is None else Path(idx_path)
        self._map = _map_file(self.rec_path)
        if idx_path is None and not self.idx_path.exists():
            self.offsets = self._scan()
            self.keys = np.arange(len(self.offsets), dtype=np.int64)
        else:
            self.keys, self.offsets = _read_index(self.idx_path)
            self._check_offsets()
        # Keys are nearly always in order already; 10 million need no second array then.
        self._order = None if np.all(self.keys[1:] > self.keys[:-1]) else self._sort_keys()
        self._first_key = None  # of keys without a gap, which need no search
        if self._order is None and self.keys[-1] - self.keys[0] == len(self.keys) - 1:
            self._first_key = int(self.keys[0])

    def __len__(self):
        return len(self.keys)

    def read(self, key):
        """The payload of a record, as bytes; `ValueError` if the record is not sound."""
        offset = self._offset(key)
        start, size = offset + _PART.size, len(self._map)
        if start <= size:
            # A whole record, as nearly all are. Anything else is seen to below, part by part.
            magic, length = _PART.unpack_from(self._map, offset)
            if magic == MAGIC and length <= _MAX_LENGTH and start + length + -length % 4 <= size:
                return self._map[start : start + length]
        return MAGIC.join([self._map[start:stop] for start, stop in self._parts(key, offset)])

    def read_head(self, key, num_bytes):
        """The first `num_bytes` of a record's payload; all of it, where it is shorter."""
        (start, stop), *others = self._parts(key, self._offset(key))
        if others:  # split, which is rare
            return self.read(key)[:num_bytes]
        return self._map[start : min(stop, start + num_bytes)]

    def close(self):
        """Unmaps the file. Reading afterwards is a `ValueError`."""
        self._map.close()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

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
        """Where the payload of every part of one record starts and stops, checked."""
        parts = []
        at = offset
        cflag = None
        while cflag not in (_WHOLE, _LAST):
            start = at + _PART.size
            if start > len(self._map):
                raise self._unsound(key, at, f"{_PART.size} bytes that begin a part", "the end of the file")
            magic, lrec = _PART.unpack_from(self._map, at)
            if magic != MAGIC:
                raise self._unsound(key, at, f"the magic {MAGIC.hex()}", magic.hex())
            cflag, length = lrec >> _CFLAG_BITS, lrec & _MAX_LENGTH
            allowed = (_MIDDLE, _LAST) if parts else (_WHOLE, _FIRST)
            if cflag not in allowed:
                raise self._unsound(key, at, f"a part with cflag {allowed[0]} or {allowed[1]}", cflag)
            at = start + length + -length % 4
            if at > len(self._map):
                received = f"{len(self._map) - start} up to the end of the file; is it cut short?"
                raise self._unsound(key, start, f"{at - start} bytes of payload", received)
            parts.append((start, start + length))
        return parts

    def _unsound(self, key, at, expected, received):
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
                f"received {self.offsets.min()} to {self.offsets[last]}; is the .rec cut short?"
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
    """Writes a `.rec` file and its `.idx`, byte for byte as MXNet does.

    Both files get their names when the writer is closed; after an exception inside `with`, nothing
    is left of them.

    Args:
        rec_path: str or `os.PathLike`. A file of that name is replaced.
        idx_path: str or `os.PathLike`. Defaults to `rec_path` with the suffix `.idx`.

    Example:

    >>> with RecordWriter("train.rec") as writer:  # doctest: +SKIP
    ...     writer.write(0, pack_image(3, 0, image))
    """

    def __init__(self, rec_path, idx_path=None):
        self.rec_path = Path(rec_path)
        self.idx_path = self.rec_path.with_suffix(".idx") if idx_path is None else Path(idx_path)
        self._keys = set()
        with contextlib.ExitStack() as files:
            # Closed in reverse: an .idx that is there belongs to a .rec that is there.
            self._idx = files.enter_context(atomic_file(self.idx_path))
            self._rec = files.enter_context(atomic_file(self.rec_path))
            self._files = files.pop_all()

    def write(self, key, payload):
        """Appends one record.

        Args:
            key: int, not written before.
            payload: bytes, fewer than `2**29`.
        """
        key = operator.index(key)
        if key in self._keys:
            raise ValueError(f"{self.rec_path}: record {key}: expected a new key, received it a second time")
        if len(payload) > _MAX_LENGTH:
            raise ValueError(
                f"{self.rec_path}: record {key}: expected at most {_MAX_LENGTH} bytes, "
                f"received {len(payload)}"
            )
        self._keys.add(key)
        self._idx.write(b"%d\t%d\n" % (key, self._rec.tell()))
        parts = _split(payload)
        cflags = [_FIRST, *[_MIDDLE] * (len(parts) - 2), _LAST] if len(parts) > 1 else [_WHOLE]
        for cflag, part in zip(cflags, parts, strict=True):
            self._rec.write(_PART.pack(MAGIC, cflag << _CFLAG_BITS | len(part)))
            self._rec.write(part)
            self._rec.write(bytes(-len(part) % 4))

    def close(self):
        """Finishes both files and gives them their names. Closing twice does nothing."""
        self._files.close()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return self._files.__exit__(*error)


def pack_image(labels, key, image):
    """The payload of an image record.

    Args:
        labels: number, or a sequence of numbers; stored as float32, exact up to `2**24`.
        key: int, stored as the record's id.
        image: bytes, JPEG or PNG; may be empty.

    Returns:
        bytes, as `mxnet.recordio.pack` makes them.
    """
    if np.ndim(labels) == 0:
        return _IMAGE_HEADER.pack(0, labels, key, 0) + image
    labels = np.asarray(labels, "<f4")
    return _IMAGE_HEADER.pack(labels.size, 0.0, key, 0) + labels.tobytes() + image


def unpack_image(payload):
    """Takes an image record apart; the inverse of `pack_image`.

    Args:
        payload: bytes, as `RecordReader.read` returns them.

    Returns:
        `(labels, image)`: float32 of shape `(num_labels,)`, at least one, and the encoded image's bytes.
    """
    num_labels, label = _header(payload)
    if num_labels == 0:
        return np.array([label], np.float32), payload[_IMAGE_HEADER.size :]
    start = _IMAGE_HEADER.size + 4 * num_labels
    _check_length(payload, start)
    labels = np.frombuffer(payload, "<f4", num_labels, _IMAGE_HEADER.size)
    return labels.astype(np.float32), payload[start:]


def unpack_first_label(payload):
    """`(label, image)`: as `unpack_image`, but of the labels the first alone, a float; faster."""
    num_labels, label = _header(payload)
    if num_labels == 0:
        return label, payload[_IMAGE_HEADER.size :]
    start = _IMAGE_HEADER.size + 4 * num_labels
    _check_length(payload, start)
    return _LABEL.unpack_from(payload, _IMAGE_HEADER.size)[0], payload[start:]


def first_label(head):
    """The first label of an image record, a float, from its first `FIRST_LABEL_BYTES` bytes."""
    num_labels, label = _header(head)
    if num_labels == 0:
        return label
    _check_length(head, FIRST_LABEL_BYTES)
    return _LABEL.unpack_from(head, _IMAGE_HEADER.size)[0]


def _header(payload):
    _check_length(payload, _IMAGE_HEADER.size)
    num_labels, label, _, _ = _IMAGE_HEADER.unpack_from(payload)
    return num_labels, label


def _check_length(payload, needed):
    if len(payload) < needed:
        raise ValueError(
            f"expected an image record: {needed} bytes of header and labels, received {len(payload)} bytes"
        )


def _map_file(path):
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            raise ValueError(f"{path}: expected RecordIO records, received an empty file")
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _read_index(path):
    try:
        with warnings.catch_warnings():
            # NumPy only warns of an empty file, and before 2.0 of a fraction where an integer belongs.
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


def _split(payload):
    """The payload cut at every magic that is 4-byte-aligned in it, the magic left out."""
    parts = []
    start = 0
    at = payload.find(MAGIC)
    while at >= 0:
        if at % 4:
            at = payload.find(MAGIC, at + 1)
        else:
            parts.append(payload[start:at])
            start = at + len(MAGIC)
            at = payload.find(MAGIC, start)
    return [*parts, payload[start:]]
