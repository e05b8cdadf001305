"""Reads and writes pairs of videos in the format of YouTube Faces, and reads lists of mislabelled videos."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import numpy as np

from common.files import write_file
from dataset.pairs.text_lines import is_number, quote, read_lines

_COLUMNS = "split, pair number, first video, second video, is same (0 or 1)"
_LARGEST_SPLIT = 2**31 - 1


@dataclasses.dataclass(frozen=True, eq=False)
class VideoPairs:
    """Pairs of videos, in the order of the file.

    Attributes:
        path: file that the pairs come from.
        videos: unique names `Name/number`, in the order in which they first appear.
        first, second: int64 `(num_pairs,)`, indices into `videos`.
        is_same: bool `(num_pairs,)`.
        splits: int64 `(num_pairs,)`, the number of each pair's split, at least 0.
    """

    path: Path
    videos: tuple[str, ...]
    first: np.ndarray
    second: np.ndarray
    is_same: np.ndarray
    splits: np.ndarray

    def __len__(self) -> int:
        return len(self.is_same)


def read_video_pairs(path: Path) -> VideoPairs:
    """Reads `splits.txt` or `splits_corrected.txt`, with or without a header line.

    Lines are `split, pair number, first video, second video, is same`. Spaces around commas, empty lines,
    the pair number and columns after the fifth are ignored.

    References:
    - YouTube Faces, `splits.txt`
    - margin-centre-face, `[ytf] splits`: it always has a header, and its splits are ignored (fidelity row 20)

    Args:
        path: text file in UTF-8.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: a line cannot be read, or there are no pairs. The message names file and line.
    """
    numbers, rows = {}, []
    for position, (place, line) in enumerate(read_lines(path)):
        fields = [field.strip() for field in line.split(",", 5)]
        if len(fields) < 5:
            raise ValueError(f"{place}: expected {_COLUMNS}, received {quote(line)}")
        split, _, first, second, same = fields[:5]
        if position == 0 and not split.isdecimal() and same not in ("0", "1"):
            continue  # the header
        if not is_number(split) or int(split) > _LARGEST_SPLIT:
            raise ValueError(f"{place}: expected a split number of at least 0, received {quote(split)}")
        if same not in ("0", "1"):
            raise ValueError(f"{place}: expected 0 or 1 in the fifth column, received {quote(same)}")
        pair = [numbers.setdefault(_video(place, name), len(numbers)) for name in (first, second)]
        rows.append((int(split), *pair, int(same)))
    if not rows:
        raise ValueError(f"{path}: expected lines {_COLUMNS}, received none")
    splits, first, second, is_same = np.array(rows, np.int64).T
    return VideoPairs(path, tuple(numbers), first, second, is_same.astype(bool), splits)


def write_video_pairs(path: Path, pairs: Iterable[tuple[int, str, str, bool]]) -> None:
    """Writes pairs of videos in the format of `splits.txt`, without a header.

    Args:
        path: file to write. An existing file is replaced.
        pairs: `(split, first video, second video, is same)`, with splits from 0 and videos as `Name/number`.
            The file numbers the pairs of each split from 1.

    Raises:
        ValueError: the format cannot represent the name of a video.
    """
    counts = collections.Counter()
    lines = []
    for split, *names, is_same in pairs:
        counts[split] += 1
        first, second = (_video(path, name) for name in names)
        lines.append(f"{split}, {counts[split]}, {first}, {second}, {int(is_same)}\n")
    write_file(path, "".join(lines))


def read_wrong_videos(path: Path) -> tuple[str, ...]:
    """Reads a list of videos with a wrong identity, such as the original's `ytf-error.txt`.

    Args:
        path: text file in UTF-8 with one `Name/number` per line. Empty lines are ignored. In the original,
            an empty line dropped every pair (fidelity row 21).

    Returns:
        The names of the videos, without duplicates.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: a line is not the name of a video. The message names file and line.
    """
    return tuple(dict.fromkeys(_video(place, line) for place, line in read_lines(path)))


def _video(place, name):
    """Returns the normalised name of a video."""
    video = PurePosixPath(name)
    is_inside = bool(video.parts) and not video.is_absolute() and ".." not in video.parts
    # A name with one of these characters could be written but not read back.
    if not is_inside or name != name.strip() or any(mark in name for mark in ",\n\r\0"):
        raise ValueError(f"{place}: expected a video as Name/number, a relative path, received {quote(name)}")
    return str(video)
