"""Reads and writes TFRecord files of images without TensorFlow.

A record is `uint64 length, uint32 crc(length), data, uint32 crc(data)`, little-endian, where `crc` is a
masked CRC32C. The data is a `tf.train.Example` with the features of InsightFace_TF: `image_raw` is the
source's encoded image, and `label` is its identity.

References:
- [TFRecord](https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details)
- [Protocol buffer encoding](https://protobuf.dev/programming-guides/encoding/)
- `tensorflow/core/example/example.proto` and `feature.proto`
"""

import array
import functools
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import google_crc32c
import numpy as np

_LENGTH = struct.Struct("<Q")
_CRC = struct.Struct("<I")
_HEADER = struct.Struct("<QI")
RECORD_OVERHEAD = _HEADER.size + _CRC.size  # bytes of a record in addition to its data

# Field numbers in example.proto and feature.proto.
_EXAMPLE_FEATURES = 1
_FEATURES_ENTRY, _ENTRY_KEY, _ENTRY_VALUE = 1, 1, 2
_FEATURE_BYTES, _FEATURE_INTS = 1, 3
_LIST_VALUE = 1

_LARGEST_VARINT = 10  # bytes of a 64-bit number
_WIRE_VARINT, _WIRE_BYTES = 0, 2
_WIRE_SIZES = {1: 8, 5: 4}  # bytes of the other wire types


def encode_record(image: bytes, label: int) -> tuple[list[bytes], int]:
    """Encodes a record without copying the image.

    Args:
        image: encoded image.
        label: identity, in the range of int64.

    Returns:
        `(parts, length)`: the bytes of the record in several parts, and the length of its data.
    """
    tail = _after_image(label)
    head, length, crc = _record_head(len(image), len(tail))
    crc = google_crc32c.extend(google_crc32c.extend(crc, image), tail)
    return [head, image, tail, _CRC.pack(_masked(crc))], length


def decode_example(data: bytes) -> tuple[bytes, int]:
    """Returns `(image, label)` of a serialised `tf.train.Example`. Other features are ignored.

    Raises:
        ValueError: the data is not an Example, or one of the two features does not have exactly one value.
    """
    # Fast path: in an Example of `encode_record`, all bytes except image and label are known in advance.
    # The label is at the end.
    label_start = len(data) - 1
    while label_start > 0 and data[label_start - 1] > 0x7F:
        label_start -= 1
    head, tail = _around(len(data), len(data) - label_start)
    if head and data.startswith(head) and data.endswith(tail, 0, label_start):
        return data[len(head) : label_start - len(tail)], _signed(_read_varint(data, label_start)[0])
    images, labels = [], []
    for features in _parts(data, _EXAMPLE_FEATURES):
        for entry in _parts(features, _FEATURES_ENTRY):
            name = b"".join(_parts(entry, _ENTRY_KEY))
            for feature in _parts(entry, _ENTRY_VALUE):
                if name == b"image_raw":
                    lists = _parts(feature, _FEATURE_BYTES)
                    images = [image for values in lists for image in _parts(values, _LIST_VALUE)]
                elif name == b"label":
                    labels = _ints(feature)
    for name, values in (("image_raw", images), ("label", labels)):
        if len(values) != 1:
            raise ValueError(f"Example: feature '{name}': expected one value, received {len(values)}")
    return images[0], labels[0]


