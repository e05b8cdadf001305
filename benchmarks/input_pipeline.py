"""Compares the speed of the input pipeline with decoding alone, and with a loader in plain Python.

    python -m benchmarks.input_pipeline

The pipeline reads drawn faces of 112x112 at quality 95 from a converted source in a temporary folder, and
decodes them. It has already been running for a while when the measurement starts. Mirroring, cropping and
normalising are left to the training step. There are two references, which both read from memory: simplejpeg,
which only decodes, with one thread per core and one buffer per thread; and one thread with PIL, NumPy and a
queue, which makes float32 images of 112x96.

The last rows show the cost of Python's lock, which lets only one thread run Python at a time. Threads read
and decode without TensorFlow. The first of these rows compares 2 threads with 1. The others use 8 and 16
threads, to predict machines with that many cores. Instead of decoding pixels, these threads sleep for as long
as decoding takes: neither holds the lock, and sleeping needs no core. They still call the decoder, with an
image of 8x8.
"""

import argparse
import ctypes
import functools
import io
import itertools
import os
import queue
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import numpy as np
import PIL.Image
import simplejpeg

from benchmarks.comparison import Row, interleaved, medians, report
from benchmarks.made_up_faces import convert_faces, made_up_faces
from benchmarks.running_pipeline import RunningPipeline, consume

IMAGE_SIZE = (112, 96)
_WHAT = "input pipeline, 112x112 q95 to uint8"
_SET_TIMER_SLACK = 29  # for `prctl`: by default Linux may let a thread sleep 50 µs too long


