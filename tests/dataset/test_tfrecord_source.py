import os
import pickle

import pytest

from dataset.config import SourceConfig
from dataset.sources.tfrecords import TFRecordSource, fingerprint
from tests.dataset.samples import encode_example, write_record

RECORDS = [(b"first" * 9, 1), (b"second" * 9, 0), (b"third" * 9, 3)]


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "tran.tfrecords"
    with path.open("wb") as file:
        for image, label in RECORDS:
            write_record(file, encode_example(image, label))
    return path


def test_records_and_labels_are_read(path, caplog):
    source = TFRecordSource(path)
    assert source.num_images == 3
    assert source.num_identities == 4
    assert "1 of 4 identities have no image" in caplog.text
    assert source.labels.tolist() == [1, 0, 3]
    assert source.image_size is None
    assert source.num_bytes == path.stat().st_size
    assert source.describe(0) == f"{path}: record 0 at byte 0"
    copy = pickle.loads(pickle.dumps(source))
    assert [copy.read(i) for i in range(3)] == [(image, None) for image, _ in RECORDS]


@pytest.mark.tensorflow
def test_a_file_of_tensorflow_is_read(tmp_path):
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(tmp_path / "tran.tfrecords")) as writer:
        for image, label in RECORDS:
            feature = {
                "image_raw": tf.train.Feature(bytes_list=tf.train.BytesList(value=[image])),
                "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
            }
            writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
    source = TFRecordSource(tmp_path / "tran.tfrecords")
    assert [(source.read(i)[0], label) for i, label in enumerate(source.labels)] == RECORDS


def test_a_damaged_record_is_an_error_when_read(path):
    data = bytearray(path.read_bytes())
    data[30] ^= 1
    path.write_bytes(data)
    source = TFRecordSource(path)
    assert source.labels.tolist() == [0, 0, 3]
    with pytest.raises(ValueError, match="record at byte 0: "):
        source.read(0)
    assert source.read(2) == (RECORDS[2][0], None)


def test_a_cut_off_file_is_an_error(path):
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="record at byte "):
        TFRecordSource(path).num_images  # noqa: B018


def test_a_negative_label_is_an_error(path):
    with path.open("ab") as file:
        write_record(file, encode_example(b"", -1))
    with pytest.raises(ValueError, match="received -1"):
        TFRecordSource(path).num_identities  # noqa: B018


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: "):
        TFRecordSource(tmp_path / "nowhere")


def test_the_fingerprint_depends_on_the_file(path):
    config = SourceConfig("old", "tfrecord", path)
    first = fingerprint(config)
    assert fingerprint(config) == first
    os.utime(path, (1, 1))
    assert fingerprint(config) != first
