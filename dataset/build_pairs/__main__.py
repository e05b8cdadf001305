"""Makes the pair files to verify with: of LFW, of YouTube Faces, of one's own images and videos.

    python -m dataset.build_pairs lfw --images 112x112 --pairs pairs.txt --out lfw.np
    python -m dataset.build_pairs ytf --prefix 112x112 --splits splits_corrected.txt --out ytf_img_pair.txt
    python -m dataset.build_pairs images --root people --out own.bin
    python -m dataset.build_pairs videos --root people_on_video --out splits.txt

Pairs of images are written by the ending of `--out`: `.bin` as InsightFace's sets, `.np` as the original's
`lfw.np`, `.txt` as `ytf_img_pair.txt`. One's own pairs are drawn in folds that share no identity.
"""

import argparse
import hashlib
import logging
from pathlib import Path

from dataset.config import read_config
from dataset.images import SUFFIXES
from dataset.pairs.disjoint_pairs import make_disjoint_pairs
from dataset.pairs.image_folders import list_identities, list_images, list_videos
from dataset.pairs.lfw import read_lfw_pairs
from dataset.pairs.pair_files import check_pair_file, write_image_pairs
from dataset.pairs.video_pairs import read_video_pairs, write_video_pairs

logger = logging.getLogger(__name__)

FRAMES = ("first", "middle", "random")

_SHOWN = 5  # names in a message


def build_lfw(out, images, pairs, *, allow_missing=False):
    """Writes the official pairs of LFW, or others in the format of its `pairs.txt`.

    Args:
        out: Path, `.bin`, `.np` or `.txt`. An existing file is replaced, here and below.
        images: Path, the folder of `Name/Name_0001.jpg`; `.jpeg` and `.png` are found, too.
        pairs: Path of `pairs.txt`.
        allow_missing: bool, leave out pairs whose images are not there. Defaults to `False`.

    Raises:
        FileNotFoundError: no list, or images that are not there.
        ValueError: see `read_lfw_pairs` and `write_image_pairs`.
    """
    rows = read_lfw_pairs(pairs)
    found = {stem: _find_image(images, stem) for *stems, _ in rows for stem in stems}
    missing = [stem for stem, name in found.items() if name is None]
    rows = _leave_out(rows, missing, len(found), allow_missing, images, "images are missing")
    _write_images(out, images, [(found[first], found[second], is_same) for first, second, is_same in rows])


def build_ytf(out, prefix, splits, *, frame="first", seed=0, allow_missing=False):
    """Writes pairs of frames, one of each video of the pairs in `splits`, in their order.

    Args:
        out: Path.
        prefix: Path, the folder of `Name/number/frame.jpg`.
        splits: Path of `splits.txt` or `splits_corrected.txt`.
        frame: `"first"`, `"middle"` or `"random"`. A random frame follows from the seed, the pair and
            the side alone. Defaults to `"first"`.
        seed: int, of random frames. Defaults to `0`.
        allow_missing: bool, leave out pairs with a video without frames. Defaults to `False`.

    Raises:
        FileNotFoundError: no splits, or videos without frames.
        ValueError: see `read_video_pairs` and `write_image_pairs`.
    """
    pairs = read_video_pairs(splits)
    frames = {video: list_images(prefix / video) for video in pairs.videos}
    rows = [
        (pairs.videos[first], pairs.videos[second], bool(is_same))
        for first, second, is_same in zip(pairs.first, pairs.second, pairs.is_same, strict=True)
    ]
    missing = [video for video, names in frames.items() if not names]
    rows = _leave_out(rows, missing, len(frames), allow_missing, prefix, "videos have no frames")

    def choose(video, *key):
        names = frames[video]
        number = {"first": 0, "middle": (len(names) - 1) // 2, "random": _hash(seed, *key) % len(names)}[
            frame
        ]
        return f"{video}/{names[number]}"

    chosen = [
        (choose(first, first, second, 1), choose(second, first, second, 2), is_same)
        for first, second, is_same in rows
    ]
    _write_images(out, prefix, chosen)


def build_images(out, root, *, folds=10, pairs_per_fold=300, seed=0):
    """Writes pairs of one's own images, see `make_disjoint_pairs`.

    Args:
        out: Path.
        root: Path, a folder of identities, which are folders of images.
        folds: int >= 2. Defaults to `10`, which is how the evaluation takes any set apart.
        pairs_per_fold: int > 0, of each kind, at most. Defaults to `300`.
        seed: int >= 0. Defaults to `0`.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: see `make_disjoint_pairs` and `write_image_pairs`.
    """
    rows = _disjoint_pairs(root, list_identities(root), folds, pairs_per_fold, seed)
    _write_images(out, root, [row for _, *row in rows])


def build_videos(out, root, *, splits=10, pairs_per_split=250, seed=0):
    """Writes splits of one's own videos, see `make_disjoint_pairs`.

    Args:
        out: Path.
        root: Path, a folder of `identity/video/frame.jpg`.
        splits: int >= 2. Defaults to `10`.
        pairs_per_split: int > 0, of each kind, at most. Defaults to `250`.
        seed: int >= 0. Defaults to `0`.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: see `make_disjoint_pairs` and `write_video_pairs`.
    """
    rows = _disjoint_pairs(root, list_videos(root), splits, pairs_per_split, seed)
    write_video_pairs(out, rows)
    _report(out, rows, "videos")


def _find_image(root, stem):
    return next((stem + suffix for suffix in SUFFIXES if Path(root, stem + suffix).is_file()), None)


# Flags that a key of the config can stand for.
_CONFIGURED = {
    build_lfw: ("lfw", {"images": "prefix", "pairs": "pairs"}),
    build_ytf: ("ytf", {"prefix": "prefix", "splits": "splits"}),
}


