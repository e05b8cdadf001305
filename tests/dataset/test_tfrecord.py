import hashlib
import io
import pickle
import tracemalloc

import numpy as np
import pytest

from dataset.records.tfrecord import (
    RECORD_OVERHEAD,
    TFRecordFile,
    decode_example,
    encode_record,
)
from tests.dataset.samples import encode_example, write_record

LABELS = [0, 1, 127, 128, 300, 2**31 - 1, 2**63 - 1, -1, -(2**63)]


@pytest.fixture
def records(tmp_path):
    """A file with records of several lengths, and their data."""
    rng = np.random.default_rng(0)
    data = [rng.bytes(length) for length in (0, 1, 5000, 17, 300)]
    path = tmp_path / "records.tfrecord"
    offsets = []
    with path.open("wb") as file:
        for record in data:
            offsets.append(file.tell())
            write_record(file, record)
            assert file.tell() == offsets[-1] + len(record) + RECORD_OVERHEAD
    return path, offsets, data


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("image", [b"", b"\xff\xd8 image", bytes(range(256)) * 90])
@pytest.mark.tensorflow
def test_example_is_what_tensorflow_reads(image, label):
    import tensorflow as tf

    example = tf.train.Example.FromString(encode_example(image, label))
    assert sorted(example.features.feature) == ["image_raw", "label"]
    assert list(example.features.feature["image_raw"].bytes_list.value) == [image]
    assert list(example.features.feature["label"].int64_list.value) == [label]


def test_bytes_of_an_example_are_stable():
    """Checks lengths around those from which the length of a field takes one more byte."""
    digest = hashlib.sha256()
    for length in (
        0,
        1,
        80,
        90,
        96,
        100,
        108,
        116,
        120,
        127,
        128,
        5000,
        16_300,
        16_370,
        16_383,
        16_384,
        70_000,
    ):
        for label in LABELS[:-1]:
            digest.update(encode_example(b"x" * length, label))
    assert digest.hexdigest() == "38b2b144c1634570e7def328f9d3a41f685ddbe6f5175bc0ecb93aac24813ada"


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("length", [0, 1, 95, 200, 5000, 16_400])
def test_an_encoded_record_equals_the_one_in_a_file(label, length):
    image = np.random.default_rng(length).bytes(length)
    example = encode_example(image, label)
    expected = io.BytesIO()
    write_record(expected, example)
    parts, received = encode_record(image, label)
    assert b"".join(parts) == expected.getvalue() and received == len(example)


@pytest.mark.tensorflow
@pytest.mark.parametrize("label", LABELS)
def test_example_of_tensorflow_is_read(label):
    import tensorflow as tf

    feature = {
        "width": tf.train.Feature(float_list=tf.train.FloatList(value=[1.5, 2.5])),
        "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
        "image_raw": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"image" * 100])),
        "name": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"a", b"b"])),
    }
    data = tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()
    assert decode_example(data) == (b"image" * 100, label)


def test_unpacked_label_and_unknown_fields_are_read():
    label_entry = b"\x0a\x05label" + b"\x12\x05" + b"\x1a\x03\x08\xac\x02"  # Int64List with a bare varint 300
    image_entry = b"\x0a\x09image_raw" + b"\x12\x04" + b"\x0a\x02\x0a\x00"
    entries = b"\x0a\x0e" + label_entry + b"\x0a\x11" + image_entry
    unknown = b"\x15abcd" + b"\x19abcdefgh" + b"\x20\x07"  # 32 bits, 64 bits, varint
    assert decode_example(unknown + b"\x0a" + bytes([len(entries)]) + entries) == (b"", 300)


@pytest.mark.parametrize("size", [0, 1, 79, 80, 90, 91, 100, 127, 128, 129, 5000, 16_355, 16_384, 2_097_152])
@pytest.mark.parametrize("label", [0, 127, 128, 16_383, 16_384, 2_097_152, 2**40, -1])
def test_examples_of_every_size_are_read_back(size, label):
    """Larger numbers take more bytes: the lengths before the image, and the label after it."""
    for fill in (b"\x0a", b"\xff"):
        image = fill * size
        assert decode_example(encode_example(image, label)) == (image, label)


