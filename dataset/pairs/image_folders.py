"""Lists images in folders in natural order: `0.2.jpg` comes before `0.10.jpg`."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from dataset.images import SUFFIXES


def natural_key(name: str) -> tuple:
    """Returns a key for `sorted` that compares the numbers in names by value.

    All programs order frames and files by it, so "the first frame" is the same everywhere.

    Example:

    >>> sorted(["10.jpg", "2.jpg", "0.10.jpg", "0.9.jpg"], key=natural_key)
    ['0.9.jpg', '0.10.jpg', '2.jpg', '10.jpg']
    """
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)], name


def scan_images(folder: Path) -> list[os.DirEntry]:
    """Returns the images directly in an existing folder, in natural order. Hidden files are ignored."""
    with os.scandir(folder) as entries:
        images = [
            entry
            for entry in entries
            if entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith(".") and not entry.is_dir()
        ]
    return sorted(images, key=lambda entry: natural_key(entry.name))


def list_images(folder: Path) -> list[str]:
    """Returns the names of the images in a folder, in natural order, or `[]` if there is no such folder."""
    return [entry.name for entry in scan_images(folder)] if folder.is_dir() else []


def walk_files(root: Path, folder: str = "") -> Iterator[str]:
    """Yields the paths of all files below `root`, in natural order, subfolders last.

    Hidden files and folders are ignored, and links to folders are not followed.

    Args:
        root: folder that the paths are relative to.
        folder: subfolder of `root` to list, as `""` or with a slash at the end. Defaults to all of `root`.
    """
    for entry in sorted(
        os.scandir(root / folder), key=lambda entry: (entry.is_dir(), natural_key(entry.name))
    ):
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from walk_files(root, f"{folder}{entry.name}/")
        elif not entry.is_dir():
            yield folder + entry.name


def list_identities(root: Path) -> dict[str, list[str]]:
    """Finds the images `identity/image.jpg` below `root`.

    Returns:
        Dict from the name of an identity to its paths `identity/image.jpg`, both in natural order.
        Identities without images are left out.

    Raises:
        FileNotFoundError: `root` does not exist.
    """
    images = {
        folder.name: [f"{folder.name}/{name}" for name in list_images(folder)] for folder in _folders(root)
    }
    return {identity: names for identity, names in images.items() if names}


def list_videos(root: Path) -> dict[str, list[str]]:
    """Finds the videos `identity/video/` below `root`, which contain frames as images.

    Returns:
        Dict from the name of an identity to its paths `identity/video`, both in natural order. Videos
        without frames and identities without videos are left out.

    Raises:
        FileNotFoundError: `root` does not exist.
    """
    videos = {
        folder.name: [f"{folder.name}/{video.name}" for video in _folders(folder) if list_images(video)]
        for folder in _folders(root)
    }
    return {identity: names for identity, names in videos.items() if names}


def _folders(root):
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder")
    folders = (path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    return sorted(folders, key=lambda folder: natural_key(folder.name))
