"""Aligns faces: finds them in pictures and cuts them out, eyes, nose and mouth where the nets expect them.

    python -m dataset.align --src frames --dst 112x112

Every picture below `--src` becomes a JPEG of the same relative path below `--dst`. Those without a face
and those that cannot be read are listed in `align_failures.txt`. The program may be killed at any moment:
the same command goes on with what is left.
"""

import argparse
import logging
from pathlib import Path

from dataset.align.align_images import FAILURES_NAME, align
from dataset.align.alignment import CENTRE_CROP, FALLBACKS, NO_FACE, UNREADABLE
from dataset.align.detector import CHOICES

logger = logging.getLogger(__name__)


def main(argv=None):
    """The program; `SystemExit` with a message if it cannot start, or if not a single face is found."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    args = _parse_arguments(argv)
    try:
        counts = align(**vars(args))
    except (ValueError, OSError) as error:
        raise SystemExit(f"dataset.align: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    logger.info(
        "%d pictures aligned, %d without a face (%d of them as a centre crop), %d unreadable; see %s",
        counts["aligned"],
        counts[NO_FACE] + counts[CENTRE_CROP],
        counts[CENTRE_CROP],
        counts[UNREADABLE],
        args.dst / FAILURES_NAME,
    )
    if not counts["aligned"]:
        raise SystemExit(f"dataset.align: {args.dst}: expected at least one face, received none")


def _parse_arguments(argv):
    parser = argparse.ArgumentParser(
        prog="python -m dataset.align",
        description="Finds the faces in pictures and cuts them out, aligned by five points. What was "
        "interrupted goes on with the same command.",
    )
    parser.add_argument("--src", type=Path, required=True, metavar="DIR", help="the pictures, at any depth")
    parser.add_argument("--dst", type=Path, required=True, metavar="DIR", help="where the faces go")
    parser.add_argument(
        "--image_size", type=int, nargs=2, metavar=("H", "W"), help="112 112 or 112 96 (112 112)"
    )
    parser.add_argument(
        "--face",
        choices=CHOICES,
        help="which of several: nearest to the middle, as in LFW and YouTube Faces, where larger ones may "
        "be somebody else's; or the biggest box (%(default)s)",
    )
    parser.add_argument(
        "--fallback",
        choices=FALLBACKS,
        help="for pictures without a face: leave them out, or take what is in the middle, which suits "
        "pictures that a detector has already cut out (%(default)s)",
    )
    parser.add_argument("--quality", type=int, help="of the JPEGs, up to 100 (%(default)s)")
    parser.add_argument("--min_face_size", type=int, metavar="PIXELS", help="larger is faster (%(default)s)")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (one per core)")
    parser.set_defaults(**align.__kwdefaults__)
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
