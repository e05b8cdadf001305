"""Kills a training run again and again, and checks that its results equal those of an undisturbed run.

    python -m benchmarks.torture --kills 20

Trains a small net on made-up faces, and kills the process at random moments with `kill -9` or sometimes
SIGTERM. It repeats the same command until the run finishes, then compares every variable of the last
checkpoint and of all SavedModels with those of an unbroken run, bit for bit. Prints a row for each kill.
"""

import argparse
import itertools
import logging
import os
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.killed_runs import MOMENTS, PROGRAMS, finish, torture, training_command
from dataset.synthetic import FaceSetOptions, write_set
from nets.importers.training_checkpoint import newest_checkpoint


def main(argv=None):
    """Runs the program. Returns 1 if anything differs, else 0."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.torture",
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--program", choices=PROGRAMS, default=PROGRAMS[0], help="trainer to kill")
    parser.add_argument("--kills", type=int, default=20, help="number of kills")
    parser.add_argument(
        "--steps", type=int, default=240, help="steps of a run; further runs follow until all kills are done"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments of the kills")
    args = parser.parse_args(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("dataset").setLevel(logging.WARNING)
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        options = FaceSetOptions(
            out=folder / "data", identities=12, images=8, held_out=4, pairs=40, videos=3, frames=1
        )
        write_set(options)
        config = folder / "data" / "config.ini"
        unbroken = folder / "unbroken"
        finish(training_command(args.program, config, unbroken, args.steps), unbroken)
        rng = np.random.default_rng(args.seed)
        # One moment of each kind first, then random ones.
        moments = itertools.chain(rng.permutation(MOMENTS), iter(lambda: rng.choice(MOMENTS), None))
        moments = list(itertools.islice(moments, args.kills))
        print("| kill | aimed at | hit | step reached | saved | redone |\n|" + "---|" * 6)
        kills, problems = [], []
        for number in itertools.count(1):
            broken = folder / f"broken{number}"
            command = training_command(args.program, config, broken, args.steps)
            for kill in torture(command, broken, moments[len(kills) :], rng):
                kills.append(kill)
                cells = (len(kills), kill.moment, kill.hit, kill.reached, kill.saved, kill.redone)
                print("| " + " | ".join(map(str, cells)) + " |", flush=True)
            problems += differences(unbroken, broken)
            print(f"run {number}: " + describe_points(unbroken, broken), flush=True)
            if len(kills) == args.kills:
                break
    print(
        f"{len(kills)} kills in {number} runs of {args.steps} steps of {args.program}, "
        f"{sum(kill.redone for kill in kills)} steps redone, {time.monotonic() - start:.0f} s"
    )
    print(
        "\n".join(problems)
        or "every variable of checkpoints and models equals that of the unbroken run, bit for bit"
    )
    return 1 if problems else 0


def differences(unbroken, broken):
    """Compares the last checkpoints and the SavedModels of two runs.

    Args:
        unbroken: Path of the output folder of one run.
        broken: Path of the output folder of the other run.

    Returns:
        List of str, one for each difference; empty if the runs are equal, bit for bit.
    """
    ends = [newest_checkpoint(folder / "ckpt")[0] / "state" for folder in (unbroken, broken)]
    problems = [f"checkpoint: {name}" for name in _find_unequal(*ends)]
    names = [sorted(path.name for path in (folder / "models").iterdir()) for folder in (unbroken, broken)]
    if names[0] != names[1]:
        return [*problems, f"models: expected {names[0]}, received {names[1]}"]
    for name in names[0]:
        files = [folder / "models" / name / "variables" / "variables" for folder in (unbroken, broken)]
        problems += [f"{name}: {variable}" for variable in _find_unequal(*files)]
    return problems


def describe_points(unbroken, broken):
    """Compares the TensorBoard points of a broken run with those of the unbroken run, in a sentence."""
    expected, received = (_read_points(folder / "summary") for folder in (unbroken, broken))
    twice = [values for values in received.values() if len(values) > 1]
    unlike = [values for values in twice if len(set(values)) > 1]
    differ = [key for key, values in received.items() if expected.get(key, [None])[0] not in values]
    lost = expected.keys() - received.keys()
    return (
        f"of {len(expected)} TensorBoard points, {len(lost)} are missing, {len(twice)} occur more than once "
        f"({len(unlike)} of these with different values), and {len(differ)} differ from the unbroken run"
    )


def _find_unequal(*files):
    """Returns the names of variables that are missing from, or differ between, two TensorFlow checkpoints."""
    import tensorflow as tf

    readers = [tf.train.load_checkpoint(str(file)) for file in files]
    names = [set(reader.get_variable_to_shape_map()) for reader in readers]
    # The order inside the graph of objects may differ between runs.
    common = sorted(name for name in names[0] & names[1] if name != "_CHECKPOINTABLE_OBJECT_GRAPH")
    unequal = [
        name for name in common if not np.array_equal(*(reader.get_tensor(name) for reader in readers))
    ]
    return sorted(names[0] ^ names[1]) + unequal


def _read_points(folder):
    """Reads the event files of every start: dict from `(name, step)` to a list of all values."""
    import tensorflow as tf
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    points = {}
    for path in sorted(folder.iterdir()):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if not value.tag.startswith("speed"):
                    key = value.tag, event.step
                    points.setdefault(key, []).append(float(tf.make_ndarray(value.tensor)))
    return points


if __name__ == "__main__":
    raise SystemExit(main())
