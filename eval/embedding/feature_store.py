"""Features on disk: computed once, and never twice for being interrupted."""

import contextlib
import hashlib
import json
import logging
import os
import time
from pathlib import Path
from typing import NamedTuple

import google_crc32c
import numpy as np

from common.files import FileLock, write_json

logger = logging.getLogger(__name__)

FEATURES_NAME = "features.f32"
PROGRESS_NAME = "progress.json"
STORE_NAME = "store.json"
LOCK_NAME = "lock"
VERSION = 1

_DTYPE = np.dtype("<f4")
_FLUSH_SECONDS = 5.0
_BLOCK = 1 << 24  # bytes that a check reads at a time


class _Progress(NamedTuple):
    """How many rows count, and what they must be."""

    num_done: int = 0
    dim: int | None = None
    crc32c: int = 0


def has_rows(root, inputs):
    """Whether a `FeatureStore` of these inputs has been begun. Makes no folder."""
    return (_folder(root, inputs) / PROGRESS_NAME).is_file()


class FeatureStore:
    """The features of one model and one set of images: a row each, in order, in a folder of their own.

    The folder is named after what the features follow from, so whatever changes has its own. In it are

    - `store.json`: that, in full;
    - `features.f32`: the rows, float32, little-endian, and nothing else;
    - `progress.json`: how many rows count, of how many numbers, and their CRC32C.

    The rows are on disk before `progress.json` is replaced to count them. So after a kill or a power
    cut at any moment it tells of rows that are there; rows past them do not count and are
    overwritten. Opening reads all rows that count and compares the CRC32C; if it differs, the store
    warns and starts over.

    While rows are missing, one process has the store to itself; a complete one is for any number to read.
    A context manager: closing flushes.

    Args:
        root: str or Path of a folder, for any number of stores; made if it is not there.
        inputs: dict that JSON can hold, all that the features follow from: digests of model and data, the
            size of the images, and what was done to them.
        num_rows: int > 0.

    Raises:
        ValueError: a folder of this name with other inputs, or another number of rows.
        BlockingIOError: another process fills this store.

    Attributes:
        folder: Path.
        inputs: dict, as it is read back from JSON.
        num_rows: int.
    """

    def __init__(self, root, inputs, num_rows):
        if num_rows < 1:
            raise ValueError(f"expected at least one row, received {num_rows}")
        self.folder = _folder(root, inputs)
        self.inputs = json.loads(_canonical(inputs))
        self.num_rows = num_rows
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self.folder / LOCK_NAME)
        self._file = None
        with contextlib.ExitStack() as on_error:
            on_error.callback(self.close)
            self._open()
            on_error.pop_all()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    @property
    def num_done(self):
        """int, rows that are there, those not flushed yet included."""
        return self._appended.num_done

    @property
    def dim(self):
        """int, numbers per row; `None` before the first row."""
        return self._appended.dim

    @property
    def is_complete(self):
        """Whether all rows are there, and on disk."""
        return self._flushed.num_done == self.num_rows

    @property
    def features(self):
        """All rows, memory-mapped: read-only float32, shape `(num_rows, dim)`.

        Raises:
            ValueError: some are missing.
        """
        if not self.is_complete:
            raise ValueError(f"{self.folder}: expected {self.num_rows} rows, received {self.num_done} so far")
        return np.memmap(self.folder / FEATURES_NAME, _DTYPE, "r", shape=(self.num_rows, self.dim))

    def append(self, rows):
        """Adds the next rows; flushes if they are the last, or five seconds after it last did.

        Only whole appends are flushed: after a kill the store goes on where one of them began.

        Args:
            rows: float32 `(n, dim)`, not more than are missing.

        Raises:
            ValueError: another array, or rows that are not finite; nothing is stored then.
            OSError: no space on disk. What was there before stays, and the same rows may be
                appended again.
        """
        rows = np.asarray(rows)
        self._check_rows(rows)
        content = np.ascontiguousarray(rows, _DTYPE).tobytes()
        self._write(content, self.num_done * rows.shape[1] * _DTYPE.itemsize)
        crc = google_crc32c.extend(self._appended.crc32c, content)
        # All at once: Ctrl-C may come between two assignments.
        self._appended = _Progress(self.num_done + len(rows), rows.shape[1], crc)
        if self.num_done == self.num_rows or time.monotonic() - self._flushed_at >= _FLUSH_SECONDS:
            self.flush()

    def flush(self):
        """Makes what was appended last: once this returns it is on disk, and counts.

        Raises:
            OSError: no space on disk.
        """
        if self._appended != self._flushed:
            os.fsync(self._file.fileno())
            write_json(self.folder / PROGRESS_NAME, self._appended._asdict())
            self._flushed = self._appended
            if self.is_complete:
                self._share()
        self._flushed_at = time.monotonic()

    def close(self):
        """Flushes, and lets other processes in. Arrays from `features` stay."""
        try:
            if self._file is not None and not self._file.closed:
                self.flush()
                self._file.close()
        finally:
            self._lock.close()

    def _open(self):
        peek = self._read_progress()
        is_complete = peek is not None and peek.num_done == self.num_rows
        self._lock.acquire(shared=is_complete)
        self._compare_inputs()
        progress = self._read_progress()  # again, now that nobody changes it
        if progress is None or not self._is_sound(progress):
            logger.warning("%s: not the features that were stored: they are computed anew", self.folder)
            self._lock.acquire()
            # A new file: another process may have mapped the old one.
            (self.folder / FEATURES_NAME).unlink(missing_ok=True)
            progress = _Progress()
        self._appended = self._flushed = progress
        self._flushed_at = time.monotonic()
        if self.is_complete:
            self._share()
            return
        for leftover in self.folder.glob("*.tmp"):  # of killed processes
            leftover.unlink()
        path = self.folder / FEATURES_NAME
        path.touch()
        self._file = path.open("r+b", buffering=0)
        self._file.truncate(progress.num_done * (progress.dim or 0) * _DTYPE.itemsize)

    def _share(self):
        """From here on nothing changes. Waits while another process, which opened it before, checks it."""
        self._lock.acquire(shared=True, wait=True)

    def _compare_inputs(self):
        path = self.folder / STORE_NAME
        expected = {"version": VERSION, "num_rows": self.num_rows, "inputs": self.inputs}
        if not path.exists():
            write_json(path, expected)
            return
        try:
            received = json.loads(path.read_bytes())
        except ValueError as error:
            received = error
        if received != expected:
            raise ValueError(f"{path}: expected {expected}, received {received}")

    def _read_progress(self):
        """`_Progress`, or `None` if it cannot be read."""
        try:
            progress = _Progress(**json.loads((self.folder / PROGRESS_NAME).read_bytes()))
            are_numbers = all(isinstance(value, int) for value in progress)
            is_valid = are_numbers and progress.num_done > 0 and progress.dim > 0
        except FileNotFoundError:
            return _Progress()
        except (ValueError, TypeError):
            return None
        return progress if is_valid else None

    def _is_sound(self, progress):
        """Reads all rows that count."""
        if not progress.num_done:
            return True
        crc, num_missing = 0, progress.num_done * progress.dim * _DTYPE.itemsize
        try:
            with (self.folder / FEATURES_NAME).open("rb") as file:
                while num_missing and (block := file.read(min(num_missing, _BLOCK))):
                    crc = google_crc32c.extend(crc, block)
                    num_missing -= len(block)
        except FileNotFoundError:
            return False
        return crc == progress.crc32c

    def _check_rows(self, rows):
        is_2d = rows.ndim == 2 and rows.shape[1] > 0
        if not is_2d or rows.dtype != np.float32 or self.dim not in (None, rows.shape[1]):
            expected = f"float32 of shape (n, {self.dim or 'dim'})"
            raise ValueError(
                f"{self.folder}: expected {expected}, received {rows.dtype} of shape {rows.shape}"
            )
        num_missing = self.num_rows - self.num_done
        if len(rows) > num_missing:
            raise ValueError(f"{self.folder}: expected at most {num_missing} more rows, received {len(rows)}")
        is_finite = np.isfinite(rows).all(axis=1)
        if not is_finite.all():
            number = self.num_done + int(np.argmin(is_finite))
            raise ValueError(
                f"{self.folder}: row {number}: expected finite features, received NaN or infinity"
            )

    def _write(self, content, offset):
        """Writes at a place of its own, so that a write that failed halfway can be repeated."""
        content = memoryview(content)
        while content:
            written = os.pwrite(self._file.fileno(), content, offset)
            content, offset = content[written:], offset + written


def _canonical(inputs):
    return json.dumps(inputs, sort_keys=True, allow_nan=False)


def _folder(root, inputs):
    return Path(root) / hashlib.sha256(_canonical(inputs).encode()).hexdigest()[:16]
