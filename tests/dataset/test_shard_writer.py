import errno
import multiprocessing
import os
import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait

import numpy as np
import pytest

from dataset.records.shard_writer import ShardWriter, share
from dataset.sources.tfrecords import TFRecordSource
from tests.dataset.samples import encode_example, write_record


@pytest.fixture
def source(tmp_path):
    with (tmp_path / "tran.tfrecords").open("wb") as file:
        for label in range(100):
            write_record(file, encode_example(b"no image", label))
    return TFRecordSource(tmp_path / "tran.tfrecords")


def test_a_stopped_writer_leaves_no_files(source, tmp_path):
    folder = tmp_path / "records"
    folder.mkdir()
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    stop.set()
    writer = ShardWriter(source, folder, (112, 112), "full", context.Value("Q"), stop)
    with pytest.raises(CancelledError):
        writer.write("shard", np.arange(100), source.labels)
    assert not list(folder.iterdir())


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_a_disk_failure_during_writing_is_an_error(failing, source, tmp_path, monkeypatch):
    """The error is raised even if the last flush fails. The system reports a failed write only once."""
    calls = []

    def fdatasync(descriptor):
        calls.append(os.fstat(descriptor).st_size)
        if len(calls) == failing:
            raise OSError(errno.EIO, "the disk is broken")

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    monkeypatch.setattr("dataset.records.shard_writer._CHUNK", 40)
    monkeypatch.setattr("dataset.records.shard_writer._WRITE_BACK", 1)
    monkeypatch.setattr("dataset.records.shard_writer.ThreadPoolExecutor", Immediate)
    monkeypatch.setattr("dataset.records.shard_writer.check_image", lambda *_: None)
    (tmp_path / "records" / "work").mkdir(parents=True)
    value = multiprocessing.get_context("spawn").Value("Q")
    writer = ShardWriter(source, tmp_path / "records", (112, 112), "full", value, threading.Event())
    with pytest.raises(OSError, match="the disk is broken"):
        writer.write("shard", np.arange(100), source.labels)
    assert len(calls) == failing and sorted(set(calls)) == calls and calls[0] > 0
    assert [path.name for path in (tmp_path / "records").iterdir()] == ["work"]


class Immediate(ThreadPoolExecutor):
    """Waits for each task, so that no flush is skipped because the one before is unfinished."""

    def submit(self, *args):
        future = super().submit(*args)
        wait([future])
        return future


def test_a_shared_copy_reads_its_arrays_from_the_file(source, tmp_path):
    labels = source.labels
    copy = share(source, tmp_path / "shared")()
    assert not copy.labels.flags.owndata and not copy.labels.flags.writeable
    assert copy.labels.tolist() == labels.tolist()
    assert copy.read(7) == source.read(7)
    assert (tmp_path / "shared").stat().st_size == 3 * 8 * 100  # labels, offsets, lengths
