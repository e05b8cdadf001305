"""Finds and checks the frames of videos, which are images in the folders `prefix/video/`."""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import itertools
import json
import logging
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from common.files import write_json
from common.progress import Progress
from dataset.images import MAX_FACE_PIXELS, check_image, decode_picture
from dataset.pairs.image_folders import scan_images

logger = logging.getLogger(__name__)

_FRAMES_PER_JOB = 256
_WORKERS = min(os.cpu_count() or 1, 8)  # More would not help: for small images, Python is the bottleneck.
_VERSION = 1  # of a saved scan; increase it when the same frames no longer give the same result


@dataclasses.dataclass(frozen=True, eq=False)
class VideoFrames:
    """The usable frames of videos, and the reasons why others are unusable. `find_frames` returns it.

    Attributes:
        prefix: folder that the names of the videos are relative to.
        videos: names of videos, such as `Name/number`.
        paths: paths of the usable frames below `prefix`, video after video, in natural order within a video.
        offsets: int64 `(num_videos + 1,)`. The frames of video `i` are `paths[offsets[i] : offsets[i + 1]]`.
        missing: videos that have no folder.
        empty: videos whose folder has no usable frame.
        unusable: dict from the path of a frame to the reason. The frame is damaged, or has another size than
            most frames.
        image_size: `(height, width)` of every usable frame.
        sha256: hash of the names and contents of all usable frames, in order.
    """

    prefix: Path
    videos: tuple[str, ...]
    paths: list[str]
    offsets: np.ndarray
    missing: tuple[str, ...]
    empty: tuple[str, ...]
    unusable: dict[str, str]
    image_size: tuple[int, int]
    sha256: str

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def frames_per_video(self) -> np.ndarray:
        """int64 `(num_videos,)`, 0 for videos that are missing or empty."""
        return np.diff(self.offsets)

    def decode(self, start: int, stop: int) -> np.ndarray:
        """Decodes frames `start` to `stop` (exclusive), as numbered in `paths`.

        Returns:
            uint8 `(num_frames, height, width, 3)`, RGB.

        Raises:
            ValueError: the range contains no frame, or a frame has changed since it was found.
        """
        paths = self.paths[start:stop]
        if not paths:
            raise ValueError(f"expected a range of the {len(self)} frames, received {start} to {stop}")
        frames = np.empty((len(paths), *self.image_size, 3), np.uint8)

        def decode_some(first):
            for number in range(first, len(paths), _WORKERS):
                frames[number] = self._decode_one(paths[number])

        with ThreadPoolExecutor(_WORKERS, "frames") as pool:
            list(pool.map(decode_some, range(_WORKERS)))  # This also raises the errors of the threads.
        return frames

    def _decode_one(self, path):
        path = self.prefix / path
        expected = "{}: expected the frame of {}x{} that was found earlier".format(path, *self.image_size)
        try:
            frame = decode_picture(path.read_bytes(), max_pixels=MAX_FACE_PIXELS)
        except (OSError, ValueError) as error:
            raise ValueError(f"{expected}, received: {error}") from None
        if frame.shape[:2] != self.image_size:
            raise ValueError("{}, received {}x{}".format(expected, *frame.shape))
        return frame


def evenly_spaced(num_frames: int, limit: int | None) -> np.ndarray:
    """Returns the numbers of `limit` frames of a video: the middles of `limit` equal parts.

    Args:
        num_frames: number of frames of the video.
        limit: largest number of frames to choose. `None` chooses all.

    Returns:
        int64 `(min(num_frames, limit),)`, increasing, from 0.
    """
    if limit is None or num_frames <= limit:
        return np.arange(num_frames)
    return (2 * np.arange(limit) + 1) * num_frames // (2 * limit)


