"""Writes video files."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from common.files import atomic_file

VIDEO_FORMATS = {".mp4": "mp4", ".mkv": "matroska", ".mov": "mov"}

# Codecs with their options, the best first. Some builds of PyAV lack the first one.
_CODECS = (("libx264", {"preset": "veryfast", "crf": "20"}), ("mpeg4", {"q": "3"}))
# Per second. At 24, 25, 29.97 and 30 frames per second, a frame takes a whole number of ticks.
_TICKS = 60_000


def write_video(path: Path, frames: Iterable[tuple[np.ndarray, float]]) -> None:
    """Writes a video without sound.

    All frames get the size of the first one. If its height or width is odd, the last row or column is cut.

    Args:
        path: file to write, with a suffix of `VIDEO_FORMATS`. An existing file is replaced.
        frames: `(image, time)` in order. Images are uint8 `(height, width, 3)`, RGB. Times are in seconds.

    Raises:
        OSError: the file cannot be written.
    """
    with (
        atomic_file(path) as file,
        av.open(file, "w", format=VIDEO_FORMATS[path.suffix.lower()]) as container,
    ):
        stream: Any = None
        last, size = -1, (0, 0)
        for image, time in frames:
            if stream is None:
                size = image.shape[0] // 2 * 2, image.shape[1] // 2 * 2  # The codecs need even sizes.
                stream = _add_stream(container, size)
            if image.shape[:2] != size:  # The size may change within a video, or be odd.
                image = _fit(image, size)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.time_base = Fraction(1, _TICKS)
            frame.pts = last = max(round(time * _TICKS), last + 1)
            container.mux(stream.encode(frame))
        if stream is not None:
            container.mux(stream.encode())


def _fit(image, size):
    rows, columns = image.shape[:2]
    if 0 <= rows - size[0] <= 1 and 0 <= columns - size[1] <= 1:
        return image[: size[0], : size[1]]
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)


def _add_stream(container, size):
    name, options = next((name, options) for name, options in _CODECS if name in av.codecs_available)
    stream = container.add_stream(name, options=options)
    stream.height, stream.width = size
    stream.pix_fmt = "yuv420p"
    stream.codec_context.time_base = Fraction(1, _TICKS)
    return stream
