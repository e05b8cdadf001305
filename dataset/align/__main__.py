"""Aligns faces: detects them in pictures and crops them with the five points where nets expect them.

    python -m dataset.align --src frames --dst 112x112

Every picture below `--src` becomes a JPEG with the same relative path below `--dst`. Pictures without a face
and unreadable ones are listed in `align_failures.txt`. If the program is killed, run the same command again
to resume.
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
        description="Detects the faces in pictures and aligns them by five points. To resume an interrupted "
        "run, give the same command again.",
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
