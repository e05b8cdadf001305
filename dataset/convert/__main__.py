"""Converts training images to sharded, shuffled TFRecords. Run it once, before the first training.

    python -m dataset.convert --config config.ini --source ms1m

Image files and labels stay unchanged. Every image is checked. Damaged images are left out and listed in
`bad_records.txt`. If a conversion is killed, run the same command again to resume.
"""

if not __package__:
    raise SystemExit("Start this program in the project's folder: python -m dataset.convert")

import argparse
import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.files import readable_size
from common.options import exit_on_errors, option, parse_options
from dataset.config import read_config
from dataset.convert.options import ConvertOptions

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ProgramOptions:
    """Options of `python -m dataset.convert`."""

    config: Path = option(Path("config.ini"), "configuration file with the paths of the data")
    source: tuple[str, ...] | None = option(
        None, "sections of the configuration to convert (default: all sources)", nargs="+", metavar="NAME"
    )
    check: bool = option(False, "only verify the checksums of existing conversions")
    conversion: ConvertOptions


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the program. Raises `SystemExit` with a message if a source cannot be converted."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(
        prog="python -m dataset.convert",
        description="Converts training images to sharded, shuffled TFRecords. To resume an interrupted "
        "conversion, run the same command again.",
    )
    options = parse_options(parser, ProgramOptions, argv)
    from dataset.convert.sources import convert_sources

    with exit_on_errors("dataset.convert"):
        config = read_config(options.config)
        names = options.source or tuple(config.sources)
        if options.check:
            for name in names:
                _check_checksums(config.tfrecords / config.source(name).name)
        else:
            convert_sources(config, names, options.conversion)


def _check_checksums(folder):
    from common.progress import Progress
    from dataset.records.manifest import read_manifest, verify_checksums

    manifest = read_manifest(folder)
    verify_checksums(manifest, functools.partial(Progress, desc=manifest.source, unit="files"))
    logger.info(
        f"{folder}: {manifest.num_images} images, {len(manifest.shards)} shards, "
        f"{readable_size(manifest.num_bytes)}: all checksums are correct"
    )


if __name__ == "__main__":
    main()
