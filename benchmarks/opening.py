"""What it takes to open a converted set, as the trainers do at their start: seconds and memory.

    python -m benchmarks.opening

Every way is measured in processes of its own, which have imported what they need. The shards hold nothing:
their sizes are all that opening looks at.
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
    parser.add_argument("--records", type=int, default=1_000_000, metavar="N")
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
    """Yields the rows: seconds and memory of every way."""
    rec = write_rec(folder / "rec", args.records, _IMAGES_PER_IDENTITY)
    num_identities = -(-args.records // _IMAGES_PER_IDENTITY)
    source = SourceConfig("faces", "mxrec", rec)
    write_converted(folder / "faces", args.records, num_identities, fingerprint(source))
    for name in WAYS:
        seconds, size = map(
            statistics.median, zip(*(run(name, folder) for _ in range(args.rounds)), strict=True)
        )
        for value, unit in ((seconds, "s"), (size / 1e6, "MB")):
            yield Row(f"opening {args.records:,} records, {name}", "", unit, value, to_reach=_LIMITS[unit])


def run(name, folder):
    """`measure` of one way in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.opening", "--one", name, "--folder", str(folder)]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def measure(way):
    """`[seconds, bytes]` of a function: the time, and the peak of memory above what there was before."""
    before = resident()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again
    start = time.perf_counter()
    kept = way()
    seconds = time.perf_counter() - start
    size = peak() - before
    del kept
    return [seconds, size]


def open_for_centres(folder):
    """As `train_centre` opens a set whose source is gone, and its first batch of records."""
    sources = CombinedSources([read_manifest(folder / "faces")])
    sampler = ShuffledSampler(sources.sizes, _BATCH_SIZE)
    return sources, sampler, sampler.batch(0)


def open_for_triplets(folder):
    """As `train_triplet`."""
    sources = CombinedSources([read_manifest(folder / "faces")])
    sampler = IdentitySampler(sources.labels, _BATCH_SIZE, 4)
    return sources, sampler, sampler.batch(0)


def open_beside_its_rec(folder):
    """As the trainers do while the `.rec` is there: whether the conversion is up to date."""
    return convert(SourceConfig("faces", "mxrec", folder / "rec"), folder)


def open_rec(folder):
    """What a conversion begins with."""
    return InsightFaceRec(folder / "rec")


WAYS = {
    "train_centre": open_for_centres,
    "train_triplet": open_for_triplets,
    "is the conversion of a .rec up to date": open_beside_its_rec,
    "the .rec itself, to convert it": open_rec,
}


if __name__ == "__main__":
    main()
