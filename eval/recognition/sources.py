"""Turns a picture, a folder of pictures or a video into frames."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from dataset.images import SUFFIXES, check_image, decode_picture
from dataset.pairs.image_folders import list_images
from dataset.video import VideoFrame, VideoInfo, read_video, video_info


@dataclasses.dataclass(frozen=True, eq=False)
class Picture:
    """A decoded picture, with the attributes of a `VideoFrame`.

    Args:
        number: position in the folder, from 0.
        time: 0.
        image: uint8 `(height, width, 3)`, RGB, upright.
    """

    number: int
    time: float
    image: np.ndarray


Frame = Picture | VideoFrame


@dataclasses.dataclass(frozen=True)
class Source:
    """A file or folder with faces.

    Args:
        path: the file or folder.
        kind: `"picture"`, `"folder"` (of pictures) or `"video"`.
        info: header of a video, or `None`.
        names: file names of the pictures, by the number of their frame. Empty for a video.
    """

    path: Path
    kind: Literal["picture", "folder", "video"]
    info: VideoInfo | None
    names: tuple[str, ...]

    def frames(self, on_problem: Callable[[str], object]) -> Iterator[Frame]:
        """Reads the frames, one at a time.

        Args:
            on_problem: receives a sentence about each picture that is left out because it cannot be read, or
                about a damaged video.

        Raises:
            ValueError, OSError: no frame can be read.
        """
        if self.kind == "video":
            return read_video(self.path, on_damage=on_problem)
        return self._pictures(on_problem)

    def _pictures(self, on_problem) -> Generator[Picture]:
        folder = self.path if self.kind == "folder" else self.path.parent
        num_read, problem = 0, ""
        for number, name in enumerate(self.names):
            try:
                image = read_picture(folder / name)
            except (ValueError, OSError) as error:
                if self.kind == "picture":
                    raise
                problem = str(error)
                on_problem(problem)
                continue
            num_read += 1
            yield Picture(number, 0.0, image)
        if not num_read:
            raise ValueError(f"{self.path}: expected pictures, received none that can be read: {problem}")


def open_source(path: Path) -> Source:
    """Finds out whether a path is a picture, a folder of pictures or a video.

    Files that end in `.jpg`, `.jpeg` or `.png` are pictures. FFmpeg reads every other file as a video.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: the folder has no pictures, or the file cannot be read as a video.
    """
    if path.is_dir():
        names = tuple(list_images(path))
        if not names:
            raise ValueError(f"{path}: expected a folder with {', '.join(SUFFIXES)} pictures, received none")
        return Source(path, "folder", None, names)
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file or folder")
    if path.suffix.lower() in SUFFIXES:
        return Source(path, "picture", None, (path.name,))
    return Source(path, "video", video_info(path), ())


def read_picture(path: Path) -> np.ndarray:
    """Reads a JPEG or PNG, upright as its EXIF orientation says.

    Grey, CMYK and 16-bit pictures become 8-bit RGB, and transparency is dropped.

    Returns:
        uint8 `(height, width, 3)`, RGB.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged, too large, or in another format.
    """
    data = path.read_bytes()
    try:
        check_image(data)  # OpenCV would accept a truncated file.
        return decode_picture(data, upright=True)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
