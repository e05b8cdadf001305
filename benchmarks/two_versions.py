"""Compares the speed of this checkout with another one: training, embedding, conversion and start-up.

    python -m benchmarks.two_versions OTHER_CHECKOUT

Both run the same commands on the same made-up faces, in turns and with the same Python. For training, the
program compares the speed in the log after the first step. For everything else, it times the whole process.
"""

import argparse
import functools
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.comparison import Row, interleaved, medians, report

HERE = Path(__file__).parents[1]
_FACES = ("--identities=60", "--images=20", "--held_out=20", "--pairs=160", "--videos=2", "--frames=1")
_STEPS = 30
_SPEED = re.compile(r"([\d.]+) images/s")


def main(argv=None):
    """Runs the program."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.two_versions", description=__doc__.splitlines()[0]
    )
    parser.add_argument("other", type=Path, help="folder of the other checkout")
    parser.add_argument(
        "--rounds",
        type=int,
        default=3,
        metavar="N",
        help="measurements of each checkout (default: %(default)s)",
    )
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        report(rows(args.other.resolve(), args.rounds, Path(folder)))


def rows(other, rounds, folder):
    """Yields the rows of the table.

    Args:
        other: Path of the other checkout.
        rounds: int > 0, measurements of each checkout.
        folder: Path of an empty folder for faces and outputs.
    """
    run(HERE, "dataset.synthetic", f"--out={folder / 'faces'}", *_FACES)
    config = folder / "faces" / "config.ini"
    config.write_text(config.read_text().replace("enable = true", "enable = false"))
    checkouts = {"ours": HERE, "other": other}

    speeds = {name: [] for name in checkouts}
    for number in range(rounds):
        for name, checkout in list(checkouts.items())[:: -1 if number % 2 else 1]:
            speeds[name].append(train(checkout, config, folder / f"{name}_{number}"))
    ours, theirs = (statistics.median(speeds[name]) for name in checkouts)
    yield Row(
        "training, IR-32 112x96, batch 32", "the other checkout", "images/s", ours, theirs, ours / theirs
    )

    model = sorted((folder / "ours_0" / "models").glob("iter_*"))[-1]
    commands = {
        "embedding and scoring of 320 images": (
            *("eval.test_lfw", f"--data={folder / 'faces' / 'lfw.np'}"),
            *(f"--model_path={model}", "--engine=tensorflow"),
        ),
        "conversion of two small sources": ("dataset.convert", f"--config={config}", "--overwrite"),
        "train_centre --help": ("train_centre", "--help"),
    }
    for what, command in commands.items():
        ways = {name: functools.partial(run, checkout, *command) for name, checkout in checkouts.items()}
        seconds = medians(interleaved(ways, rounds))
        yield Row(
            *(what, "the other checkout", "s", seconds["ours"], seconds["other"]),
            seconds["other"] / seconds["ours"],
        )


def train(checkout, config, output):
    """Trains a few steps with a new net.

    Args:
        checkout: Path of the code to run.
        config: Path.
        output: Path of a new folder.

    Returns:
        float, the median of the speeds in the log, in images per second.
    """
    log = run(
        *(checkout, "train_centre", f"--config={config}", "--net_depth=32", "--batch_size=32"),
        *(f"--max_steps={_STEPS}", "--show_info_interval=10"),
        *(f"--summary_path={output / 'summary'}", f"--ckpt_path={output / 'ckpt'}"),
        *(f"--saved_model_path={output / 'models'}", f"--log_file_path={output / 'logs'}"),
    )
    # The first line is left out, because it averages over fewer steps than the others.
    return statistics.median(float(speed) for speed in _SPEED.findall(log)[1:])


def run(checkout, module, *arguments):
    """Runs a program of a checkout, and returns its standard error."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(
            f"{checkout}: {' '.join(command)}: exit code {done.returncode}\n{done.stderr[-2000:]}"
        )
    return done.stderr


if __name__ == "__main__":
    main()
