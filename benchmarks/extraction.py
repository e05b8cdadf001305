"""Compares how fast `eval.test_lfw` and `eval.test_ytf` embed faces from files with the forward pass alone.

    python -m benchmarks.extraction

The faces are drawn, and stored as a `.bin` file of JPEG pairs and as frames in folders. The net is an
LResNet-E-IR with initial weights. Batch sizes and engine are the defaults of the two programs. The reference
calls the same model with batches that are already in memory.
"""

import argparse
import functools
import itertools
import pickle
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.comparison import Row, interleaved, medians, report
from dataset.pairs.image_pairs import read_pairs
from dataset.pairs.video_frames import find_frames
from dataset.synthetic import draw_image
from eval.embedding.engines import ENGINES, Engine, load_engine
from eval.embedding.extractor import embed_into, embed_pairs
from eval.embedding.feature_store import FeatureStore
from nets.start_tensorflow import start_tensorflow

_NUM_DRAWN = 64  # different faces; the files repeat them
_FRAMES_PER_VIDEO = 32


def main(argv=None):
    """Runs the program."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.extraction", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--net_depth", type=int, default=50, help="depth of the net (default: %(default)s)")
    parser.add_argument(
        "--batches", type=int, default=2, help="batches that each program embeds (default: %(default)s)"
    )
    parser.add_argument(
        "--lfw_batch_size", type=int, default=64, help="images in a batch of test_lfw (default: %(default)s)"
    )
    parser.add_argument(
        "--ytf_batch_size", type=int, default=128, help="images in a batch of test_ytf (default: %(default)s)"
    )
    parser.add_argument(
        "--rounds", type=int, default=3, metavar="N", help="number of measurements (default: %(default)s)"
    )
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        default="tensorflow",
        help="library that computes embeddings (default: %(default)s)",
    )
    args = parser.parse_args(argv)
    start_tensorflow()
    report(rows(args))


def rows(args):
    """Yields the rows of the table."""
    from export.saved_model import export_saved_model
    from nets.backbone import Backbone

    drawn = [draw_image(0, identity, 0) for identity in range(_NUM_DRAWN)]
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        pairs = write_pairs(folder / "pairs.bin", drawn, args.batches * args.lfw_batch_size)
        frames = write_frames(folder / "frames", drawn, args.batches * args.ytf_batch_size)
        export_saved_model(Backbone(f"ir{args.net_depth}", (112, 96)), folder / "model")
        engine, faces = Engine(args.engine), pairs.batch(0, 16)
        model, description = load_engine(engine, folder / "model", pairs.image_size, faces, num_images=0)
        print(description, file=sys.stderr)
        runs = itertools.count()

        def into_a_store():
            with FeatureStore(folder / "features", {"run": next(runs)}, len(frames)) as store:
                embed_into(store, model, frames.decode, args.ytf_batch_size)

        programs = {
            "test_lfw": (
                lambda: embed_pairs(model, pairs, args.lfw_batch_size),
                pairs.batch,
                args.lfw_batch_size,
            ),
            "test_ytf": (into_a_store, frames.decode, args.ytf_batch_size),
        }
        for name, (extract, decode, batch_size) in programs.items():
            what = f"extraction, {name}, IR-{args.net_depth}, {engine.name}, batch {batch_size}"
            batch = decode(0, batch_size)
            model.embed(batch)  # warms up with this batch size
            forward = functools.partial(embed_resident, model, batch, args.batches)
            ways = {"extraction": extract, "forward": forward}
            seconds = medians(interleaved(ways, args.rounds, warm_up=0))
            measured = [args.batches * batch_size / seconds[way] for way in ways]
            ratio = measured[0] / measured[1]
            yield Row(what, "forward pass alone", "images/s", *measured, ratio, "at least 0.95")
            decoding = cpu_seconds(lambda decode=decode, size=batch_size: decode(0, size)) / batch_size
            embedding = cpu_seconds(functools.partial(model.embed, batch)) / batch_size
            yield Row(
                f"{what}: processor time of decoding",
                "processor time of the forward pass",
                "ms/image",
                1e3 * decoding,
                1e3 * embedding,
                decoding / embedding,
            )


def write_pairs(path, drawn, num_images):
    """Writes images as an InsightFace `.bin` file, and returns its `PairSet`."""
    images = list(itertools.islice(itertools.cycle(drawn), num_images))
    path.write_bytes(pickle.dumps((images, [True] * (num_images // 2))))
    return read_pairs(path)


def write_frames(folder, drawn, num_images):
    """Writes images as frames in one folder per video, and returns their `VideoFrames`."""
    videos = []
    for number, image in enumerate(itertools.islice(itertools.cycle(drawn), num_images)):
        video, frame = divmod(number, _FRAMES_PER_VIDEO)
        if not frame:
            videos.append(f"Name/{video}")
            (folder / videos[-1]).mkdir(parents=True)
        (folder / videos[-1] / f"{frame:04d}.jpg").write_bytes(image)
    return find_frames(folder, videos)


def embed_resident(model, batch, times):
    """Embeds the same batch, which is in memory, `times` times."""
    return np.concatenate([model.embed(batch) for _ in range(times)])


def cpu_seconds(function):
    """Returns the processor time of a call, over all threads, in seconds."""
    start = time.process_time()
    function()
    return time.process_time() - start


if __name__ == "__main__":
    main()
