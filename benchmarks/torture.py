"""A run that is killed again and again, and the same run left alone.

    python -m benchmarks.torture --kills 20

Trains a small net on made-up faces, kills the process at random moments (`kill -9`, now and then
SIGTERM), starts the same command again until it is through, and compares every variable of the last
checkpoint and of all SavedModels with those of the unbroken run, bit for bit. Prints a row per kill.
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
    """Runs the program. Returns 1 if anything differs."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.torture",
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--program", choices=PROGRAMS, default=PROGRAMS[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument(
        "--steps", type=int, default=240, help="of the run; all over again while kills are left"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
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
        # A moment of each kind first, then any.
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
        or "every variable of checkpoints and models is that of the unbroken run, bit for bit"
    )
    return 1 if problems else 0


def differences(unbroken, broken):
    """What differs between the last checkpoints and the SavedModels of two runs.

    Args:
        unbroken: Path, the folder of one.
        broken: Path, the folder of the other.

    Returns:
        List of str; empty if both are the same, bit for bit.
    """
    ends = [newest_checkpoint(folder / "ckpt")[0] / "state" for folder in (unbroken, broken)]
    problems = [f"checkpoint: {name}" for name in _unequal(*ends)]
    names = [sorted(path.name for path in (folder / "models").iterdir()) for folder in (unbroken, broken)]
    if names[0] != names[1]:
        return [*problems, f"models: expected {names[0]}, received {names[1]}"]
    for name in names[0]:
        files = [folder / "models" / name / "variables" / "variables" for folder in (unbroken, broken)]
        problems += [f"{name}: {variable}" for variable in _unequal(*files)]
    return problems


def describe_points(unbroken, broken):
    """How the TensorBoard points of a broken run compare to those of the unbroken one, in a sentence."""
    expected, received = (_points(folder / "summary") for folder in (unbroken, broken))
    twice = [values for values in received.values() if len(values) > 1]
    unlike = [values for values in twice if len(set(values)) > 1]
    differ = [key for key, values in received.items() if expected.get(key, [None])[0] not in values]
    lost = expected.keys() - received.keys()
    return (
        f"of {len(expected)} TensorBoard points {len(lost)} are missing, {len(twice)} are there more than "
        f"once, "
        f"{len(unlike)} of these with different values; {len(differ)} are not as in the unbroken run"
    )


def _unequal(*files):
    """Names of variables that are not the same in two TensorFlow checkpoints."""
    import tensorflow as tf

    readers = [tf.train.load_checkpoint(str(file)) for file in files]
    names = [set(reader.get_variable_to_shape_map()) for reader in readers]
    # The graph of objects is the same but not always in the same order.
    common = sorted(name for name in names[0] & names[1] if name != "_CHECKPOINTABLE_OBJECT_GRAPH")
    unequal = [
        name for name in common if not np.array_equal(*(reader.get_tensor(name) for reader in readers))
    ]
    return sorted(names[0] ^ names[1]) + unequal


def _points(folder):
    """dict from `(name, step)` to all values, over the event files of every start."""
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
