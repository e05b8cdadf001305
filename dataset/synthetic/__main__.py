"""Draws a small set of faces: training, validation and test data without a download.

    python -m dataset.synthetic --out data/synthetic

The set has the parts and formats of a real one: two training sources, pairs like those of LFW, videos like
those of YouTube Faces, and the `config.ini` that names them. A drawn video call and a gallery serve to try
face recognition. Pairs, videos and the call show other identities than the training sources.
"""

if not __package__:
    raise SystemExit("Start this program in the project's folder: python -m dataset.synthetic")

import argparse
import logging
from collections.abc import Sequence

from common.options import exit_on_errors, parse_options
from dataset.synthetic.face_set import FaceSetOptions, write_set


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the program. Raises `SystemExit` with a message if the set cannot be written."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(
        "python -m dataset.synthetic",
        description="Draws a small set of faces, to try out training and evaluation.",
    )
    options = parse_options(parser, FaceSetOptions, argv)
    with exit_on_errors("dataset.synthetic"):
        write_set(options)


if __name__ == "__main__":
    main()
