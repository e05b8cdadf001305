"""Images in folders: of identities, of videos, of LFW."""

import os
import re
from pathlib import Path

SUFFIXES = (".jpg", ".jpeg", ".png")


def is_image(entry):
    """Whether an entry of a folder is an image, by its name; hidden files are none.

    Args:
        entry: `os.DirEntry`.
    """
    hidden = entry.name.startswith(".")
    return not hidden and entry.name.lower().endswith(SUFFIXES) and not entry.is_dir()


def list_images(folder):
    """The images in a folder, numbers in their names by size: `0.2.jpg` comes before `0.10.jpg`.

    Args:
        folder: str or Path.

    Returns:
        List of str, file names; empty if there is none, or no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted((entry.name for entry in entries if is_image(entry)), key=_natural)


def list_identities(root):
    """Images of identities, of which each is a folder below `root`.

    Args:
        root: str or Path.

    Returns:
        Dict, name of the identity -> list of `identity/image.jpg`, both in order of the names.
        Identities without images are not in it.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    images = {
        folder.name: [f"{folder.name}/{name}" for name in list_images(folder)] for folder in _folders(root)
    }
    return {identity: names for identity, names in images.items() if names}


def list_videos(root):
    """Videos of identities, laid out as `identity/video/frame.jpg` below `root`.

    Args:
        root: str or Path.

    Returns:
        Dict, name of the identity -> list of `identity/video`, both in order of the names. Videos
        without frames and identities without videos are not in it.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    videos = {
        folder.name: [f"{folder.name}/{video.name}" for video in _folders(folder) if list_images(video)]
        for folder in _folders(root)
    }
    return {identity: names for identity, names in videos.items() if names}


def find_image(root, stem):
    """The image `stem` below `root`, whichever of the endings it has.

    Returns:
        str, `stem` with its ending, or `None` if there is no such image.
    """
    return next((stem + suffix for suffix in SUFFIXES if Path(root, stem + suffix).is_file()), None)


def _folders(root):
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder")
    folders = (path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    return sorted(folders, key=lambda folder: _natural(folder.name))


def _natural(name):
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)], name