def find_frames(
    prefix: Path, videos: Iterable[str], *, max_frames: int | None = None, memo: Path | None = None
) -> VideoFrames:
    """Finds the frames of videos, and reads each frame to check that it is usable.

    A frame is a file `prefix/video/*.jpg`, `.jpeg` or `.png`. Within a video, frames are in natural order
    (row 39 of docs/fidelity.md). A frame is usable if it is undamaged and has the same size as most frames.

    References:
    - margin-centre-face, `eval/test_ytf.py`: frames are `prefix/Name/number/*.jpg`, sorted by name

    Args:
        prefix: folder that the names of the videos are relative to.
        videos: unique names, such as `Name/number`.
        max_frames: largest number of frames to use from each video, evenly spaced. Defaults to all.
        memo: folder in which to save the result. It is created if necessary. If the names, sizes and times
            of all files are the same at the next call, that call reads no frame. Defaults to `None`: the
            result is not saved.

    Returns:
        The frames. Missing videos and unusable frames are listed there, and do not raise an error.

    Raises:
        FileNotFoundError: `prefix` does not exist.
        ValueError: no frame is usable.
        OSError: a file cannot be read.
    """
    videos = tuple(videos)
    if not prefix.is_dir():
        raise FileNotFoundError(f"{prefix}: no such folder; expected the frames of the videos in it")
    files, fingerprint = _list_files(prefix, videos, max_frames)
    paths = list(itertools.chain.from_iterable(files.values()))

    kept = None if memo is None else memo / f"frames-{fingerprint[:16]}.json"
    scan = kept and _read_memo(kept, fingerprint)
    if scan is None:
        with Progress(desc="checking", total=len(paths), unit="frames") as progress:
            scan = _scan(prefix, paths, progress)
        if kept:
            _write_memo(kept, fingerprint, scan)
    image_size, unusable, sha256 = scan
    if image_size is None:
        raise ValueError(
            f"{prefix}: expected frames of {len(videos)} videos, received {len(paths)} files, none usable"
        )
    counts = {video: sum(path not in unusable for path in found) for video, found in files.items()}
    return VideoFrames(
        prefix=prefix,
        videos=videos,
        paths=[path for path in paths if path not in unusable],
        offsets=np.cumsum([0, *(counts.get(video, 0) for video in videos)], dtype=np.int64),
        missing=tuple(video for video in videos if video not in counts),
        empty=tuple(video for video, count in counts.items() if count == 0),
        unusable=unusable,
        image_size=image_size,
        sha256=sha256,
    )


def _list_files(prefix, videos, max_frames):
    """Returns the frame paths of each video that has a folder, and a hash of names, sizes and times."""
    files, fingerprint = {}, hashlib.sha256()
    for video in Progress(videos, desc="listing", unit="videos"):
        if (prefix / video).is_dir():
            found = scan_images(prefix / video)
            files[video] = []
            for number in evenly_spaced(len(found), max_frames):
                stat, path = found[number].stat(), f"{video}/{found[number].name}"
                fingerprint.update(os.fsencode(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\n"))
                files[video].append(path)
    return files, fingerprint.hexdigest()


def _scan(prefix, paths, progress):
    """Reads all frames. Returns `(image_size, unusable, sha256)`. The size is `None` if none is usable."""
    unusable = {}
    # Keep a list and a hash for each size, because the most frequent size is known only at the end.
    by_size = collections.defaultdict(lambda: ([], hashlib.sha256()))
    jobs = [paths[first : first + _FRAMES_PER_JOB] for first in range(0, len(paths), _FRAMES_PER_JOB)]
    pool = ThreadPoolExecutor(_WORKERS, "frames")
    try:
        for job, checked in zip(jobs, pool.map(functools.partial(_check_some, prefix), jobs), strict=True):
            for path, (size, outcome) in zip(job, checked, strict=True):
                if size is None:
                    unusable[path] = outcome
                    continue
                by_size[size][0].append(path)
                by_size[size][1].update(os.fsencode(path) + b"\0" + outcome)
            progress.update(len(job))
    finally:
        pool.shutdown(cancel_futures=True)

    if not by_size:
        return None, unusable, ""
    image_size = max(by_size, key=lambda size: len(by_size[size][0]))
    for size, (others, _) in by_size.items():
        if size != image_size:
            reason = "expected {}x{}, the size of most frames, received {}x{}".format(*image_size, *size)
            unusable.update(dict.fromkeys(others, reason))
    sha256 = by_size[image_size][1].hexdigest()
    return image_size, dict(sorted(unusable.items())), sha256


def _check_some(prefix, paths):
    """Returns `(size, SHA-256)` for each usable frame, and `(None, reason)` for each damaged one."""
    checked = []
    for path in paths:
        content = (prefix / path).read_bytes()
        try:
            checked.append(
                (check_image(content, max_pixels=MAX_FACE_PIXELS), hashlib.sha256(content).digest())
            )
        except ValueError as error:
            checked.append((None, str(error)))
    return checked


def _read_memo(path, fingerprint):
    """Returns the saved result of `_scan` for the same files, or `None`."""
    try:
        kept = json.loads(path.read_bytes())
        if (kept["version"], kept["fingerprint"]) != (_VERSION, fingerprint):
            return None
        image_size = kept["image_size"] and tuple(kept["image_size"])
        return image_size, dict(kept["unusable"]), str(kept["sha256"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        logger.warning("%s: not a saved scan; reading all frames again: %s", path, error)
        return None


def _write_memo(path, fingerprint, scan):
    scan = dict(zip(("image_size", "unusable", "sha256"), scan, strict=True))
    try:
        write_json(path, {"version": _VERSION, "fingerprint": fingerprint, **scan})
    except OSError as error:
        logger.warning("%s: not saved, so the next scan reads all frames again: %s", path, error)
