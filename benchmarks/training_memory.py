"""Peak memory of `train_centre`, against what its arrays take by arithmetic.

    python -m benchmarks.training_memory

A real run in a process of its own: made-up images of only some of the identities; steps,
a checkpoint, a SavedModel. Left out is what the process held when it had imported the program and
TensorFlow, before it made anything; that is a row of its own. The arithmetic is of
`training.memory.step_memory`, without the gradients, and is printed part by part.
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

# What is compared with; gradients and what the head works in have to fit in, too.
COUNTED = ("weights", "optimizer", "batch", "activations", "logits")
_NUM_IMAGES = 256


def main(argv=None):
    """Runs the program."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.training_memory", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--identities", type=int, default=94_000, metavar="N")
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
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--sample_rate", type=float, default=1.0)
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.one:
        print(json.dumps(measure(args)))
        return
    report(rows(args))


def rows(args):
    """The rows of the table, in MB."""
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
    yield Row("memory of train_centre: program and TensorFlow, left out", "", "MB", numbers["start"] / 1e6)
    for name, size in numbers["needs"].items():
        yield Row(f"memory of train_centre, by arithmetic: {name}", "", "MB", size / 1e6)


def run(args):
    """What `measure` returns, from a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        write_data(Path(folder), args.identities)
        command = [sys.executable, "-m", "benchmarks.training_memory", "--one", folder]
        for name in ("identities", "net_depth", "batch_size", "image_size", "steps", "sample_rate"):
            value = getattr(args, name)
            command += [f"--{name}", *map(str, value if isinstance(value, (list, tuple)) else [value])]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def write_data(folder, num_identities):
    """A list of made-up images, few of whose identities have any, and a config."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (_NUM_IMAGES, 14, 14, 3), np.uint8)
    images = [cv2.imencode(".jpg", cv2.resize(each, (112, 112)))[1].tobytes() for each in noise]
    write_list(folder, images, num_identities)


def measure(args):
    """Runs `train_centre` in this process.

    Args:
        args: parsed flags; `args.one` is the folder of `write_data`.

    Returns:
        dict: `start`, bytes held before anything was made; `before` and `peak`, the most that was held until
        the first step and until the end; `needs`, dict of `training.memory.step_memory`; `last_step`, in
        seconds.

    Raises:
        ValueError: the run failed.
    """
    import train_centre
    from dataset.config import read_config
    from dataset.convert.sources import convert_sources
    from training import preflight
    from training.session import Trainer  # and with it TensorFlow and the rest of a run

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
