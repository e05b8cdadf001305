"""Measures the memory and the step time that the centres of many identities need.

    python -m benchmarks.many_identities

Trains a head and one layer before it, on embeddings in memory. Each setting runs in its own process, so that
its peak of memory can be measured. Prints a table with a row for each setting. If a setting needs more than
the free memory, its row says so.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

# Name in the table -> share of the identities that a step samples, and number of devices that share them.
SETTINGS = {"dense": (1.0, 1), "sampled 0.1": (0.1, 1), "sharded over 2": (1.0, 2)}
DIM = 512

_HEADINGS = (
    *("identities", "setting", "centres and velocities, MB", "peak at start, MB"),
    *("peak of a step, MB", "step, ms"),
)


def main(argv=None):
    """Runs the program."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.many_identities", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--identities",
        type=int,
        nargs="+",
        default=[10_000, 100_000, 1_000_000],
        metavar="N",
        help="numbers of identities (default: 10000 100000 1000000)",
    )
    parser.add_argument(
        "--settings",
        nargs="+",
        choices=SETTINGS,
        default=list(SETTINGS),
        metavar="NAME",
        help=f"settings to measure, of {', '.join(SETTINGS)} (default: all)",
    )
    parser.add_argument("--batch_size", type=int, default=64, help="images in a batch (default: %(default)s)")
    parser.add_argument("--loss", default="angular_centre", help="name of the loss (default: %(default)s)")
    parser.add_argument(
        "--steps",
        type=int,
        default=7,
        help="steps to train; the first two are not timed (default: %(default)s)",
    )
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.one:
        print(json.dumps(measure(args.identities[0], args.settings[0], args)))
        return
    print("| " + " | ".join(_HEADINGS) + " |\n|" + "---|" * len(_HEADINGS))
    for num_identities in args.identities:
        for setting in args.settings:
            print(row(num_identities, setting, args), flush=True)


def row(num_identities, setting, args):
    """Measures one setting in its own process, and returns its row of the table."""
    command = [
        *(sys.executable, "-m", "benchmarks.many_identities", "--one"),
        *("--identities", str(num_identities), "--settings", setting),
        *("--batch_size", str(args.batch_size), "--loss", args.loss, "--steps", str(args.steps)),
    ]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        last = run.stderr.strip().splitlines()[-1] if run.stderr.strip() else f"signal {-run.returncode}"
        return f"| {num_identities:,} | {setting} | not measured: {last} | | | |"
    numbers = json.loads(run.stdout.strip().splitlines()[-1])
    return f"| {num_identities:,} | {setting} | " + " | ".join(f"{number:.0f}" for number in numbers) + " |"


def measure(num_identities, setting, args):
    """Measures one setting in this process.

    Args:
        num_identities: int > 0.
        setting: a key of `SETTINGS`.
        args: parsed flags.

    Returns:
        The numbers of the table's last four columns: three sizes in MB, without the program and TensorFlow,
        and the median time of a step in ms.
    """
    import keras
    import tensorflow as tf

    from losses.build import build_loss
    from training.centres import shard_devices
    from training.distribution import make_strategy
    from training.memory import device_memory, require_memory
    from training.optimizers import MomentumSGD
    from training.trainer import Trainer

    sample_rate, num_shards = SETTINGS[setting]
    devices = [tf.config.LogicalDeviceConfiguration()] * num_shards
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], devices)
    strategy = make_strategy([f"CPU:{number}" for number in range(num_shards)])
    before = resident()
    with strategy.scope():
        inputs = keras.Input((DIM,))
        dense = keras.layers.Dense(DIM, kernel_initializer="orthogonal", name="E_DenseLayer")
        backbone = keras.Model(inputs, dense(inputs))
        head = build_loss(args.loss, num_identities, sample_rate=sample_rate, sharded=num_shards > 1)
        free, share = device_memory(strategy), args.batch_size // num_shards
        require_memory(head.num_centres, DIM, share, sample_rate, free, num_shards)
        head.build(backbone.output_shape)
        optimizer = MomentumSGD(0.01)
    if num_shards > 1:
        head.shard(shard_devices(strategy))
    decayed = [backbone.trainable_variables[0], *head.trainable_variables]
    trainer = Trainer(strategy, backbone, head, optimizer, decayed)
    start = peak() - before
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak of memory
    rng = np.random.default_rng(0)
    times = []
    for _ in range(args.steps):
        embeddings = tf.constant(rng.standard_normal((args.batch_size, DIM), np.float32))
        identities = tf.constant(rng.integers(0, num_identities, args.batch_size, np.int32))
        begin = time.perf_counter()
        float(trainer.train_step(embeddings, identities)["total"])
        times.append(time.perf_counter() - begin)
    stored = 2 * 4 * DIM * num_identities
    sizes = (stored, start, peak() - before)
    return [*(size / 1e6 for size in sizes), 1e3 * float(np.median(times[2:]))]


def resident():
    """Returns the bytes of memory that this process uses."""
    return _read_status("VmRSS")


def peak():
    """Returns the most bytes that this process has used since its start or the last reset of the peak."""
    return _read_status("VmHWM")


def _read_status(name):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
