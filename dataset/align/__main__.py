"""Detects faces in pictures, and crops and aligns them the way face recognition nets expect.

    python -m dataset.align --src frames --dst 112x112

Each picture below `--src` becomes a JPEG with the same relative path below `--dst`. `align_failures.txt`
lists pictures that are unreadable or show no face. If the program is killed, run the same command again to
resume.
"""

if not __package__:
    raise SystemExit("Start this program in the project's folder: python -m dataset.align")

import argparse
import logging
from collections.abc import Sequence

from common.options import exit_on_errors, parse_options
from dataset.align.alignment import CENTRE_CROP, NO_FACE, UNREADABLE
from dataset.align.folder import FAILURES_NAME, align_folder
from dataset.align.options import AlignOptions

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the program. Raises `SystemExit` with a message if it cannot start or finds no face at all."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(
        "python -m dataset.align",
        description="Detects faces in pictures and aligns them by five points. To resume an interrupted run, "
        "run the same command again.",
    )
    options = parse_options(parser, AlignOptions, argv)
    with exit_on_errors("dataset.align"):
        counts = align_folder(options)
    logger.info(
        f"{counts['aligned']} pictures aligned, {counts[NO_FACE] + counts[CENTRE_CROP]} without a face "
        f"({counts[CENTRE_CROP]} of them as a centre crop), {counts[UNREADABLE]} unreadable; "
        f"see {options.dst / FAILURES_NAME}"
    )
    if not counts["aligned"]:
        raise SystemExit(f"dataset.align: {options.dst}: expected at least one face, received none")


if __name__ == "__main__":
    main()