def main(argv=None):
    """The program; `SystemExit` with a message if the pairs cannot be made."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options = vars(_parse_arguments(argv))
    build, overwrite, config = options.pop("build"), options.pop("overwrite"), options.pop("config", None)
    out = options["out"]
    try:
        if build is not build_videos:
            check_pair_file(out)
        if out.exists() and not overwrite:
            raise FileExistsError(f"{out}: is there already; --overwrite replaces it")
        if build in _CONFIGURED:
            _add_configured(options, config, *_CONFIGURED[build])
        out.parent.mkdir(parents=True, exist_ok=True)
        build(**options)
    except (ValueError, OSError) as error:
        raise SystemExit(f"dataset.build_pairs: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _parse_arguments(argv):
    parser = argparse.ArgumentParser(
        prog="python -m dataset.build_pairs", description=__doc__.splitlines()[0]
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    lfw = _add_command(commands, "lfw", build_lfw, "the official pairs of LFW")
    lfw.add_argument("--images", type=Path, metavar="DIR", help="of Name/Name_0001.jpg ([lfw] prefix)")
    lfw.add_argument("--pairs", type=Path, metavar="FILE", help="the official pairs.txt ([lfw] pairs)")

    ytf = _add_command(commands, "ytf", build_ytf, "one frame of each video of the official pairs")
    ytf.add_argument("--prefix", type=Path, metavar="DIR", help="of Name/number/frame.jpg ([ytf] prefix)")
    ytf.add_argument("--splits", type=Path, metavar="FILE", help="splits_corrected.txt ([ytf] splits)")
    ytf.add_argument("--frame", choices=FRAMES, help="which one (%(default)s)")
    ytf.add_argument("--seed", type=int, help="of random frames (%(default)s)")

    for command, what in (lfw, "images that are missing"), (ytf, "videos without frames"):
        command.add_argument(
            "--config", default="./config.ini", help="what is not given comes from (%(default)s)"
        )
        command.add_argument("--allow_missing", action="store_true", help=f"leave out pairs with {what}")

    images = _add_command(commands, "images", build_images, "pairs of one's own images")
    images.add_argument("--root", type=Path, required=True, metavar="DIR", help="of identity/image.jpg")
    images.add_argument("--folds", type=int, metavar="N", help="the evaluation takes ten (%(default)s)")
    images.add_argument(
        "--pairs_per_fold",
        type=int,
        metavar="N",
        help="genuine ones, and as many impostor ones (%(default)s)",
    )
    images.add_argument("--seed", type=int, help="another one draws other pairs (%(default)s)")

    videos = _add_command(commands, "videos", build_videos, "splits of one's own videos")
    videos.add_argument("--root", type=Path, required=True, metavar="DIR", help="of identity/video/frame.jpg")
    videos.add_argument("--splits", type=int, metavar="N", help="(%(default)s)")
    videos.add_argument(
        "--pairs_per_split",
        type=int,
        metavar="N",
        help="genuine ones, and as many impostor ones (%(default)s)",
    )
    videos.add_argument("--seed", type=int, help="another one draws other pairs (%(default)s)")
    return parser.parse_args(argv)


def _add_command(commands, name, build, what):
    command = commands.add_parser(name, help=what, description=f"Writes {what}.")
    command.set_defaults(build=build, **build.__kwdefaults__)
    endings = "" if build is build_videos else ", .bin, .np or .txt"
    command.add_argument("--out", type=Path, required=True, metavar="FILE", help=f"the file to make{endings}")
    command.add_argument("--overwrite", action="store_true", help="even if it is there")
    return command


def _add_configured(options, config_path, section, keys):
    """Puts paths of the config where flags left them out."""
    left_out = [flag for flag in keys if options[flag] is None]
    if not left_out:
        return
    flags = " and ".join(f"--{flag}" for flag in left_out)
    try:
        config = getattr(read_config(config_path), section)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"expected {flags}, or a config: {error}") from None
    for flag in left_out:
        options[flag] = getattr(config, keys[flag])
        if options[flag] is None:
            raise ValueError(f"{config_path}: section [{section}]: expected key '{keys[flag]}', or --{flag}")


def _leave_out(rows, missing, total, allow_missing, place, what):
    """The pairs without what is missing, or an error that names the first of it."""
    if not missing:
        return rows
    message = f"{place}: {len(missing)} of {total} {what}, first {', '.join(missing[:_SHOWN])}"
    if not allow_missing:
        raise FileNotFoundError(f"{message}; --allow_missing leaves out their pairs")
    absent = set(missing)
    kept = [row for row in rows if not absent.intersection(row[:2])]
    logger.warning("%s", message)
    logger.warning(
        "%d of %d pairs are left out: the folds are no longer the official ones",
        len(rows) - len(kept),
        len(rows),
    )
    return kept


def _disjoint_pairs(root, items, num_folds, asked, seed):
    try:
        rows = make_disjoint_pairs(items, num_folds, asked, seed)
    except ValueError as error:
        raise ValueError(f"{root}: {error}") from None
    num_pairs = len(rows) // (2 * num_folds)
    if num_pairs < asked:
        logger.warning("expected %d pairs of each kind per fold, the data has %d", asked, num_pairs)
    return rows


def _hash(*key):
    """A number that looks random, the same on every machine and with every version."""
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest())


def _write_images(out, root, pairs):
    height, width = write_image_pairs(out, root, pairs)
    _report(out, pairs, f"{height}x{width} images")


def _report(out, rows, what):
    num_genuine = sum(is_same for *_, is_same in rows)
    logger.info(
        "%s: %d pairs of %s, %d genuine and %d impostor",
        out,
        len(rows),
        what,
        num_genuine,
        len(rows) - num_genuine,
    )


if __name__ == "__main__":
    main()
