"""Files that are either complete or absent, whatever kills the program."""

import contextlib
import os
import shutil


@contextlib.contextmanager
def atomic_file(path):
    """A binary file to write, which gets its name only once it is complete and on disk.

    Until then it is called `{name}.tmp` beside `path`. If the block raises, nothing
    is left; after a kill the temporary file may be, and whoever owns the folder removes it.

    Args:
        path: Path. An existing file is replaced.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder):
    """Makes renames inside `folder` survive a power cut: they belong to the folder, not to the files."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_folder(path):
    """Removes a folder so that a kill on the way leaves nothing half removed under its name.

    Until it is gone it is called `.{name}.old`; after a kill whoever owns the folder above removes that.
    """
    old = path.with_name(f".{path.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    path.rename(old)
    shutil.rmtree(old)


@contextlib.contextmanager
def atomic_folder(path):
    """A folder to fill, which gets its name only once it is complete.

    Until then it is called `.{name}.tmp`. If the block raises, nothing is left, and a folder that was
    at `path` stays as it was.

    Args:
        path: Path. An existing folder is replaced.
    """
    temporary, old = (path.with_name(f".{path.name}.{kind}") for kind in ("tmp", "old"))
    for leftover in (temporary, old):
        shutil.rmtree(leftover, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if path.exists():
            path.rename(old)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync_folder(path.parent)
    shutil.rmtree(old, ignore_errors=True)
