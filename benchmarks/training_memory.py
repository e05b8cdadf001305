"""Compares the peak memory of `train_centre` with the computed size of its arrays.

    python -m benchmarks.training_memory

Starts a real run in another process, with made-up images of only some of the identities. The run does some
steps, and writes a checkpoint and a SavedModel. The memory after importing the program and TensorFlow is
subtracted, and shown in a row of its own. The sizes are computed by `training.memory.step_memory`, shown part
by part, and compared without the gradients.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from benchmarks.comparison import Row, report
from benchmarks.made_up_sets import write_list
from benchmarks.many_identities import peak, resident

# The peak is compared with the sum of these. The gradients and the work space of the head come on top.
COUNTED = ("weights", "optimizer", "batch", "activations", "logits")
_NUM_IMAGES = 256


def main(argv=None):
    """Runs the program."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.training_memory", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--identities",
        type=int,
        default=94_000,
        metavar="N",
        help="number of identities (default: %(default)s)",
    )
    parser.add_argument("--net_depth", type=int, default=50, help="depth of the net (default: %(default)s)")
    parser.add_argument("--batch_size", type=int, default=32, help="images in a batch (default: %(default)s)")
    parser.add_argument(
        "--image_size",
        type=int,
        nargs=2,
        default=(112, 96),
        metavar=("H", "W"),
        help="height and width of the images (default: 112 96)",
    )
    parser.add_argument("--steps", type=int, default=3, help="steps to train (default: %(default)s)")
    parser.add_argument(
        "--sample_rate",
        type=float,
        default=1.0,
        help="share of the identities that a step uses (default: %(default)s)",
    )
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.one:
        print(json.dumps(measure(args)))
        return
    report(rows(args))


def rows(args):
    """Yields the rows of the table, in MB."""
    setting = f"depth {args.net_depth}, {args.identities:,} identities, batch {args.batch_size}"
    numbers = run(args)
    counted = sum(numbers["needs"][name] for name in COUNTED)
    taken = numbers["peak"] - numbers["start"]
    yield Row(
        f"memory of train_centre, {setting}",
        "weights + optimizer + activations",
        "MB",
        taken / 1e6,
        counted / 1e6,
        taken / counted,
        "at most 1.3",
    )
    yield Row("memory of train_centre: the last step", "", "s", numbers["last_step"])
    yield Row(
        "memory of train_centre: before the first step",
        "",
        "MB",
        (numbers["before"] - numbers["start"]) / 1e6,
    )
    yield Row(
        "memory of train_centre: program and TensorFlow, subtracted above", "", "MB", numbers["start"] / 1e6
    )
    for name, size in numbers["needs"].items():
        yield Row(f"memory of train_centre, computed: {name}", "", "MB", size / 1e6)


def run(args):
    """Runs `measure` in another process, and returns its result."""
    with tempfile.TemporaryDirectory() as folder:
        write_data(Path(folder), args.identities)
        command = [sys.executable, "-m", "benchmarks.training_memory", "--one", folder]
        for name in ("identities", "net_depth", "batch_size", "image_size", "steps", "sample_rate"):
            value = getattr(args, name)
            command += [f"--{name}", *map(str, value if isinstance(value, (list, tuple)) else [value])]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def write_data(folder, num_identities):
    """Writes a list of made-up images and a config. Only a few of the identities have images."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (_NUM_IMAGES, 14, 14, 3), np.uint8)
    images = [cv2.imencode(".jpg", cv2.resize(each, (112, 112)))[1].tobytes() for each in noise]
    write_list(folder, images, num_identities)


def measure(args):
    """Runs `train_centre` in this process.

    Args:
        args: parsed flags; `args.one` is a folder of `write_data`.

    Returns:
        dict: `start`, bytes in use after the imports; `before` and `peak`, most bytes in use before the first
        step and until the end; `needs`, the dict of `training.memory.step_memory`; `last_step`, in seconds.

    Raises:
        ValueError: the run failed.
    """
    import train_centre
    from dataset.config import read_config
    from dataset.convert.sources import convert_sources
    from training import preflight
    from training.session import Trainer  # also imports TensorFlow and everything else that a run needs

    convert_sources(read_config(args.one / "config.ini"), ["made_up"])
    numbers = {"start": resident()}
    needs, step = preflight.step_memory, Trainer.train_step

    def step_memory(*given):
        numbers["needs"] = needs(*given)
        return numbers["needs"]

    def train_step(self, images, identities, **options):
        numbers.setdefault("before", peak())
        begin = time.perf_counter()
        terms = step(self, images, identities, **options)
        float(terms["loss"])
        numbers["last_step"] = time.perf_counter() - begin
        return terms

    preflight.step_memory, Trainer.train_step = step_memory, train_step
    folders = ("summary_path", "ckpt_path", "saved_model_path", "log_file_path")
    code = train_centre.main(
        [
            f"--config={args.one / 'config.ini'}",
            "--source=made_up",
            f"--net_depth={args.net_depth}",
            f"--batch_size={args.batch_size}",
            f"--max_steps={args.steps}",
            f"--sample_rate={args.sample_rate}",
            *("--image_size", *map(str, args.image_size)),
            *(f"--{name}={args.one / name}" for name in folders),
        ]
    )
    if code:
        raise ValueError(f"train_centre: expected exit code 0, received {code}")
    numbers["peak"] = peak()
    return numbers


if __name__ == "__main__":
    main()
