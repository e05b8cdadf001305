"""Draws a small set of made-up faces: training, validation and test with no data to download.

    python -m dataset.synthetic --out data/synthetic

The set has all that a real one has, in the same formats: two training sources, LFW-like pairs,
YouTube-Faces-like videos, and the `config.ini` that names them. The identities of pairs and videos
are not among those to train on. Every image follows from the seed, its identity and its number.
"""

import argparse
import logging
from pathlib import Path

from dataset.synthetic.draw_set import write_set

logger = logging.getLogger(__name__)


def main(argv=None):
    """The program; `SystemExit` with a message if the set cannot be written."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        write_set(**vars(_parse_arguments(argv)))
    except (ValueError, OSError) as error:
        raise SystemExit(f"dataset.synthetic: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _parse_arguments(argv):
    parser = argparse.ArgumentParser(
        prog="python -m dataset.synthetic",
        description="Draws a small set of made-up faces, to try training and evaluation with.",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder to make")
    parser.add_argument("--identities", type=int, metavar="N", help="to train on (%(default)s)")
    parser.add_argument("--images", type=int, metavar="N", help="of each, at most (%(default)s)")
    parser.add_argument("--held_out", type=int, metavar="N", help="identities to test on (%(default)s)")
    parser.add_argument("--pairs", type=int, metavar="N", help="of images, a multiple of 20 (%(default)s)")
    parser.add_argument("--videos", type=int, metavar="N", help="of each identity held out (%(default)s)")
    parser.add_argument("--frames", type=int, metavar="N", help="of each video (%(default)s)")
    parser.add_argument("--seed", type=int, help="another one draws other people (%(default)s)")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (one per core)")
    parser.set_defaults(**write_set.__kwdefaults__)
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
