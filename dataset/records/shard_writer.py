"""The worker side of a conversion: one shard of checked images at a time."""

import array
import dataclasses
import functools
import hashlib
import json
import mmap
import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from common.files import atomic_file
from common.processes import end_with_parent
from dataset.images import check_image
from dataset.records.manifest import RECORD_DTYPE, Shard
from dataset.records.tfrecord import RECORD_OVERHEAD, encode_record

WORK_FOLDER = "work"  # inside a conversion that is not finished
MAX_LISTED_MISMATCHES = 1000

_CHUNK = 64  # images; a steady progress bar, a quick stop, and few enough bytes for the processor's cache
_WRITE_BACK = 32 << 20  # bytes between two times that a shard is sent to the disk


class ConversionStopped(Exception):
    """Raised in a worker that was told to stop; the shard it was at is gone."""


@dataclasses.dataclass(frozen=True)
class ShardReport:
    """What became of the images of one shard. Lists hold `(index, description, reason)`."""

    shard: Shard
    bad: list
    num_label_mismatches: int
    label_mismatches: list


class ShardWriter:
    """Writes shards, each with its report: complete ones or none.

    Args:
        source: the images, for instance an `ImageList`.
        folder: Path; shards go there, reports into its `WORK_FOLDER`.
        image_size: `(height, width)` that every image must have.
        verify: `"full"` or `"header"`, see `check_image`.
        done: shared int, the images that all workers are through with; added to.
        stop: event; when it is set, writing raises `ConversionStopped`.
    """

    def __init__(self, source, folder, image_size, verify, done, stop):
        self.source = source
        self.folder = folder
        self.image_size = image_size
        self.verify = verify
        self.done = done
        self.stop = stop

    def write(self, name, indices, labels):
        """Writes one shard and then its report, which makes the shard a finished one.

        Args:
            name: str, of the shard's file.
            indices: int array, the images of this shard in their order.
            labels: int array of the same shape, their identities.
        """
        lengths, stored_labels = array.array("q"), array.array("q")
        bad, label_mismatches = [], []
        num_label_mismatches = 0
        with atomic_file(self.folder / name) as file, _WriteBack(file) as write_back:
            file = HashedFile(file)
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
                # One by one, hashing and writing cost as much again as what they do.
                write_back.after(file.write(b"".join(parts)))
        records = np.empty(len(lengths), RECORD_DTYPE)
        records["length"], records["label"] = lengths, stored_labels
        ends = np.cumsum(np.asarray(lengths) + RECORD_OVERHEAD)
        records["offset"] = ends - records["length"] - RECORD_OVERHEAD
        num_bytes = int(ends[-1]) if len(ends) else 0
        shard = Shard(name, len(records), num_bytes, file.sha256.hexdigest())
        report = ShardReport(shard, bad, num_label_mismatches, label_mismatches)
        with atomic_file(_report_path(self.folder, name)) as file:
            np.savez(file, report=json.dumps(dataclasses.asdict(report)), records=records)

    def _chunks(self, indices, labels):
        """Yields iterators of `(index, label)`; between them it tells the parent of them, and obeys it."""
        for start in range(0, len(indices), _CHUNK):
            if self.stop.is_set():
                raise ConversionStopped
            chunk = indices[start : start + _CHUNK].tolist()
            yield zip(chunk, labels[start : start + _CHUNK].tolist(), strict=True)
            with self.done.get_lock():
                self.done.value += len(chunk)


class HashedFile:
    """Passes writes on to a binary file and keeps their SHA-256."""

    def __init__(self, file):
        self.sha256 = hashlib.sha256()
        self._file = file

    def write(self, data):
        """As the file's own."""
        self.sha256.update(data)
        return self._file.write(data)


class _WriteBack:
    """Sends a file to the disk while it is written, in a thread, so that its end need not wait for it all."""

    def __init__(self, file):
        self._file = file
        self._thread = ThreadPoolExecutor(1)
        self._pending = None
        self._num_bytes = 0

    def __enter__(self):
        return self

    def __exit__(self, kind, *error):
        self._thread.shutdown()
        if kind is None and self._pending is not None:
            # The system tells of a failure once: not to the `fsync` that follows.
            self._pending.result()

    def after(self, num_bytes):
        """Told of every write; raises what an earlier part met on the disk."""
        self._num_bytes += num_bytes
        if self._num_bytes >= _WRITE_BACK and (self._pending is None or self._pending.done()):
            if self._pending is not None:
                self._pending.result()
            self._num_bytes = 0
            self._file.flush()
            self._pending = self._thread.submit(os.fdatasync, self._file.fileno())


def read_report(folder, name):
    """The `ShardReport` of a finished shard, or `None` if it is not finished."""
    path, shard_path = _report_path(folder, name), folder / name
    if not path.is_file() or not shard_path.is_file():
        return None
    with np.load(path) as arrays:
        values = json.loads(str(arrays["report"]))
    report = ShardReport(**{**values, "shard": Shard(**values["shard"])})
    return report if shard_path.stat().st_size == report.shard.num_bytes else None


def read_records(folder, name):
    """The index rows of a finished shard."""
    with np.load(_report_path(folder, name)) as arrays:
        return arrays["records"]


def share(source, path):
    """Prepares a copy of `source` for every worker that costs no memory of its own.

    The arrays of ten million images are hundreds of megabytes. They go into a file, which all
    workers map; the rest is pickled.

    Args:
        source: picklable, with its arrays as NumPy arrays.
        path: Path, the file to write.

    Returns:
        A picklable function without arguments, which returns the copy.
    """
    buffers = []
    pickled = pickle.dumps(source, protocol=5, buffer_callback=buffers.append)
    with path.open("wb") as file:
        lengths = [file.write(buffer.raw()) for buffer in buffers]
    return functools.partial(_load_shared, pickled, path, lengths)


def start_worker(load_source, *settings):
    """Prepares a worker process; the arguments are those of `ShardWriter`, the source as of `share`."""
    global _writer
    end_with_parent()
    _writer = ShardWriter(load_source(), *settings)


def write_shard(name, indices, labels):
    """`ShardWriter.write` of this worker."""
    _writer.write(name, indices, labels)


_writer = None  # one per process, from `start_worker`


def _load_shared(pickled, path, lengths):
    with path.open("rb") as file:
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    buffers = [data[end - length : end] for end, length in zip(np.cumsum(lengths), lengths, strict=True)]
    return pickle.loads(pickled, buffers=buffers)  # noqa: S301 comes from the parent process


def _report_path(folder, name):
    return folder / WORK_FOLDER / f"{name}.npz"
