"""Measures the samplers and the index with 42 million records: time to open, memory, time to draw a batch.

    python -m benchmarks.many_records

Each part runs in its own process, and its memory is that of the whole process. The set has no images.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.comparison import Row, report
from benchmarks.made_up_sets import write_converted
from benchmarks.many_identities import peak
from dataset.records.manifest import read_manifest
from dataset.sampling.by_identity import IdentitySampler
from dataset.sampling.combine import CombinedSources
from dataset.sampling.shuffled import ShuffledSampler

_IMAGES_PER_IDENTITY = 4  # in a batch


def main(argv=None):
    """Runs the program."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.many_records", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--records",
        type=int,
        default=42_000_000,
        metavar="N",
        help="number of records (default: %(default)s, as in WebFace42M)",
    )
    parser.add_argument(
        "--identities",
        type=int,
        default=2_000_000,
        metavar="N",
        help="number of identities (default: %(default)s)",
    )
    parser.add_argument(
        "--batch_size", type=int, default=128, help="images in a batch (default: %(default)s)"
    )
    parser.add_argument(
        "--batches", type=int, default=2000, metavar="N", help="batches to draw (default: %(default)s)"
    )
    parser.add_argument("--one", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.one:
        print(json.dumps(measure(WAYS[args.one], args)))
        return
    with tempfile.TemporaryDirectory() as folder:
        report(rows(Path(folder), args))


def rows(folder, args):
    """Yields the rows of each part of `WAYS`."""
    write_converted(folder / "faces", args.records, args.identities)
    for name in WAYS:
        command = [
            *(sys.executable, "-m", "benchmarks.many_records", "--one", name, "--folder", str(folder)),
            *("--batch_size", str(args.batch_size), "--batches", str(args.batches)),
        ]
        run = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        opening, size, median, slowest = json.loads(run.stdout)
        what = f"{name}, {args.records:,} records"
        yield Row(f"{what}: opening, with a first batch", "", "s", opening)
        yield Row(f"{what}: memory of the process", "", "MB", size, goal="under 1000 MB")
        yield Row(f"{what}: a batch of {args.batch_size}", "", "ms", median, goal="under 1 ms")
        yield Row(f"{what}: the slowest batch", "", "ms", slowest)


def measure(way, args):
    """Measures one of `WAYS` in this process.

    Returns:
        `[seconds, MB, ms, ms]`: time to open the set, peak of memory, median and longest time for a batch.
    """
    start = time.perf_counter()
    draw, batches_per_epoch = way(args.folder / "faces", args.batch_size)
    draw(0)
    opening = time.perf_counter() - start
    draw(int(batches_per_epoch / 2) + 1)
    # A thread now prepares the order of the next epoch. Training has half an epoch for it, which is longer.
    time.sleep(3 * opening)
    first = max(1, int(batches_per_epoch) - args.batches // 2)  # The end of an epoch is among the batches.
    milliseconds = []
    for k in range(first, first + args.batches):
        start = time.perf_counter()
        draw(k)
        milliseconds.append(1e3 * (time.perf_counter() - start))
    return [opening, peak() / 1e6, float(np.median(milliseconds)), max(milliseconds)]


def draw_shuffled(folder, batch_size):
    """Opens the set for batches in which every record occurs once per epoch."""
    sampler = ShuffledSampler(CombinedSources([read_manifest(folder)]).sizes, batch_size)
    return sampler.batch, sampler.batches_per_epoch


def draw_identities(folder, batch_size):
    """Opens the set for batches of P identities with K images each."""
    labels = CombinedSources([read_manifest(folder)]).labels
    sampler = IdentitySampler(labels, batch_size, _IMAGES_PER_IDENTITY)
    num_identities = batch_size // _IMAGES_PER_IDENTITY
    return sampler.batch, sum(int(source_labels.max()) + 1 for source_labels in labels) / num_identities


def look_up(folder, batch_size):
    """Opens the set for looking up random rows of its index."""
    sources = CombinedSources([read_manifest(folder)])

    def draw(k):
        records = np.random.default_rng(k).integers(sources.num_images, size=batch_size)
        return np.array([sources.place_of(record).identity for record in records.tolist()])

    return draw, sources.num_images / batch_size


WAYS = {
    "`ShuffledSampler`": draw_shuffled,
    "`IdentitySampler`, 4 images each": draw_identities,
    "manifest and index": look_up,
}


if __name__ == "__main__":
    main()