@pytest.mark.tensorflow
def test_changed_examples_are_read_as_in_tensorflow_or_refused():
    """If an Example differs from what `encode_example` writes, it is read as by TensorFlow, or refused."""
    import tensorflow as tf

    example = encode_example(b"\x05label\x12" * 12, 300)
    num_read = 0
    for position in [*range(60), *range(len(example) - 30, len(example))]:
        for bit in range(8):
            changed = bytearray(example)
            changed[position] ^= 1 << bit
            try:
                image, label = decode_example(bytes(changed))
            except ValueError:
                continue
            num_read += 1
            features = tf.train.Example.FromString(bytes(changed)).features.feature
            assert list(features["image_raw"].bytes_list.value) == [image]
            assert list(features["label"].int64_list.value) == [label]
    assert num_read > 100


def test_wrong_examples_are_errors():
    example = encode_example(b"image", 3)
    for end in range(1, len(example)):
        with pytest.raises(ValueError, match="Example"):
            decode_example(example[:end])
    with pytest.raises(ValueError, match=r"'image_raw': .* 0$"):
        decode_example(b"")
    with pytest.raises(ValueError, match=r"'label': .* 0$"):
        decode_example(example.replace(b"label", b"lapel"))
    with pytest.raises(ValueError, match="wire type"):
        decode_example(b"\x0b\x0c")
    with pytest.raises(ValueError, match="end of a number"):
        decode_example(b"\xff" * 20)


@pytest.mark.tensorflow
def test_tensorflow_reads_the_file(records):
    import tensorflow as tf

    path, _, data = records
    assert list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator()) == data


@pytest.mark.tensorflow
def test_file_of_tensorflow_is_read(tmp_path):
    import tensorflow as tf

    data = [b"", b"a", b"b" * 1000]
    with tf.io.TFRecordWriter(str(tmp_path / "file")) as writer:
        for record in data:
            writer.write(record)
    file = TFRecordFile(tmp_path / "file")
    assert [file.read(int(offset), int(length)) for offset, length in zip(*file.scan(), strict=True)] == data


def test_scan_and_read(records):
    path, offsets, data = records
    file = TFRecordFile(path)
    scanned = file.scan()
    assert scanned[0].tolist() == offsets
    assert scanned[1].tolist() == [len(record) for record in data]
    copy = pickle.loads(pickle.dumps(file))
    assert [copy.read(offset, len(record)) for offset, record in zip(offsets, data, strict=True)] == data


def test_every_flipped_bit_is_found(records):
    path, offsets, data = records
    sound = path.read_bytes()
    offset, length = offsets[3], len(data[3])
    for position in range(offset, offset + length + RECORD_OVERHEAD):
        damaged = bytearray(sound)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        file = TFRecordFile(path)
        with pytest.raises(ValueError, match=f"records.tfrecord: record at byte {offset}: "):
            file.read(offset, length)
        assert file.read(offsets[4], len(data[4])) == data[4]


def test_wrong_offset_or_length_is_an_error(records):
    path, offsets, data = records
    file = TFRecordFile(path)
    with pytest.raises(ValueError, match=r" 4999 .* 5000"):
        file.read(offsets[2], 4999)
    with pytest.raises(ValueError, match="record at byte 1"):
        file.read(1, 0)
    with pytest.raises(ValueError, match=f"byte {offsets[4]}: "):
        file.read(offsets[4], len(data[4]) + 1)
    with pytest.raises(ValueError, match=r"byte 1000000: .* 0 "):
        file.read(10**6, 10)


@pytest.mark.parametrize(("offset", "length"), [(2**63, 5), (2**64 - 1, 5), (0, 2**32 - 1), (2**40, 5)])
def test_positions_beyond_the_file_are_errors(records, offset, length):
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=f"record at byte {offset}: "):
            TFRecordFile(records[0]).read(offset, length)
        assert tracemalloc.get_traced_memory()[1] < 10**6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("cut", [1, 4, 100, 300 + 5, 300 + 15])
def test_scan_of_a_cut_file_names_the_place(records, cut):
    path, offsets, _ = records
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(ValueError, match=f"record at byte {offsets[-1]}: "):
        TFRecordFile(path).scan()


def test_empty_file_has_no_records(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    file = TFRecordFile(tmp_path / "file")
    assert [part.tolist() for part in file.scan()] == [[], []]