class TFRecordFile:
    """Random access to the records of one TFRecord file.

    Every read verifies both checksums. Several threads may read at the same time. A pickled copy opens the
    file again.

    The file is not memory-mapped: a map reads about 200 kB from a cold disk for a record of 5 kB, and turns
    a disk error or a shortened file into a fatal signal.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._file = self.path.open("rb", buffering=0)
        self._size = os.fstat(self._file.fileno()).st_size

    def __reduce__(self):
        return type(self), (self.path,)

    def read(self, offset: int, length: int) -> bytes:
        """Returns the data, `length` bytes, of the record that starts at byte `offset`.

        Raises:
            ValueError: there is no such record, or a checksum is wrong.
        """
        size = length + RECORD_OVERHEAD
        # A damaged index may ask for gigabytes, or for a position beyond the end of the file.
        record = b"" if offset > self._size - size else os.pread(self._file.fileno(), size, offset)
        if len(record) != size:
            raise self._error(offset, f"{size} bytes", f"{len(record)} before the end of the file")
        stored, stored_crc = _HEADER.unpack_from(record)
        if stored != length:
            raise self._error(offset, f"a record of {length} bytes", f"{stored} bytes")
        self._check_crc(offset, "length", record[: _LENGTH.size], stored_crc)
        data = record[_HEADER.size : -_CRC.size]
        self._check_crc(offset, "data", data, *_CRC.unpack_from(record, _HEADER.size + length))
        return data

    def scan(self) -> tuple[np.ndarray, np.ndarray]:
        """Finds all records without an index. It verifies the checksums of their lengths, not of their data.

        Returns:
            `(offsets, lengths)` for `read`, both int64 `(num_records,)`.

        Raises:
            ValueError: the file is damaged or ends within a record.
        """
        offsets, lengths = array.array("q"), array.array("q")
        size = os.fstat(self._file.fileno()).st_size
        offset = 0
        while offset < size:
            header = os.pread(self._file.fileno(), _HEADER.size, offset)
            if len(header) != _HEADER.size:
                raise self._error(
                    offset, f"{_HEADER.size} bytes", f"{len(header)} before the end of the file"
                )
            length, stored_crc = _HEADER.unpack(header)
            self._check_crc(offset, "length", header[: _LENGTH.size], stored_crc)
            end = offset + length + RECORD_OVERHEAD
            if end > size:
                raise self._error(offset, f"a record that ends at byte {end}", f"a file that ends at {size}")
            offsets.append(offset)
            lengths.append(length)
            offset = end
        return np.frombuffer(offsets, np.int64), np.frombuffer(lengths, np.int64)

    def _check_crc(self, offset, part, data, stored):
        computed = _masked_crc(data)
        if computed != stored:
            raise self._error(offset, f"{part} with checksum {stored:08x}", f"{computed:08x}")

    def _error(self, offset, expected, received):
        return ValueError(f"{self.path}: record at byte {offset}: expected {expected}, received {received}")


def _masked_crc(data):
    return _masked(google_crc32c.value(data))


def _masked(crc):
    # The format masks the CRC, because the CRC of data that contains its own CRC is constant.
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


# The bytes around an image depend only on its length. The cache helps: building them takes longer than the
# checksum of the image.
@functools.lru_cache(1 << 16)
def _before_image(image_length, tail_length):
    """Returns the bytes of an Example before its image."""
    value = _field_head(_LIST_VALUE, image_length)
    value = _field_head(_FEATURE_BYTES, len(value) + image_length) + value
    entry = _field(_ENTRY_KEY, b"image_raw") + _field_head(_ENTRY_VALUE, len(value) + image_length) + value
    features = _field_head(_FEATURES_ENTRY, len(entry) + image_length) + entry
    return _field_head(_EXAMPLE_FEATURES, len(features) + image_length + tail_length) + features


@functools.lru_cache(1 << 16)
def _after_image(label):
    """Returns the bytes of an Example after its image."""
    value = _field(_FEATURE_INTS, _field(_LIST_VALUE, _varint(label % 2**64)))
    return _field(_FEATURES_ENTRY, _field(_ENTRY_KEY, b"label") + _field(_ENTRY_VALUE, value))


@functools.lru_cache(1 << 16)
def _record_head(image_length, tail_length):
    """Returns `(bytes before the image, length of the data, CRC of the data before the image)`."""
    head = _before_image(image_length, tail_length)
    length = len(head) + image_length + tail_length
    packed = _LENGTH.pack(length)
    return packed + _CRC.pack(_masked_crc(packed)) + head, length, google_crc32c.value(head)


@functools.lru_cache(1 << 16)
def _around(length, label_size):
    """Returns the bytes before the image, and the bytes between image and label.

    Both are `b""` if `encode_record` never writes an Example of `length` bytes whose label has `label_size`
    bytes.
    """
    if not 1 <= label_size <= _LARGEST_VARINT:
        return b"", b""
    tail = _after_image(1 << 7 * (label_size - 1) if label_size > 1 else 0)
    image_length = length
    for _ in range(3):  # Repeat, because the lengths stored before a smaller image may take fewer bytes.
        image_length = max(0, length - len(tail) - len(_before_image(image_length, len(tail))))
    head = _before_image(image_length, len(tail))
    return (head, tail[:-label_size]) if len(head) + image_length + len(tail) == length else (b"", b"")


def _field(number, payload):
    return _field_head(number, len(payload)) + payload


def _field_head(number, length):
    return bytes((number << 3 | _WIRE_BYTES,)) + _varint(length)


def _varint(value):
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _read_varint(data, position):
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            break
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value % 2**64, position
    raise ValueError("Example: expected the end of a number, received none")


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yields the number and value of every field of a message."""
    position = 0
    while position < len(data):
        tag, position = _read_varint(data, position)
        number, wire = tag >> 3, tag & 7
        if wire == _WIRE_VARINT:
            value, position = _read_varint(data, position)
            yield number, value
            continue
        if wire == _WIRE_BYTES:
            length, position = _read_varint(data, position)
        elif wire in _WIRE_SIZES:
            length = _WIRE_SIZES[wire]
        else:
            raise ValueError(f"Example: field {number}: expected wire type 0, 1, 2 or 5, received {wire}")
        if position + length > len(data):
            raise ValueError(f"Example: field {number}: expected {length} bytes, received a cut-off message")
        yield number, data[position : position + length]
        position += length


def _parts(data: bytes, wanted: int) -> list[bytes]:
    return [value for number, value in _fields(data) if number == wanted and isinstance(value, bytes)]


def _ints(feature: bytes) -> list[int]:
    numbers = []
    for values in _parts(feature, _FEATURE_INTS):
        for number, value in _fields(values):
            if number != _LIST_VALUE:
                continue
            if isinstance(value, int):
                numbers.append(value)
                continue
            position = 0
            while position < len(value):  # packed numbers
                packed, position = _read_varint(value, position)
                numbers.append(packed)
    return [_signed(number) for number in numbers]


def _signed(number):
    return number - 2**64 if number >= 2**63 else number
