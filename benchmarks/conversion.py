"""Compares the speed of `dataset.convert` on a `.rec` file with that of `cp`.

    python -m benchmarks.conversion

The program writes the `.rec` to a temporary folder. It holds drawn faces with some noise, so that their JPEG
files are as large as those of MS1M, about 6 kB. Like a conversion, `cp` writes to a new file and waits until
it is on disk. Both read the `.rec` from the system's file cache.
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

_NUM_FACES = 300  # different faces; the images repeat them
_IMAGES_PER_IDENTITY = 60
_NOISE = 5.0  # of 255, standard deviation
_QUALITY = 95
_GOALS = {"header": 0.33, "full": 0.15}


def main(argv=None):
    """Runs the program."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.conversion", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--images", type=int, default=100_000, metavar="N", help="images to convert (default: %(default)s)"
    )
    parser.add_argument(
        "--rounds", type=int, default=5, metavar="N", help="number of measurements (default: %(default)s)"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: one per core)")
    parser.add_argument(
        "--folder", type=Path, help="folder on the disk to measure (default: the system's temporary folder)"
    )
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        report(measure(Path(folder), args))


def measure(folder, args):
    """Yields the rows of the table; writes the faces and all output to `folder`."""
    rec = write_faces(folder / "faces", args.images)
    megabytes = rec.stat().st_size / 1e6
    seconds = {name: [] for name in ("cp", *_GOALS)}
    for number in range(-1, args.rounds):
        out = folder / "out"
        out.mkdir()
        ways = {"cp": lambda out=out: copy(rec, out / "copy.rec")} | {
            verify: lambda out=out, verify=verify: convert_to(rec, out / verify, verify, args.workers)
            for verify in _GOALS
        }
        # The rounds run one by one, so that their output can be removed in between without being timed.
        order = list(ways)[:: -1 if number % 2 else 1]
        taken = interleaved({name: ways[name] for name in order}, rounds=1, warm_up=0)
        if number >= 0:
            for name, times in taken.items():
                seconds[name] += times
        shutil.rmtree(out)
    speeds = {name: megabytes / statistics.median(times) for name, times in seconds.items()}
    for verify, least in _GOALS.items():
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
    """Writes an InsightFace set of drawn faces with noise, and returns the path of its `.rec`."""
    # Imported here, because worker processes import this module and draw nothing.
    from dataset.synthetic import draw_image

    rng = np.random.default_rng(0)
    faces = [add_noise(draw_image(0, identity, 0), rng) for identity in range(min(_NUM_FACES, num_images))]
    return write_rec(folder, num_images, _IMAGES_PER_IDENTITY, lambda key: faces[key % len(faces)])


def add_noise(image, rng):
    """Adds the grain of a photograph to a drawn face, and returns a JPEG of MS1M's quality."""
    import cv2  # Imported here for the same reason as `draw_image`.

    pixels = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR)
    grain = rng.normal(0, _NOISE, pixels.shape)
    pixels = np.clip(pixels + grain, 0, 255).astype(np.uint8)
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()


def copy(source, target):
    """Copies a file with `cp`, and waits until the copy is on disk."""
    subprocess.run(["cp", source, target], check=True)
    subprocess.run(["sync", target], check=True)


def convert_to(rec, folder, verify, workers):
    """Converts once. Includes all work of the program except starting Python."""
    manifest = convert(
        SourceConfig("faces", "mxrec", rec), folder, ConvertOptions(verify=verify, workers=workers)
    )
    if manifest.num_bad:
        raise ValueError(f"{rec}: expected no bad images, received {manifest.num_bad}")


if __name__ == "__main__":
    main()
