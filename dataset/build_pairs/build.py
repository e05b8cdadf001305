"""Chooses and writes the pairs of each command of `python -m dataset.build_pairs`."""

from __future__ import annotations

import hashlib
import logging

from dataset.build_pairs.options import ImagesOptions, LfwOptions, VideosOptions, YtfOptions
from dataset.config import read_config
from dataset.images import SUFFIXES
from dataset.pairs.disjoint_pairs import make_disjoint_pairs
from dataset.pairs.image_folders import list_identities, list_images, list_videos
from dataset.pairs.lfw import read_lfw_pairs
from dataset.pairs.pair_files import write_image_pairs
from dataset.pairs.video_pairs import read_video_pairs, write_video_pairs

logger = logging.getLogger(__name__)

_MOST_LISTED = 5


def build_lfw(options: LfwOptions) -> None:
    """Writes the image pairs that a list in the format of LFW's `pairs.txt` names.

    Raises:
        FileNotFoundError: files are missing, and `allow_missing` is false.
        ValueError: the list or an image is invalid.
    """
    images, pairs = _paths(options, "lfw", images="prefix", pairs="pairs")
    rows = read_lfw_pairs(pairs)
    found = {stem: _find_image(images, stem) for *stems, _ in rows for stem in stems}
    rows = _available(rows, found, options.allow_missing, f"{images}: {{}} of {{}} images are missing")
    _write_images(options.out, images, [(found[first], found[second], same) for first, second, same in rows])


def build_ytf(options: YtfOptions) -> None:
    """Writes one pair of frames for each pair of videos in `splits.txt`, in the same order.

    A random frame depends only on the seed, the pair, and whether it is the first or second of the pair.

    Raises:
        FileNotFoundError: files are missing, and `allow_missing` is false.
        ValueError: the list or a frame is invalid.
    """
    prefix, splits = _paths(options, "ytf", prefix="prefix", splits="splits")
    pairs = read_video_pairs(splits)
    frames = {video: list_images(prefix / video) for video in pairs.videos}
    first, second = ([pairs.videos[number] for number in side] for side in (pairs.first, pairs.second))
    rows = list(zip(first, second, pairs.is_same.tolist(), strict=True))
    rows = _available(rows, frames, options.allow_missing, f"{prefix}: {{}} of {{}} videos have no frames")

    def choose(video, *key):
        names = frames[video]
        middle = (len(names) - 1) // 2
        number = {"first": 0, "middle": middle, "random": _hash(options.seed, *key)}[options.frame]
        return f"{video}/{names[number % len(names)]}"

    chosen = [
        (choose(first, first, second, 1), choose(second, first, second, 2), is_same)
        for first, second, is_same in rows
    ]
    _write_images(options.out, prefix, chosen)


def build_images(options: ImagesOptions) -> None:
    """Writes pairs of the images `identity/image.jpg` below `root`.

    Raises:
        FileNotFoundError: `root` does not exist.
        ValueError: there are too few identities, or an image is invalid.
    """
    identities = _list(list_identities, options.root, list_videos, "videos")
    rows = _disjoint_pairs(options.root, identities, options.folds, options.pairs_per_fold, options.seed)
    _write_images(options.out, options.root, [row for _, *row in rows])


def build_videos(options: VideosOptions) -> None:
    """Writes splits of the videos `identity/video/frame.jpg` below `root`.

    Raises:
        FileNotFoundError: `root` does not exist.
        ValueError: there are too few identities.
    """
    videos = _list(list_videos, options.root, list_identities, "images")
    rows = _disjoint_pairs(options.root, videos, options.splits, options.pairs_per_split, options.seed)
    write_video_pairs(options.out, rows)
    _log_counts(options.out, rows, "videos")


def _paths(options, section, **keys):
    """Returns the path for each flag in `keys`: the flag's value, or else that of `key` in the config."""
    given = {flag: getattr(options, flag) for flag in keys}
    missing = [flag for flag, path in given.items() if path is None]
    if not missing:
        return list(given.values())
    try:
        config = getattr(read_config(options.config), section)
    except FileNotFoundError as error:
        flags = " and ".join(f"--{flag}" for flag in missing)
        raise FileNotFoundError(f"expected {flags}, or a config: {error}") from None
    for flag in missing:
        if getattr(config, keys[flag]) is None:
            raise ValueError(
                f"{options.config}, [{section}] {keys[flag]} is missing. Set it, or give --{flag}."
            )
    return [given[flag] or getattr(config, key) for flag, key in keys.items()]


def _list(find, root, find_others, others):
    """Lists the files of a command. If only the other command finds files, the error names that command."""
    found = find(root)
    if not found and find_others(root):
        raise ValueError(f"{root}: contains {others}. Use `python -m dataset.build_pairs {others}`.")
    return found


def _find_image(root, stem):
    return next((stem + suffix for suffix in SUFFIXES if (root / (stem + suffix)).is_file()), None)


def _available(rows, found, allow_missing, message):
    """Returns the pairs whose two files were found. Raises an error if others are not allowed."""
    missing = [name for name, files in found.items() if not files]
    if not missing:
        return rows
    message = f"{message.format(len(missing), len(found))}, such as {', '.join(missing[:_MOST_LISTED])}"
    if not allow_missing:
        raise FileNotFoundError(f"{message}. Give --allow_missing to leave out their pairs.")
    kept = [row for row in rows if found[row[0]] and found[row[1]]]
    left_out = f"{len(rows) - len(kept)} of {len(rows)} pairs are left out"
    logger.warning(f"{message}; {left_out}, so the folds are no longer the official ones")
    return kept


def _disjoint_pairs(root, items, num_folds, pairs_per_fold, seed):
    try:
        rows = make_disjoint_pairs(items, num_folds, pairs_per_fold, seed)
    except ValueError as error:
        raise ValueError(f"{root}: {error}") from None
    num_pairs = len(rows) // (2 * num_folds)
    if num_pairs < pairs_per_fold:
        logger.warning(
            "expected %d pairs of each kind per fold, but the data has only %d", pairs_per_fold, num_pairs
        )
    return rows


def _hash(*key):
    """Returns a pseudo-random number that is the same on every machine and in every version of Python."""
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest())


def _write_images(out, root, pairs):
    height, width = write_image_pairs(out, root, pairs)
    _log_counts(out, pairs, f"{height}x{width} images")


def _log_counts(out, rows, items):
    genuine = sum(is_same for *_, is_same in rows)
    logger.info(f"{out}: {len(rows)} pairs of {items}, {genuine} genuine and {len(rows) - genuine} impostor")
