"""Compares the speed of batches by identity and of batches by weight with that of plain shuffled batches.

    python -m benchmarks.sampling

Runs the same input pipeline with three samplers, on two sources of drawn faces in a temporary folder. The
first sampler draws every record once per epoch. The second draws identities with several images each, for the
triplet loss. The third draws from the two sources by weight, each with its own epochs.
"""

import argparse
import tempfile
from pathlib import Path

from benchmarks.comparison import Row, interleaved, medians, report
from benchmarks.made_up_faces import convert_faces, made_up_faces
from benchmarks.running_pipeline import RunningPipeline

IMAGE_SIZE = (112, 96)
WEIGHTS = (0.5, 0.5)  # of the two sources, although one is three times as large as the other


def main(argv=None):
    """Runs the program."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sampling", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--identities", type=int, default=32, help="identities in a batch (default: %(default)s)"
    )
    parser.add_argument(
        "--images", type=int, default=3, help="images of each identity (default: %(default)s)"
    )
    parser.add_argument(
        "--batches", type=int, default=64, help="batches in each measurement (default: %(default)s)"
    )
    parser.add_argument(
        "--warm_up", type=int, default=64, help="batches before each measurement (default: %(default)s)"
    )
    parser.add_argument(
        "--rounds", type=int, default=9, metavar="N", help="number of measurements (default: %(default)s)"
    )
    report(rows(parser.parse_args(argv)))


def rows(args):
    """Yields the rows of the table."""
    from dataset.pipeline import TrainingBatches
    from dataset.sampling.by_identity import IdentitySampler
    from dataset.sampling.combine import CombinedSources
    from dataset.sampling.shuffled import ShuffledSampler

    batch_size = args.identities * args.images
    faces = made_up_faces(512)
    with tempfile.TemporaryDirectory() as folder:
        sources = CombinedSources(
            [
                convert_faces(Path(folder), name, faces, num_identities, 32)
                for name, num_identities in (("small", 64), ("large", 192))
            ]
        )
        samplers = {
            "plain": ShuffledSampler(sources.sizes, batch_size),
            "identities": IdentitySampler(sources.labels, batch_size, args.images),
            "weights": ShuffledSampler(sources.sizes, batch_size, weights=WEIGHTS),
        }
        ways = {
            name: RunningPipeline(
                TrainingBatches(sources, sampler, IMAGE_SIZE).dataset(0), args.batches, args.warm_up
            )
            for name, sampler in samplers.items()
        }
        seconds = medians(interleaved(ways, args.rounds, around=ways))
    rates = {name: batch_size * args.batches / taken for name, taken in seconds.items()}
    for name, what in (
        ("identities", f"P x K batches, {args.identities} x {args.images}"),
        ("weights", "balanced sampling, two sources by weight"),
    ):
        ratio = rates[name] / rates["plain"]
        yield Row(what, "the plain pipeline", "images/s", rates[name], rates["plain"], ratio, "at least 0.9")


if __name__ == "__main__":
    main()