def main(argv=None):
    """Runs the program."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.input_pipeline", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--batch_size", type=int, default=128, help="images in a batch (default: %(default)s)"
    )
    parser.add_argument(
        "--batches", type=int, default=64, help="batches in each measurement (default: %(default)s)"
    )
    parser.add_argument(
        "--warm_up",
        type=int,
        default=64,
        help="batches of our pipeline before each measurement (default: %(default)s)",
    )
    parser.add_argument(
        "--rounds", type=int, default=9, metavar="N", help="number of measurements (default: %(default)s)"
    )
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count(), help="threads of simplejpeg (default: one per core)"
    )
    report(rows(parser.parse_args(argv)))


def rows(args):
    """Yields the rows of the table."""
    from dataset.pipeline import TrainingBatches
    from dataset.sampling.batch_loader import BatchLoader
    from dataset.sampling.combine import CombinedSources
    from dataset.sampling.shuffled import ShuffledSampler

    faces = made_up_faces(512)
    num_images = args.batch_size * args.batches
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(args.threads) as pool:
        sources = CombinedSources([convert_faces(Path(folder), "faces", faces, 128, 64)])
        sampler = ShuffledSampler(sources.sizes, args.batch_size)
        dataset = TrainingBatches(sources, sampler, IMAGE_SIZE).dataset(0)
        ours = RunningPipeline(dataset, args.batches, args.warm_up)
        chunks = [
            list(itertools.islice(itertools.cycle(faces), first, first + args.batch_size))
            for first in range(0, num_images, args.batch_size)
        ]
        processor_time = {}

        def timed(name, work):
            def way():
                start = time.process_time()
                work()
                processor_time.setdefault(name, []).append(time.process_time() - start)

            return way

        ways = {
            "ours": ours,
            "simplejpeg": lambda: consume(pool.map(decode_all, chunks)),
            "python": lambda: consume(python_batches(chunks)),
        }
        ways = {name: timed(name, way) for name, way in ways.items()}
        seconds = medians(interleaved(ways, args.rounds, around={"ours": ours}))
        loader = BatchLoader(sources, np.arange(args.batch_size))
        records = [sampler.batch(k) for k in range(args.batches)]
        locked = [*lock_rows(loader, records, faces, args.rounds)]
    rates = {name: num_images / taken for name, taken in seconds.items()}
    cost = {name: 1e6 / num_images * taken for name, taken in medians(processor_time).items()}
    for name, reference, goal in (
        ("simplejpeg", f"simplejpeg decode alone, {args.threads} threads", "at least 0.8"),
        ("python", "PIL, NumPy and a queue, one thread", "at least 3"),
    ):
        ratio = rates["ours"] / rates[name]
        yield Row(_WHAT, reference, "images/s", rates["ours"], rates[name], ratio, goal)
    yield Row(
        f"{_WHAT}, processor time",
        "simplejpeg decode alone",
        "µs/image",
        cost["ours"],
        cost["simplejpeg"],
        cost["ours"] / cost["simplejpeg"],
    )
    yield from locked


def lock_rows(loader, records, faces, rounds):
    """Yields rows about threads that read and decode.

    Args:
        loader: `dataset.sampling.batch_loader.BatchLoader`.
        records: list of int64 arrays `(batch_size,)`, the records of each batch.
        faces: list of bytes, JPEG files of 112x112.
        rounds: int > 0, number of measurements.
    """
    num_images = sum(map(len, records))
    decode, small = simplejpeg.decode_jpeg, simplejpeg.encode_jpeg(np.zeros((8, 8, 3), np.uint8))
    costs = {}
    for _ in range(rounds):
        for name, work, num in (
            ("all", lambda: consume(map(loader.load, records)), num_images),
            ("face", lambda: decode_all(faces), len(faces)),
            ("small", lambda: decode_all([small] * len(faces), np.empty((8, 8, 3), np.uint8)), len(faces)),
        ):
            start = time.thread_time()
            work()
            costs.setdefault(name, []).append((time.thread_time() - start) / num)
    cost = medians(costs)
    pause = cost["face"] - cost["small"]
    rest = cost["all"] - pause
    yield Row(
        "reading and decoding, without decoding pixels, processor time",
        "with decoding pixels",
        "µs/image",
        1e6 * rest,
        1e6 * cost["all"],
        rest / cost["all"],
        "under 25 µs",
    )
    ways = {number: functools.partial(load_all, loader, records, number) for number in (1, 2)}
    one, two = (num_images / seconds for seconds in medians(interleaved(ways, rounds)).values())
    yield Row("reading and decoding, 2 threads", "1 thread", "images/s", two, one, two / one)

    def as_long(_image, order, buffer):
        decode(small, order, buffer=np.empty((8, 8, 3), np.uint8))
        time.sleep(pause)

    with mock.patch("simplejpeg.decode_jpeg", as_long):
        ways = {number: functools.partial(load_all, loader, records, number) for number in (1, 8, 16)}
        rates = {number: num_images / taken for number, taken in medians(interleaved(ways, rounds)).items()}
    for number in (8, 16):
        yield Row(
            f"reading and decoding, {number} threads that sleep instead of decoding pixels",
            f"{number} times one such thread",
            "images/s",
            rates[number],
            number * rates[1],
            rates[number] / (number * rates[1]),
            "at least 40,000 images/s",
        )


def load_all(loader, records, num_threads):
    """Reads and decodes batches. Each thread takes the next batch when it is free."""
    prctl = functools.partial(ctypes.CDLL(None).prctl, _SET_TIMER_SLACK, 1, 0, 0, 0)
    with ThreadPoolExecutor(num_threads, initializer=prctl) as pool:
        consume(pool.map(loader.load, records))


def decode_all(images, buffer=None):
    """Decodes JPEG files into one buffer, by default uint8 `(112, 112, 3)`, and drops the result."""
    buffer = np.empty((112, 112, 3), np.uint8) if buffer is None else buffer
    for image in images:
        simplejpeg.decode_jpeg(image, buffer=buffer)


def python_batches(chunks):
    """Decodes lists of JPEG files in one Python thread. Yields float32 `(batch, 112, 96, 3)`, BGR."""
    batches = queue.Queue(maxsize=4)

    def work():
        rng = np.random.default_rng(0)
        for chunk in chunks:
            batches.put(np.stack([python_image(image, rng.random() < 0.5) for image in chunk]))
        batches.put(None)

    threading.Thread(target=work, daemon=True).start()
    while (batch := batches.get()) is not None:
        yield batch


def python_image(image, is_mirrored):
    """Decodes one image with PIL and NumPy: float32 `(112, 96, 3)`, BGR, normalised."""
    pixels = np.asarray(PIL.Image.open(io.BytesIO(image)).convert("RGB"))[:, 8:104, ::-1]
    pixels = pixels[:, ::-1] if is_mirrored else pixels
    return (pixels.astype(np.float32) - 127.5) / 128.0


if __name__ == "__main__":
    main()
