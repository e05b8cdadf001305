"""Stores features on disk, so that an interrupted computation can continue."""

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

import google_crc32c
import numpy as np

from common.files import FileLock, write_json
from common.typed_json import read_json
from eval.embedding.engines import Engine
from eval.scoring.evaluation_run import InputFrames

logger = logging.getLogger(__name__)

VERSION = 1

_DTYPE = np.dtype("<f4")
_FLUSH_SECONDS = 5.0
_BLOCK = 1 << 24  # bytes that a check reads at a time


class _Progress(NamedTuple):
    """The committed rows: their number, their length and the CRC32C of all of them."""

    num_done: int = 0
    dim: int = 0
    crc32c: int = 0

    @property
    def num_bytes(self) -> int:
        return self.num_done * self.dim * _DTYPE.itemsize


def inputs_of_frames(model_sha256: str, frames: InputFrames, engine: Engine) -> dict[str, Any]:
    """Returns everything that determines the features of frames. Paths may change and are left out."""
    described = {name: value for name, value in vars(frames).items() if name != "path"}
    return {"model": model_sha256, "frames": described, "engine": dataclasses.asdict(engine)}


class FeatureStore(contextlib.AbstractContextManager["FeatureStore"]):
    """The features of one model and one set of images, one row for each image in order, in one folder.

    The name of the folder is a hash of everything that determines the features, so a change of any input
    leads to another folder. The folder contains `store.json` with these inputs, `features.f32` with the rows
    (float32, little-endian, and nothing else), and `progress.json` with the number of committed rows, their
    length and their CRC32C.

    Rows are written to disk before `progress.json` commits them. So if the process is killed or the power
    fails, no committed row is lost. Rows that are not committed are overwritten. Opening a store reads
    the committed rows and compares the CRC32C. If it differs, the store warns and starts over.

    One process fills a store. Any number of processes can read a complete one. Leaving the context flushes.

    Args:
        root: folder for any number of stores. It is created if needed.
        inputs: everything that determines the features, such as digests of model and images, as JSON values.
        num_rows: number of rows of the complete store.

    Raises:
        ValueError: the folder of this name has other inputs or another number of rows.
        BlockingIOError: another process is filling this store.
    """

    def __init__(self, root: Path, inputs: dict[str, Any], num_rows: int) -> None:
        canonical = json.dumps(inputs, sort_keys=True, allow_nan=False)
        self.folder = root / hashlib.sha256(canonical.encode()).hexdigest()[:16]
        self.num_rows = num_rows
        self.folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as resources:
            self._features = self.folder / "features.f32"
            self._progress = self.folder / "progress.json"
            self._lock = resources.enter_context(FileLock(self.folder / "lock"))
            self._appended = self._flushed = self._lock_and_check(json.loads(canonical))
            self._flushed_at = time.monotonic()
            self._file = resources.enter_context(self._open_features())
            self._resources = resources.pop_all()

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def num_done(self) -> int:
        """Number of appended rows, including those that are not flushed yet."""
        return self._appended.num_done

    @property
    def is_complete(self) -> bool:
        """True if all rows are on disk."""
        return self._flushed.num_done == self.num_rows

    @property
    def features(self) -> np.ndarray:
        """All rows of the complete store, memory-mapped and read-only: float32 `(num_rows, dim)`.

        Raises:
            ValueError: the store is not complete.
        """
        if not self.is_complete:
            raise ValueError(f"{self.folder}: expected {self.num_rows} rows, received {self.num_done} so far")
        return np.memmap(self._features, _DTYPE, "r", shape=(self.num_rows, self._flushed.dim))

    def append(self, rows: np.ndarray) -> None:
        """Adds rows, float32 `(n, dim)`. Flushes when the store is complete, or every five seconds.

        Only whole appends are flushed, so after a kill the store continues at the start of one.

        Raises:
            ValueError: the array has another shape or type. Nothing is stored.
            OSError: the disk is full. Earlier rows stay, and you can append the same rows again.
        """
        done, num_missing = self._appended, self.num_rows - self.num_done
        fits = rows.ndim == 2 and rows.dtype == np.float32 and len(rows) <= num_missing
        if not fits or rows.shape[1] == 0 or done.dim not in (0, rows.shape[1]):
            raise ValueError(
                f"{self.folder}: expected float32 of shape (n, {done.dim or 'dim'}) with n up to "
                f"{num_missing}, received {rows.dtype} of shape {rows.shape}"
            )
        content = np.ascontiguousarray(rows, _DTYPE).tobytes()
        self._write(content, done.num_bytes)
        crc = google_crc32c.extend(done.crc32c, content)
        # One assignment, because Ctrl-C may arrive between two.
        self._appended = _Progress(done.num_done + len(rows), rows.shape[1], crc)
        if self.num_done == self.num_rows or time.monotonic() - self._flushed_at >= _FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Commits all appended rows. They are on disk once this returns."""
        if self._appended != self._flushed:
            os.fsync(self._file.fileno())
            write_json(self._progress, self._appended._asdict())
            self._flushed = self._appended
            if self.is_complete:
                self._lock.acquire(shared=True, wait=True)
        self._flushed_at = time.monotonic()

    def close(self) -> None:
        """Flushes and releases the lock. Arrays from `features` stay valid."""
        with self._resources:
            if not self._file.closed:
                self.flush()

    def _lock_and_check(self, inputs):
        """Takes the lock, shared if the store is complete, and returns the checked progress."""
        progress = self._read_progress()
        self._lock.acquire(shared=progress is not None and progress.num_done == self.num_rows)
        self._compare_inputs({"version": VERSION, "num_rows": self.num_rows, "inputs": inputs})
        # Another process may have changed it before this process got the lock.
        progress = self._read_progress()
        if progress is None or not self._is_sound(progress):
            logger.warning("%s: the stored features are damaged. Computing them again.", self.folder)
            self._lock.acquire()
            # Start a new file, because another process may have mapped the old one.
            self._features.unlink(missing_ok=True)
            progress = _Progress()
        return progress

    def _open_features(self):
        if self.is_complete:  # It no longer changes, so other processes can read it, too.
            self._lock.acquire(shared=True, wait=True)
            return self._features.open("rb")
        for leftover in self.folder.glob("*.tmp"):  # left by a process that was killed
            leftover.unlink()
        self._features.touch()
        file = self._features.open("r+b", buffering=0)
        file.truncate(self._flushed.num_bytes)
        return file

    def _compare_inputs(self, expected):
        path = self.folder / "store.json"
        if not path.exists():
            write_json(path, expected)
        received = read_json(path)
        if received != expected:
            wanted, found = map(_flattened, (expected, received))
            differences = ", ".join(
                f"{name} is {found.get(name)!r} instead of {value!r}"
                for name, value in wanted.items()
                if value != found.get(name)
            )
            advice = f"Delete the folder {self.folder} to compute the features again."
            raise ValueError(f"{path}: belongs to other features: {differences or received}. {advice}")

    def _read_progress(self):
        """Returns a `_Progress`, or `None` if it cannot be read."""
        try:
            progress = _Progress(**read_json(self._progress))
        except FileNotFoundError:
            return _Progress()
        except (ValueError, TypeError):
            return None
        are_numbers = all(isinstance(value, int) for value in progress)
        is_possible = are_numbers and 0 < progress.num_done <= self.num_rows and progress.dim > 0
        return progress if is_possible else None

    def _is_sound(self, progress):
        """Reads all committed rows and compares their CRC32C."""
        crc, num_missing = 0, progress.num_bytes
        size = self._features.stat().st_size if self._features.exists() else 0
        if size < num_missing:
            return False
        if not num_missing:
            return True
        with self._features.open("rb") as file:
            while num_missing and (block := file.read(min(num_missing, _BLOCK))):
                crc = google_crc32c.extend(crc, block)
                num_missing -= len(block)
        return crc == progress.crc32c

    def _write(self, content, offset):
        """Writes at a fixed offset, so that a write that failed halfway can be repeated."""
        content = memoryview(content)
        while content:
            written = os.pwrite(self._file.fileno(), content, offset)
            content, offset = content[written:], offset + written


def _flattened(entry):
    """Returns `store.json` as one flat dict, which is empty if the file is damaged."""
    if not isinstance(entry, dict):
        return {}
    inputs = entry.get("inputs")
    return {**entry, **(inputs if isinstance(inputs, dict) else {}), "inputs": None}
