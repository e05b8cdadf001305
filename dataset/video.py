"""Reads videos frame by frame, upright and with times. Memory does not grow with the length of the video."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Generator
from pathlib import Path

import av
import av.error
import numpy as np
from av.sidedata.sidedata import Type

from dataset.images import MAX_PIXELS

logger = logging.getLogger(__name__)

SUFFIXES = (".mp4", ".m4v", ".mkv", ".webm", ".mov", ".avi", ".mpg", ".mpeg", ".ts", ".flv", ".wmv", ".3gp")

_DEFAULT_FPS = 25  # for a video that contains neither times nor a rate
# A file that ends this many seconds before the end in its header was cut off.
_MISSING_SECONDS = 1.0


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """The header of a video.

    Args:
        size: `(height, width)` of the upright frames.
        fps: average number of frames per second, or `None` if unknown.
        duration: length in seconds, or `None` if unknown.
        num_frames: number of frames, or `None` if unknown, as in Matroska files.
        codec: name of the frames' codec, such as `"h264"`.
    """

    size: tuple[int, int]
    fps: float | None
    duration: float | None
    num_frames: int | None
    codec: str


class VideoFrame:
    """One frame of a video. Its pixels are converted to RGB when they are first used.

    Attributes:
        number: position in the video, from 0.
        time: seconds from the first frame. It never decreases.
    """

    def __init__(
        self, number: int, time: float, decoded: av.VideoFrame, pixel_aspect: float, matrix: np.ndarray
    ) -> None:
        self.number, self.time = number, time
        self._decoded, self._pixel_aspect, self._matrix = decoded, pixel_aspect, matrix
        self._image: np.ndarray | None = None

    @property
    def image(self) -> np.ndarray:
        """The upright picture, uint8 `(height, width, 3)`, RGB, with square pixels."""
        if self._image is None:
            height, width = _square_size(self._decoded, self._pixel_aspect)
            pixels = self._decoded.to_ndarray(format="rgb24", width=width, height=height)
            self._image = _turn_upright(pixels, self._matrix)
        return self._image


def read_video(
    path: Path, max_pixels: int = MAX_PIXELS, on_damage: Callable[[str], object] = logger.warning
) -> Generator[VideoFrame]:
    """Decodes a video and yields its frames.

    Frames that cannot be decoded are left out. Memory holds one frame and the few that the decoder works on,
    so do not keep a `VideoFrame`.

    Args:
        path: a video in any format that FFmpeg reads.
        max_pixels: largest number of pixels of a frame. Defaults to `MAX_PIXELS`.
        on_damage: called after the last frame with a message if the file is damaged or was cut off. Defaults
            to a warning in the log.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not a video, no frame can be decoded, or a frame has too many pixels.
    """
    with _open(path) as container:
        stream = _video_stream(container, path, max_pixels)
        stream.thread_type = "AUTO"
        announced = _duration(container, stream)
        pixel_aspect = float(stream.sample_aspect_ratio or 1)
        step = 1 / float(stream.average_rate or _DEFAULT_FPS)
        number, num_damaged, start, time, matrix = 0, 0, None, 0.0, None
        for decoded in _decoded_frames(container, stream):
            if decoded is None or decoded.is_corrupt:
                num_damaged += 1
                continue
            _check_size(path, decoded, max_pixels)
            usual = time + step if number else 0.0
            if decoded.time is None:
                time = usual
            else:
                # In joined recordings, times start again.
                if start is None or decoded.time - start < time:
                    start = decoded.time - usual
                time = decoded.time - start
            if matrix is None:
                matrix = _display_matrix(decoded)
            yield VideoFrame(number, time, decoded, pixel_aspect, matrix)
            number += 1
    if not number:
        raise ValueError(f"{path}: expected a video, received a file in which no frame can be decoded")
    if num_damaged:
        on_damage(f"{path}: the file is damaged; {num_damaged} of its frames are left out")
    if announced is not None and time + step < announced - _MISSING_SECONDS:
        on_damage(f"{path}: the file ends after {time + step:.1f} of {announced:.1f} seconds")


def video_info(path: Path, max_pixels: int = MAX_PIXELS) -> VideoInfo:
    """Reads the header and the first frame of a video. Raises the errors of `read_video`."""
    with contextlib.closing(read_video(path, max_pixels)) as frames:
        size = next(frames).image.shape[:2]
    with _open(path) as container:
        stream = _video_stream(container, path, max_pixels)
        fps = float(stream.average_rate) if stream.average_rate else None
        duration = _duration(container, stream)
        return VideoInfo(size, fps, duration, stream.frames or None, stream.codec_context.name)


def _open(path):
    if path.is_file() and not path.stat().st_size:
        raise ValueError(f"{path}: expected a video, received an empty file")
    try:
        return av.open(str(path), metadata_errors="replace")
    except OSError:
        raise
    except av.error.FFmpegError:
        raise ValueError(
            f"{path}: expected a video, received a file that FFmpeg cannot read. Is the file incomplete?"
        ) from None


def _video_stream(container, path, max_pixels):
    if not container.streams.video:
        raise ValueError(f"{path}: expected a video, received a file without a video stream")
    stream = container.streams.video[0]
    _check_size(path, stream, max_pixels)
    return stream


def _check_size(path, frame, max_pixels):
    if frame.height * frame.width > max_pixels:
        raise ValueError(
            f"{path}: expected frames of at most {max_pixels} pixels, received {frame.height}x{frame.width}"
        )


def _duration(container, stream):
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    return None if container.duration is None else container.duration / av.time_base


def _decoded_frames(container, stream):
    """Yields the frames of a stream, and `None` for each part that cannot be decoded."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
            if packet is None:
                return
        except av.error.FFmpegError:
            yield None
            return
        try:
            yield from packet.decode()
        except av.error.FFmpegError:
            yield None


def _square_size(decoded, pixel_aspect):
    """Returns `(height, width)` of a frame with square pixels, before it is turned upright."""
    return decoded.height, max(1, round(decoded.width * pixel_aspect))


def _display_matrix(decoded) -> np.ndarray:
    """Returns the part of FFmpeg's display matrix that turns and mirrors. It shows `p` at `p @ matrix`.

    Call it only for the first frame of a video. PyAV's side data and the frame refer to each other, so the
    frame stays in memory until Python's garbage collection.
    """
    data = decoded.side_data.get(Type.DISPLAYMATRIX)
    return np.eye(2, dtype=int) if data is None else np.frombuffer(data, np.int32).reshape(3, 3)[:2, :2]


def _turn_upright(pixels, matrix):
    """Turns a frame by a multiple of 90 degrees and mirrors it, as near to the matrix as possible."""
    if abs(matrix[0, 0]) < abs(matrix[0, 1]):
        pixels, matrix = pixels.swapaxes(0, 1), matrix[::-1]
    if matrix[0, 0] < 0:
        pixels = pixels[:, ::-1]
    if matrix[1, 1] < 0:
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
