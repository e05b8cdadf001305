"""Measures the time and memory that the trainers need to open a converted set.

    python -m benchmarks.opening

Each part is measured in its own processes, after all imports. The shards are empty files, because opening a
set checks only their sizes.
"""

import argparse
import functools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.comparison import Row, report
from benchmarks.made_up_sets import write_converted, write_rec
from benchmarks.many_identities import peak, resident
from dataset.config import SourceConfig
from dataset.convert.sources import convert
from dataset.records.manifest import read_manifest
from dataset.sampling.by_identity import IdentitySampler
from dataset.sampling.combine import CombinedSources
from dataset.sampling.shuffled import ShuffledSampler
from dataset.sources.insightface_rec import InsightFaceRec, fingerprint

_IMAGES_PER_IDENTITY = 60  # as MS1M has them
_BATCH_SIZE = 128
_LIMITS = {"s": "under 1 s", "MB": "under 200 MB"}


def main(argv=None):
    """Runs the program."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.opening", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--records", type=int, default=1_000_000, metavar="N", help="number of records (default: %(default)s)"
    )
    parser.add_argument(
        "--rounds", type=int, default=3, metavar="N", help="number of measurements (default: %(default)s)"
    )
    parser.add_argument("--one", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.one:
        print(json.dumps(measure(functools.partial(WAYS[args.one], args.folder))))
        return
    with tempfile.TemporaryDirectory() as folder:
        report(rows(Path(folder), args))


def rows(folder, args):
    """Yields the rows: seconds and memory of each part of `WAYS`."""
    rec = write_rec(folder / "rec", args.records, _IMAGES_PER_IDENTITY)
    num_identities = -(-args.records // _IMAGES_PER_IDENTITY)
    source = SourceConfig("faces", "mxrec", rec)
    write_converted(folder / "faces", args.records, num_identities, fingerprint(source))
    for name in WAYS:
        seconds, size = map(
            statistics.median, zip(*(run(name, folder) for _ in range(args.rounds)), strict=True)
        )
        for value, unit in ((seconds, "s"), (size / 1e6, "MB")):
            yield Row(f"opening {args.records:,} records, {name}", "", unit, value, goal=_LIMITS[unit])


def run(name, folder):
    """Runs `measure` for one of `WAYS` in its own process."""
    command = [sys.executable, "-m", "benchmarks.opening", "--one", name, "--folder", str(folder)]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def measure(way):
    """Returns `[seconds, bytes]` of a call: its time, and how far memory rose above its start."""
    before = resident()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak of memory
    start = time.perf_counter()
    kept = way()
    seconds = time.perf_counter() - start
    size = peak() - before
    del kept
    return [seconds, size]


def open_for_centres(folder):
    """Opens a set like `train_centre` if its source is gone, and draws the first batch of records."""
    sources = CombinedSources([read_manifest(folder / "faces")])
    sampler = ShuffledSampler(sources.sizes, _BATCH_SIZE)
    return sources, sampler, sampler.batch(0)


def open_for_triplets(folder):
    """Opens a set like `train_triplet`, and draws the first batch of records."""
    sources = CombinedSources([read_manifest(folder / "faces")])
    sampler = IdentitySampler(sources.labels, _BATCH_SIZE, 4)
    return sources, sampler, sampler.batch(0)


def check_conversion(folder):
    """Checks like the trainers that a conversion is up to date with its `.rec`."""
    return convert(SourceConfig("faces", "mxrec", folder / "rec"), folder)


def open_rec(folder):
    """Opens a `.rec` like the start of a conversion."""
    return InsightFaceRec(folder / "rec")


WAYS = {
    "train_centre": open_for_centres,
    "train_triplet": open_for_triplets,
    "check that the conversion of a .rec is up to date": check_conversion,
    "open the .rec for a conversion": open_rec,
}


if __name__ == "__main__":
    main()
