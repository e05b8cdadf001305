"""Times `dataset.convert` reading, checking and writing a `.rec`, next to `cp` of the same file.

    python -m benchmarks.conversion

The `.rec` is made in a temporary folder: made-up faces with some noise, which makes their JPEGs as large as
those of MS1M, about 6 kB. `cp` writes to a new file and waits until it is on disk, as a conversion does. The
source is in memory for all of them.
"""

import argparse
import shutil
import statistics
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.comparison import Row, interleaved, report
from benchmarks.made_up_sets import write_rec
from dataset.config import SourceConfig
from dataset.convert.options import ConvertOptions
from dataset.convert.sources import convert

_NUM_FACES = 300  # that are drawn; the images repeat them
_IMAGES_PER_IDENTITY = 60
_NOISE = 5.0  # of 255, standard deviation
_QUALITY = 95
_TO_REACH = {"header": 0.33, "full": 0.15}


def main(argv=None):
    """The program."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.conversion", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--images", type=int, default=100_000, metavar="N")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (one per core)")
    parser.add_argument(
        "--folder", type=Path, help="on the disk to measure; the faces go below it (a temporary one)"
    )
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        report(measure(Path(folder), args))


def measure(folder, args):
    """Yields the rows."""
    rec = write_faces(folder / "faces", args.images)
    megabytes = rec.stat().st_size / 1e6
    seconds = {name: [] for name in ("cp", *_TO_REACH)}
    for number in range(-1, args.rounds):
        out = folder / "out"
        out.mkdir()
        ways = {"cp": lambda out=out: copy(rec, out / "copy.rec")} | {
            verify: lambda out=out, verify=verify: convert_to(rec, out / verify, verify, args.workers)
            for verify in _TO_REACH
        }
        # A round of its own: what it wrote is removed before the next one, and that is not timed.
        order = list(ways)[:: -1 if number % 2 else 1]
        taken = interleaved({name: ways[name] for name in order}, rounds=1, warm_up=0)
        if number >= 0:
            for name, times in taken.items():
                seconds[name] += times
        shutil.rmtree(out)
    speeds = {name: megabytes / statistics.median(times) for name, times in seconds.items()}
    for verify, least in _TO_REACH.items():
        ratio = statistics.median(
            copied / converted for copied, converted in zip(seconds["cp"], seconds[verify], strict=True)
        )
        what = f"`dataset.convert --verify {verify}`, {args.images:,} records"
        yield Row(
            what,
            "`cp` of the `.rec`, on disk",
            "MB/s",
            speeds[verify],
            speeds["cp"],
            ratio,
            f"at least {least}",
        )


def write_faces(folder, num_images):
    """Writes an InsightFace set of made-up faces; returns the path of its `.rec`."""
    # Workers import this program again and draw nothing.
    from dataset.synthetic import draw_image

    rng = np.random.default_rng(0)
    faces = [add_noise(draw_image(0, identity, 0), rng) for identity in range(min(_NUM_FACES, num_images))]
    return write_rec(folder, num_images, _IMAGES_PER_IDENTITY, lambda key: faces[key % len(faces)])


def add_noise(image, rng):
    """A drawn face with the grain of a photograph, encoded as MS1M is."""
    import cv2  # as above

    pixels = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR)
    grain = rng.normal(0, _NOISE, pixels.shape)
    pixels = np.clip(pixels + grain, 0, 255).astype(np.uint8)
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()


def copy(source, target):
    """`cp`, until the copy is on disk."""
    subprocess.run(["cp", source, target], check=True)
    subprocess.run(["sync", target], check=True)


def convert_to(rec, folder, verify, workers):
    """One conversion, from the program's start on but for Python's own."""
    manifest = convert(
        SourceConfig("faces", "mxrec", rec), folder, ConvertOptions(verify=verify, workers=workers)
    )
    if manifest.num_bad:
        raise ValueError(f"{rec}: expected sound images, received {manifest.num_bad} bad ones")


if __name__ == "__main__":
    main()
