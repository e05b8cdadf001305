import multiprocessing

import numpy as np
import pytest

from dataset.shard_writer import ConversionStopped, ShardWriter, share
from dataset.tfrecord import encode_example, write_record
from dataset.tfrecord_source import TFRecordSource


@pytest.fixture
def source(tmp_path):
    with (tmp_path / "tran.tfrecords").open("wb") as file:
        for label in range(100):
            write_record(file, encode_example(b"no image", label))
    return TFRecordSource(tmp_path / "tran.tfrecords")


def test_a_stopped_writer_leaves_nothing(source, tmp_path):
    folder = tmp_path / "records"
    folder.mkdir()
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    stop.set()
    writer = ShardWriter(source, folder, (112, 112), "full", context.Value("Q"), stop)
    with pytest.raises(ConversionStopped):
        writer.write("shard", np.arange(100), source.labels)
    assert not list(folder.iterdir())


def test_a_shared_copy_reads_its_arrays_from_the_file(source, tmp_path):
    labels = source.labels
    copy = share(source, tmp_path / "shared")()
    assert not copy.labels.flags.owndata and not copy.labels.flags.writeable
    assert copy.labels.tolist() == labels.tolist()
    assert copy.read(7) == source.read(7)
    assert (tmp_path / "shared").stat().st_size == 3 * 8 * 100  # labels, offsets, lengths
