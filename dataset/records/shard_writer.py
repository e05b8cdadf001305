"""Writes shards of checked images, in the worker processes of a conversion."""

import array
import dataclasses
import functools
import hashlib
import json
import mmap
import os
import pickle
from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np

from common.files import atomic_file
from common.processes import exit_with_parent
from dataset.images import check_image
from dataset.records.manifest import RECORD_DTYPE, Shard
from dataset.records.tfrecord import RECORD_OVERHEAD, encode_record
from dataset.sources import Source

WORK_FOLDER = "work"  # inside the folder of an unfinished conversion
MAX_LISTED_MISMATCHES = 1000

_CHUNK = 64  # images; small enough for a steady progress bar, a quick stop and the processor's cache
_WRITE_BACK = 32 << 20  # bytes after which a shard is flushed to disk


@dataclasses.dataclass(frozen=True)
class ShardReport:
    """Result of writing one shard. List entries are `(index, description, reason)`."""

    shard: Shard
    bad: list[tuple[int, str, str]]
    num_label_mismatches: int
    label_mismatches: list[tuple[int, str, str]]


@dataclasses.dataclass
class ShardWriter:
    """Writes complete shards, each with a report.

    Args:
        source: the images.
        folder: folder of the shards. Reports are written to its `WORK_FOLDER`.
        image_size: `(height, width)` that every image must have.
        verify: `"full"` or `"header"`, see `check_image`.
        done: shared counter of the images that all workers have read.
        stop: when it is set, `write` raises `CancelledError`.
    """

    source: Source
    folder: Path
    image_size: tuple[int, int]
    verify: str
    done: Synchronized
    stop: Event

    def write(self, name: str, indices: np.ndarray, labels: np.ndarray) -> None:
        """Writes one shard, and then its report, which marks the shard as finished.

        Args:
            name: file name of the shard.
            indices: int `(num_images,)`, indices of the shard's images in the source, in order.
            labels: int `(num_images,)`, identities of these images.

        Raises:
            CancelledError: `stop` was set.
            OSError: the disk is full or fails.
        """
        lengths, stored_labels = array.array("q"), array.array("q")
        bad, label_mismatches, num_label_mismatches = [], [], 0
        sha256 = hashlib.sha256()
        with atomic_file(self.folder / name) as file, _WriteBack(file) as write_back:
            for chunk in self._chunks(indices, labels):
                parts = []
                for index, label in chunk:
                    try:
                        image, own_label = self.source.read(index)
                        check_image(image, self.image_size, self.verify)
                    except ValueError as error:
                        bad.append((index, self.source.describe(index), str(error)))
                        continue
                    if own_label is not None and own_label != label:
                        num_label_mismatches += 1
                        if num_label_mismatches <= MAX_LISTED_MISMATCHES:
                            reason = f"expected its own label to be {label}, received {own_label:g}"
                            label_mismatches.append((index, self.source.describe(index), reason))
                    record, length = encode_record(image, label)
                    parts += record
                    lengths.append(length)
                    stored_labels.append(label)
                # Hashing and writing record by record would take twice as long.
                joined = b"".join(parts)
                sha256.update(joined)
                write_back.add(file.write(joined))
        records = np.empty(len(lengths), RECORD_DTYPE)
        records["length"], records["label"] = lengths, stored_labels
        ends = np.cumsum(np.asarray(lengths) + RECORD_OVERHEAD)
        records["offset"] = ends - records["length"] - RECORD_OVERHEAD
        num_bytes = int(ends[-1]) if len(ends) else 0
        shard = Shard(name, len(records), num_bytes, sha256.hexdigest())
        report = ShardReport(shard, bad, num_label_mismatches, label_mismatches)
        with atomic_file(_report_path(self.folder, name)) as file:
            np.savez(file, report=json.dumps(dataclasses.asdict(report)), records=records)

    def _chunks(self, indices, labels):
        """Yields iterators of `(index, label)`. Between them it reports progress and checks `stop`."""
        for start in range(0, len(indices), _CHUNK):
            if self.stop.is_set():
                raise CancelledError
            chunk = indices[start : start + _CHUNK].tolist()
            yield zip(chunk, labels[start : start + _CHUNK].tolist(), strict=True)
            with self.done.get_lock():
                self.done.value += len(chunk)


class _WriteBack:
    """Flushes a file to disk in a thread while it is being written, so that closing it is fast."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._thread = ThreadPoolExecutor(1)
        self._pending = self._thread.submit(lambda: None)
        self._num_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, *error: object) -> None:
        self._thread.shutdown()
        if kind is None:
            # The system reports a failed write only once: the next `fsync` would succeed.
            self._pending.result()

    def add(self, num_bytes: int) -> None:
        """Counts written bytes, and flushes once there are enough. Raises the error of an earlier flush."""
        self._num_bytes += num_bytes
        if self._num_bytes >= _WRITE_BACK and self._pending.done():
            self._pending.result()
            self._num_bytes = 0
            self._file.flush()
            self._pending = self._thread.submit(os.fdatasync, self._file.fileno())


def read_report(folder: Path, name: str) -> ShardReport | None:
    """Returns the report of a shard, or `None` if the shard is not finished."""
    path, shard_path = _report_path(folder, name), folder / name
    if not path.is_file() or not shard_path.is_file():
        return None
    with np.load(path) as arrays:
        values = json.loads(str(arrays["report"]))
    report = ShardReport(**{**values, "shard": Shard(**values["shard"])})
    return report if shard_path.stat().st_size == report.shard.num_bytes else None


def read_records(folder: Path, name: str) -> np.ndarray:
    """Returns the index rows of a finished shard, `(num_images,)` of `RECORD_DTYPE`."""
    with np.load(_report_path(folder, name)) as arrays:
        return arrays["records"]


def share(source: Source, path: Path) -> Callable[[], Source]:
    """Prepares copies of `source` for workers. The copies share the memory of its arrays.

    The arrays of ten million images take hundreds of megabytes. They are written to a file that all workers
    map into memory. The rest of the source is pickled.

    Args:
        source: picklable source that holds its arrays as NumPy arrays.
        path: file to write.

    Returns:
        Picklable function that returns a copy of the source.
    """
    buffers = []
    pickled = pickle.dumps(source, protocol=5, buffer_callback=buffers.append)
    with path.open("wb") as file:
        lengths = [file.write(buffer.raw()) for buffer in buffers]
    return functools.partial(_load_shared, pickled, path, lengths)


def start_worker(load_source: Callable[[], Source], *settings) -> None:
    """Prepares a worker process.

    Args:
        load_source: function that `share` returned.
        *settings: the arguments of `ShardWriter` after the source.
    """
    global _writer
    exit_with_parent()
    _writer = ShardWriter(load_source(), *settings)


def write_shard(name: str, indices: np.ndarray, labels: np.ndarray) -> None:
    """Writes a shard with the `ShardWriter` of this worker."""
    _writer.write(name, indices, labels)


_writer: ShardWriter  # one per process, set by `start_worker`


def _load_shared(pickled, path, lengths):
    with path.open("rb") as file:
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    buffers = [data[end - length : end] for end, length in zip(np.cumsum(lengths), lengths, strict=True)]
    return pickle.loads(pickled, buffers=buffers)  # noqa: S301 The parent process wrote it.


def _report_path(folder, name):
    return folder / WORK_FOLDER / f"{name}.npz"
