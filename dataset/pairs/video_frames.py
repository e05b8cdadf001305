"""The frames of videos, each an image in `prefix/video/`: which are there, and which can be used."""

import collections
import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from common.files import atomic_file
from dataset.images import check_image
from dataset.pairs.image_folders import is_image

logger = logging.getLogger(__name__)

_FRAMES_PER_JOB = 256
_MOST_WORKERS = 8  # by default: of such small images much of the work is Python's, and that is one thread's
_VERSION = 1  # of what a scan keeps; to be raised when the same frames no longer give the same


@dataclasses.dataclass(frozen=True, eq=False)
class VideoFrames:
    """The usable frames of videos, and what became of the others. Made by `find_frames`.

    Attributes:
        prefix: Path, where the names of the videos start.
        videos: tuple of str, such as `Name/number`.
        paths: list of str, the usable frames below `prefix`, video after video, by name within a
            video.
        offsets: int64 array `(num_videos + 1,)`: the frames of video `i` are
            `paths[offsets[i] : offsets[i + 1]]`.
        missing: tuple of str, videos that have no folder.
        empty: tuple of str, videos whose folder has no usable frame.
        unusable: dict from the path of a frame to why: it is damaged, or of another size than
            most.
        image_size: `(height, width)` of every usable frame.
        sha256: str, of the names and the contents of all usable frames, in order.
        workers: int > 0, threads that decode.
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
    workers: int

    def __len__(self):
        return len(self.paths)

    @property
    def frames_per_video(self):
        """int64 array `(num_videos,)`, 0 for videos that are missing or empty."""
        return np.diff(self.offsets)

    def decode(self, start, stop):
        """Frames `start` to `stop` of all videos in a row.

        Args:
            start: int, number of the first frame, from 0.
            stop: int, number after the last one; what lies past the end is left away.

        Returns:
            uint8 array, shape `(num_frames, height, width, 3)`, RGB.

        Raises:
            ValueError: there is no frame from `start` to `stop`, or one of them is no longer what
                it was when it was found.
        """
        paths = self.paths[start:stop]
        if not paths:
            raise ValueError(f"expected some of {len(self)} frames, received {start} to {stop}")
        frames = np.empty((len(paths), *self.image_size, 3), np.uint8)

        def decode_some(first):
            for number in range(first, len(paths), self.workers):
                frames[number] = self._decode_one(paths[number])

        with ThreadPoolExecutor(self.workers) as pool:
            list(pool.map(decode_some, range(self.workers)))  # which raises what they raise
        return frames

    def _decode_one(self, path):
        path = self.prefix / path
        expected = "{}: expected the frame of {}x{} that was found there".format(path, *self.image_size)
        try:
            # As in training, a camera's note on how to turn the picture is not followed.
            flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
            frame = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), flags)
        except (OSError, cv2.error) as error:
            raise ValueError(f"{expected}, received: {error}") from None
        if frame is None:
            raise ValueError(f"{expected}, received one that cannot be decoded")
        if frame.shape[:2] != self.image_size:
            raise ValueError("{}, received {}x{}".format(expected, *frame.shape))
        return frame


def evenly_spaced(num_frames, limit):
    """Numbers of at most `limit` frames, the middles of as many equal parts of the video.

    Args:
        num_frames: int >= 0.
        limit: int > 0, or `None` for all frames.

    Returns:
        int array, ascending.
    """
    if limit is None or num_frames <= limit:
        return np.arange(num_frames)
    return (2 * np.arange(limit) + 1) * num_frames // (2 * limit)


def find_frames(prefix, videos, *, max_frames=None, memo=None, workers=None, progress=False):
    """Finds the frames of videos, and reads every one of them to see whether it can be used.

    A frame is a file `prefix/video/*.jpg`, `.jpeg` or `.png`; within a video they are sorted by name, as
    strings. Usable are the undamaged ones of the size that most have.

    References:
    - margin-centre-face, `eval/test_ytf.py`: frames are `prefix/Name/number/*.jpg` by name

    Args:
        prefix: str or Path.
        videos: iterable of str, such as `Name/number`, each once.
        max_frames: int > 0, how many frames of each video to look at, evenly spaced. Defaults to all.
        memo: Path of a folder, made if it is not there, in which the result is kept: with the same
            names, sizes and times of all files the next call reads none of them. Defaults to `None`.
        workers: int > 0, threads. Defaults to the number of cores, at most 8.
        progress: bool, show a progress bar. Defaults to `False`.

    Returns:
        A `VideoFrames`. What is missing or unusable is told in it, and is no error.

    Raises:
        FileNotFoundError: no folder `prefix`.
        ValueError: not one usable frame.
        OSError: a file cannot be read.
    """
    prefix, videos, workers = Path(prefix), tuple(videos), workers or min(os.cpu_count(), _MOST_WORKERS)
    if not prefix.is_dir():
        raise FileNotFoundError(f"{prefix}: no such folder; expected the frames of the videos in it")
    bar = functools.partial(tqdm, disable=None if progress else True, leave=False)
    files, fingerprint = _list_files(prefix, bar(videos, desc="listing", unit=" videos"), max_frames)
    paths = list(itertools.chain.from_iterable(found for found in files.values() if found))

    kept = None if memo is None else Path(memo) / f"frames-{fingerprint[:16]}.json"
    scan = kept and _read_memo(kept, fingerprint)
    if scan is None:
        with bar(desc="checking", total=len(paths), unit=" frames") as checking:
            scan = _scan(prefix, paths, workers, checking)
        if kept is not None:
            _write_memo(kept, fingerprint, scan)
    image_size, unusable, sha256 = scan
    if image_size is None:
        raise ValueError(
            f"{prefix}: expected frames of {len(videos)} videos, received {len(paths)} files and none usable"
        )
    counts = {
        video: sum(path not in unusable for path in found)
        for video, found in files.items()
        if found is not None
    }
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
        workers=workers,
    )


def _list_files(prefix, videos, max_frames):
    """Paths of each video's files, sorted, `None` without a folder; and a hash of them, sizes and times."""
    files, fingerprint = {}, hashlib.sha256()
    for video in videos:
        files[video] = None
        if (prefix / video).is_dir():
            with os.scandir(prefix / video) as entries:
                found = sorted((entry for entry in entries if is_image(entry)), key=lambda entry: entry.name)
            files[video] = []
            for number in evenly_spaced(len(found), max_frames):
                stat, path = found[number].stat(), f"{video}/{found[number].name}"
                fingerprint.update(os.fsencode(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\n"))
                files[video].append(path)
    return files, fingerprint.hexdigest()


def _scan(prefix, paths, workers, bar):
    """Reads all frames; returns `(image_size, unusable, sha256)`, the size `None` without a usable one."""
    unusable = {}
    # One hash per size: which one most frames have is known at the end.
    of_size = collections.defaultdict(lambda: ([], hashlib.sha256()))
    jobs = [paths[first : first + _FRAMES_PER_JOB] for first in range(0, len(paths), _FRAMES_PER_JOB)]
    with (
        ThreadPoolExecutor(workers) as pool,
        contextlib.closing(pool.map(functools.partial(_check_some, prefix), jobs)) as results,
    ):
        for job, checked in zip(jobs, results, strict=True):
            for path, (size, outcome) in zip(job, checked, strict=True):
                if size is None:
                    unusable[path] = outcome
                    continue
                of_size[size][0].append(path)
                of_size[size][1].update(os.fsencode(path) + b"\0" + outcome)
            bar.update(len(job))

    image_size = max(of_size, key=lambda size: len(of_size[size][0]), default=None)
    for size, (those, _) in of_size.items():
        if size != image_size:
            why = "expected {}x{} as most frames have, received {}x{}".format(*image_size, *size)
            unusable.update(dict.fromkeys(those, why))
    sha256 = of_size[image_size][1].hexdigest()
    return image_size, dict(sorted(unusable.items())), sha256


def _check_some(prefix, paths):
    """`(size, SHA-256)` of each frame, or `(None, why)` of a damaged one."""
    checked = []
    for path in paths:
        content = (prefix / path).read_bytes()
        try:
            checked.append((check_image(content), hashlib.sha256(content).digest()))
        except ValueError as error:
            checked.append((None, str(error)))
    return checked


def _read_memo(path, fingerprint):
    """What `_scan` returned for the same files, or `None`."""
    try:
        kept = json.loads(path.read_bytes())
        if (kept["version"], kept["fingerprint"]) != (_VERSION, fingerprint):
            return None
        image_size = kept["image_size"] and tuple(kept["image_size"])
        return image_size, dict(kept["unusable"]), str(kept["sha256"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("%s: not what an earlier scan kept, so all frames are read again: %s", path, error)
        return None


def _write_memo(path, fingerprint, scan):
    kept = {"version": _VERSION, "fingerprint": fingerprint}
    kept |= dict(zip(("image_size", "unusable", "sha256"), scan, strict=True))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            file.write(json.dumps(kept, indent=1).encode() + b"\n")
    except OSError as error:
        logger.warning("%s: the next scan reads all frames again: %s", path, error)
