"""Converts training images to sharded, shuffled TFRecords; once, before the first training.

    python -m dataset.convert --config config.ini --source ms1m

Image bytes and labels stay as they are. Every image is checked; what is damaged is left out and
listed in `bad_records.txt`. A conversion may be killed at any moment: the same command goes on with it.
"""

import argparse
import functools
import logging

from dataset.config import read_config
from dataset.convert.convert_sources import READERS, convert, convert_sources
from dataset.images import LEVELS
from dataset.records.manifest import read_manifest, verify_checksums

logger = logging.getLogger(__name__)


def main(argv=None):
    """The program; `SystemExit` with a message if a source cannot be converted."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    args = _parse_arguments(argv)
    try:
        config = read_config(args.config)
        names = args.source or list(config.sources)
        if args.check:
            for name in names:
                _check_checksums(config.tfrecords / config.source(name).name)
            return
        convert_sources(config, names, **{name: getattr(args, name) for name in convert.__kwdefaults__})
    except (ValueError, OSError) as error:
        raise SystemExit(f"dataset.convert: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _parse_arguments(argv):
    parser = argparse.ArgumentParser(
        prog="python -m dataset.convert",
        description="Converts training images to sharded, shuffled TFRecords. A conversion that was "
        "interrupted goes on with the same command.",
    )
    parser.add_argument("--config", default="./config.ini", help="where the data lies (%(default)s)")
    parser.add_argument("--source", nargs="+", metavar="NAME", help="sections of the config (all sources)")
    parser.add_argument("--seed", type=int, help="of the order of the images (%(default)s)")
    parser.add_argument("--images_per_shard", type=int, metavar="N", help="at most (%(default)s)")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (one per core)")
    parser.add_argument(
        "--verify", choices=LEVELS, help="decode every image, or look at its header and end (%(default)s)"
    )
    parser.add_argument(
        "--max_bad", type=float, metavar="FRACTION", help="of images that may be left out (%(default)s)"
    )
    parser.add_argument(
        "--reader", choices=READERS, help="what reads a .rec; mxnet needs MXNet (%(default)s)"
    )
    parser.add_argument("--overwrite", action="store_true", help="convert again what is converted already")
    parser.add_argument("--check", action="store_true", help="only verify the checksums of what is converted")
    parser.set_defaults(**convert.__kwdefaults__)
    return parser.parse_args(argv)


def _check_checksums(folder):
    from tqdm import tqdm  # only now: --help shows no progress

    manifest = read_manifest(folder)
    verify_checksums(manifest, functools.partial(tqdm, desc=manifest.source, unit=" files", disable=None))
    logger.info(
        "%s: %d images, %d shards, %.1f MB: all checksums are right",
        folder,
        manifest.num_images,
        len(manifest.shards),
        manifest.num_bytes / 1e6,
    )


if __name__ == "__main__":
    main()
