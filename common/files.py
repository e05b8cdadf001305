"""Helpers for files: atomic writes of files and folders, locks, checksums and readable sizes."""

import contextlib
import fcntl
import glob
import hashlib
import json
import os
import re
import shlex
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, Self

LOCK_NAME = ".lock"  # in a folder that a process is writing to
MAX_NAME = 255  # longest file name in bytes, on every common file system

_SYNC_THREADS = 16  # A file system commits concurrent syncs together.
_MAX_KEPT = 150  # longest part of a file's name, in bytes, that the names of its temporary files repeat
_OLD = 24 * 60 * 60.0  # seconds after which leftovers of another host are removed


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Opens a binary file that gets its name only once it is complete and on disk.

    Until then it is called `{name}.{host}-{process id}.tmp`, in the same folder, which is created if needed.
    An exception removes this temporary file. If the process is killed, it stays, and the code that manages
    the folder has to remove it.

    Args:
        path: file to write. An existing file is replaced. If it is a link, its target is replaced.
    """
    path = follow_links(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{_kept_name(path)}.{process_name()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def write_file(path: Path, content: bytes | str) -> None:
    """Writes a file with `atomic_file`. Text is encoded as UTF-8."""
    with atomic_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, values: Any) -> None:
    """Writes values as indented JSON with `atomic_file`."""
    write_file(path, json.dumps(values, indent=1) + "\n")


def sync(path: Path) -> None:
    """Waits until the content of a file, or the list of names in a folder, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Creates a folder that gets its name only once it is complete and on disk.

    Until then it is called `.{name}.{host}-{process id}.tmp`. An exception removes this temporary folder, and
    an existing folder at `path` stays unchanged. If the process is killed, the next call for the same path
    removes the temporary folder.

    Args:
        path: folder to write. An existing folder is replaced. If it is a link, its target is replaced.
    """
    path = follow_links(path)
    with _temporary_folder(path) as temporary:
        yield temporary
        with ThreadPoolExecutor(_SYNC_THREADS) as pool:
            list(pool.map(sync, [*temporary.rglob("*"), temporary]))
        replace_folder(temporary, path)


@contextlib.contextmanager
def atomic_files(path: Path) -> Iterator[Path]:
    """Writes a file and its companions, which get their names only once all are complete and on disk.

    Yields a path in the temporary folder `.{name}.{host}-{process id}.tmp`, next to `path`. Write the file
    there, and its companions next to it. At the end they move to the folder of `path`, the file itself last.
    An exception removes the temporary folder. If the process is killed, the next call for the same path
    removes it.

    Args:
        path: file to write. Existing files are replaced. If it is a link, its target is replaced.
    """
    path = follow_links(path)
    with _temporary_folder(path) as temporary:
        yield temporary / path.name
        files = sorted(temporary.iterdir(), key=lambda file: file.name == path.name)
        for file in files:
            sync(file)
        if len(files) > 1:  # The old file must never be found next to new companions.
            path.unlink(missing_ok=True)
        for file in files:
            file.replace(path.with_name(file.name))
    sync(path.parent)


@contextlib.contextmanager
def _temporary_folder(path: Path) -> Iterator[Path]:
    """Creates a hidden folder next to `path`, and removes it at the end if it is still there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path)
    temporary = _hidden(path, "tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def replace_folder(new: Path, path: Path) -> None:
    """Renames a complete folder to `path` and removes the old folder. A link at `path` stays."""
    path = follow_links(path)
    old = _hidden(path, "old")
    if path.exists():
        shutil.rmtree(old, ignore_errors=True)  # left by a killed process with the same id
        path.rename(old)
    new.rename(path)
    sync(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Removes a folder. If the process is killed meanwhile, no half-removed folder keeps this name.

    If `path` is a link, only the link is removed.
    """
    if path.is_symlink():
        return path.unlink()
    old = _hidden(path, "old")
    path.rename(old)
    shutil.rmtree(old)


def remove_leftovers(path: Path) -> None:
    """Removes temporary folders that killed processes left while writing, replacing or removing `path`.

    A process on another host may still be running, so its leftovers are removed only after a day.
    """
    path = follow_links(path)
    start = f".{_kept_name(path)}."
    for leftover in path.parent.glob(f"{glob.escape(start)}*"):
        owner, _, kind = leftover.name.removeprefix(start).partition(".")
        if kind in ("tmp", "old") and not _is_alive(owner, leftover):
            shutil.rmtree(leftover, ignore_errors=True)


def follow_links(path: Path) -> Path:
    """Returns the target of a link, which may not exist yet. Any other path is returned unchanged."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def cut_name(name: str, max_bytes: int = MAX_NAME) -> str:
    """Shortens a file name to at most `max_bytes` bytes without splitting a character."""
    encoded = os.fsencode(name)
    return name if len(encoded) <= max_bytes else encoded[:max_bytes].decode(errors="ignore")


def one_line(message: str) -> str:
    """Shortens a TensorFlow error to its first line, without the names of kernels and temporary files."""
    return re.sub(r"\{\{.*?\}\} (/.*; )?| \[Op:\w+\]", "", message.partition("\n")[0])


def printable(text: str) -> str:
    """Replaces characters that UTF-8 cannot encode with U+FFFD. Some file names contain them."""
    return re.sub("[\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", text)


def process_name() -> str:
    """Returns `{host}-{process id}`, a name that no two processes have at the same time."""
    return f"{_host()}-{os.getpid()}"


def _hidden(path: Path, kind: str) -> Path:
    return path.with_name(f".{_kept_name(path)}.{process_name()}.{kind}")


def _kept_name(path: Path) -> str:
    """Returns the file's name. A long name is cut to leave room for suffixes, and ends with a checksum."""
    kept = cut_name(path.name, _MAX_KEPT)
    if kept == path.name:
        return kept
    return f"{kept}-{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:8]}"


def _host() -> str:
    return re.sub("[^A-Za-z0-9-]", "_", socket.gethostname())[:60]


def _is_alive(owner: str, leftover: Path) -> bool:
    """Tells whether the owner of a leftover may still be running. An `owner` that names no process may be."""
    host, _, process = owner.rpartition("-")
    if not process.isdecimal():
        return True
    if host not in ("", _host()):  # Early versions left out the host.
        try:
            return time.time() - leftover.stat().st_mtime < _OLD
        except FileNotFoundError:  # Its owner has just finished.
            return True
    return _is_running(int(process))


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # It runs as another user.
    return True


class FileLock:
    """A lock between processes. It is released at the end of its `with` block, or when its process ends.

    Args:
        path: file to lock. It is created if needed, and stays.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("ab", buffering=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def acquire(self, *, shared: bool = False, wait: bool = False) -> None:
        """Takes the lock. If this object already holds it, makes it shared or exclusive.

        Args:
            shared: let other processes hold the lock too, if they also take it as shared. Defaults to
                `False`: exclusive.
            wait: wait until other processes release the lock. Defaults to `False`.

        Raises:
            BlockingIOError: another process holds the lock, and `wait` is false.
        """
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.flock(self._file, kind if wait else kind | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(
                f"{self.path}: another process holds this lock. Wait until it has finished."
            ) from None

    def close(self) -> None:
        """Releases the lock."""
        self._file.close()

    def is_current(self) -> bool:
        """Tells whether the locked file is still at `path`. The previous holder may have removed it."""
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), self.path.stat())
        except FileNotFoundError:
            return False

    def write(self, content: str) -> None:
        """Replaces the content of the file, which other processes can read."""
        self._file.truncate(0)
        self._file.write(content.encode())


@contextlib.contextmanager
def folder_lock(folder: Path, *, replaced: bool = False) -> Iterator[None]:
    """Locks an output folder, so that a second process stops before it writes anything there.

    The file `.lock` in the folder describes the holder as JSON. The operating system releases the lock when
    the process ends, even if it is killed, so a leftover `.lock` file blocks nobody.

    Args:
        folder: folder to lock. It is created if needed. At the end, folders that were created here are
            removed if they are empty.
        replaced: use this if `atomic_folder` will write or replace the folder. The folder is then not
            created, and the lock file is `.{name}.lock` next to it. Defaults to `False`.

    Raises:
        BlockingIOError: another process holds the lock. The message names its process, host and start time.
        OSError: the folder is not writable.
    """
    path = folder / LOCK_NAME
    if replaced:
        folder = follow_links(folder)
        path = folder.with_name(f".{_kept_name(folder)}{LOCK_NAME}")
    with contextlib.ExitStack() as stack:
        stack.enter_context(new_folder(path.parent))
        with _writing_in(path.parent):
            lock = _take(path, folder)
            stack.enter_context(lock)
            stack.callback(path.unlink, missing_ok=True)  # before the lock is released
            started = time.strftime("%Y-%m-%d %H:%M:%S %Z")
            holder = {"process": os.getpid(), "host": socket.gethostname(), "started": started}
            lock.write(json.dumps({**holder, "command": shlex.join(sys.orig_argv)}) + "\n")
        yield


def check_writable(folder: Path) -> None:
    """Writes and deletes a small file in an existing folder. Raises `OSError` if that fails."""
    with _writing_in(folder), tempfile.NamedTemporaryFile(dir=folder, buffering=0) as file:
        file.write(b"0" * 1000)


@contextlib.contextmanager
def _writing_in(folder):
    try:
        yield
    except BlockingIOError:
        raise
    except OSError as error:
        advice = "Give a writable folder."
        raise OSError(f"{folder}: cannot write to this folder: {error.strerror}. {advice}") from None


def _take(path, folder):
    while True:
        lock = FileLock(path)
        try:
            lock.acquire()
        except BlockingIOError:
            lock.close()
            raise BlockingIOError(
                f"{folder}: {_holder(path)} is writing to this folder. "
                "Wait until it has finished, or give another folder."
            ) from None
        if lock.is_current():
            return lock
        lock.close()


def _holder(path):
    try:
        holder = json.loads(path.read_text())
        return f"process {holder['process']} on {holder['host']}, started {holder['started']},"
    except (OSError, ValueError, KeyError, TypeError):  # The holder has not written the file yet.
        return "another process"


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[None]:
    """Creates a folder and its parents. The end of the block removes those of them that are still empty."""
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        with _writing_in(folder):
            folder.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for path in created:
            with contextlib.suppress(OSError):  # The folder is not empty.
                path.rmdir()


def file_sha256(path: Path) -> str:
    """Returns the SHA-256 of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def readable_size(num_bytes: float) -> str:
    """Returns a number of bytes with three digits and a unit, such as `1.5 GB`."""
    units = ["bytes", "kB", "MB", "GB", "TB"]
    while num_bytes >= 999.5 and len(units) > 1:  # 999.5 would print as 1e+03.
        num_bytes /= 1000
        del units[0]
    return f"{num_bytes:.3g} {units[0]}"
