"""What the centres of many identities take: memory, and time for a step.

    python -m benchmarks.many_identities

Trains nothing but a head and one layer before it, on embeddings in memory. Every setting runs in a process
of its own, so that its peak of memory is its own. Prints a table with a row per setting; one that does not
fit into the memory that is free says so.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

# By the name in the table: the share of the identities that a step sees, and how many devices share them.
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
        "--identities", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], metavar="N"
    )
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS), metavar="NAME")
    parser.add_argument("--batch_size", type=int, default=64, help="images in a batch (default: %(default)s)")
    parser.add_argument("--loss", default="angular_centre")
    parser.add_argument("--steps", type=int, default=7, help="steps; the first two are not timed")
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
    """The line of the table for one setting, measured in a process of its own."""
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
    """Bytes in MB and milliseconds, see the table's headings; the program and TensorFlow left out."""
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
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again
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
    """Bytes of memory in use."""
    return _status("VmRSS")


def peak():
    """Most bytes of memory in use since the process began or the peak was reset."""
    return _status("VmHWM")


def _status(name):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
