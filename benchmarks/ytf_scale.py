"""Measures the time, disk speed and memory that the features of YouTube Faces need at full size.

    python -m benchmarks.ytf_scale

Appends made-up features of 3,425 videos (the centre of an identity plus noise) to a feature store in a
temporary folder, opens it again, reads it video by video, and scores 5,000 pairs with every method. Prints a
table with a row for each step. To try it with only 4 GB of address space, run `ulimit -v 4000000` first.
"""

import argparse
import itertools
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from eval.embedding.feature_store import FeatureStore
from eval.scoring.templates import FRAME_PAIRS, POOLINGS
from eval.scoring.video_distances import video_distances

NUM_IDENTITIES, NUM_VIDEOS, NUM_FRAMES, MIN_FRAMES, MAX_FRAMES = 1595, 3425, 621_126, 48, 6070
NUM_PAIRS = 5000
DIM = 512
BATCH = 256

_HEADINGS = ("step", "seconds", "MB/s", "peak of all memory, MB", "peak without mapped files, MB")


def main(argv=None):
    """Runs the program."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ytf_scale", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--folder", type=Path, help="folder to create the temporary folder in (default: the system's)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the made-up features (default: %(default)s)"
    )
    args = parser.parse_args(argv)

    rng = np.random.default_rng(args.seed)
    lengths = video_lengths(rng)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    identities = rng.integers(NUM_IDENTITIES, size=NUM_VIDEOS)
    num_bytes = NUM_FRAMES * DIM * np.dtype(np.float32).itemsize
    print(f"{NUM_VIDEOS} videos, {NUM_FRAMES} frames of {DIM} floats: {num_bytes / 1e9:.2f} GB")
    print("| " + " | ".join(_HEADINGS) + " |\n|" + "---|" * len(_HEADINGS))
    with tempfile.TemporaryDirectory(dir=args.folder) as root:
        meter = Meter()
        with open_store(root) as store:
            for rows in made_up_features(np.repeat(identities, lengths), rng):
                with meter:
                    store.append(rows)
        print(meter.row("append", num_bytes))

        meter = Meter()
        with meter, open_store(root) as store:
            features = store.features
        print(meter.row("open and check", num_bytes))

        meter = Meter()
        for start, stop in itertools.pairwise(offsets):
            with meter:
                features[start:stop].mean(axis=0)
        print(meter.row("read by video", num_bytes))

        pairs = rng.integers(NUM_VIDEOS, size=(2, NUM_PAIRS))
        for name, methods in (("templates", POOLINGS), ("frame pairs", FRAME_PAIRS)):
            meter = Meter()
            with meter:
                video_distances(features, offsets, *pairs, methods, progress=True)
            print(meter.row(f"score by {name}", num_bytes))


def open_store(root):
    """Opens the feature store of the benchmark in the folder `root`."""
    return FeatureStore(root, {"model": "made up", "dim": DIM}, NUM_FRAMES)


def video_lengths(rng):
    """Draws the lengths of videos, with the minimum, maximum and sum of YouTube Faces.

    References:
    - Wolf, Hassner, Maoz, Face Recognition in Unconstrained Videos with Matched Background
      Similarity, CVPR 2011: 3,425 videos of 1,595 people, 48 to 6,070 frames, 181.3 on average

    Args:
        rng: `numpy.random.Generator`.

    Returns:
        int64 array, shape `(NUM_VIDEOS,)`.
    """
    lengths = np.clip(rng.lognormal(size=NUM_VIDEOS, sigma=0.8), 0.3, 20)
    lengths[:2] = 0  # the shortest and the longest video, set below
    room = NUM_FRAMES - MIN_FRAMES * (NUM_VIDEOS - 1) - MAX_FRAMES
    # The cumulative sum is rounded, not each length, so that the total is exact.
    shares = np.diff(np.round(np.cumsum(lengths) / lengths.sum() * room), prepend=0).astype(np.int64)
    lengths = MIN_FRAMES + shares
    lengths[1] = MAX_FRAMES
    return rng.permutation(lengths)


def made_up_features(identities, rng):
    """Yields features in batches, float32 `(n, DIM)`: the centre of each of `identities` plus noise."""
    centres = rng.standard_normal((NUM_IDENTITIES, DIM), np.float32)
    for start in range(0, len(identities), BATCH):
        chosen = identities[start : start + BATCH]
        yield centres[chosen] + rng.standard_normal((len(chosen), DIM), np.float32)


class Meter:
    """Context manager that sums the seconds spent in its blocks, and tracks the peak of memory.

    Attributes:
        seconds: total time in the blocks.
        peak: most bytes in use at the end of a block, without mapped files.
    """

    def __init__(self):
        self.seconds = 0.0
        self.peak = 0

    def __enter__(self):
        self._start = time.perf_counter()
        return self

    def __exit__(self, *exception):
        self.seconds += time.perf_counter() - self._start
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                self.peak = max(self.peak, int(line.split()[1]) * 1024)

    def row(self, step, num_bytes):
        """Returns the row of the table for a step that wrote or read `num_bytes`."""
        # This peak is since the start of the process. It includes mapped files, which the system can evict.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        numbers = (num_bytes / self.seconds / 1e6, peak / 1e6, self.peak / 1e6)
        return f"| {step} | {self.seconds:.1f} | " + " | ".join(f"{number:.0f}" for number in numbers) + " |"


if __name__ == "__main__":
    main()
