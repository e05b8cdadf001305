"""Measures how much the losses of several replicas differ from those of one device.

    python -m benchmarks.replicas --sync_bn --replicas 1 2 4

Trains a net on made-up images with 1, 2, 4 and so on logical CPU devices, always from the same seed and with
the same global batches. Each number of devices runs in its own process, and gets a row of the table.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

IDENTITIES = 6
NETS = ("tiny", "tiny_renorm", "tiny_dropout", "tiny_group", "ir32")


def main(argv=None):
    """Runs the program."""
    args = parse_arguments(argv)
    if args.alone:
        print(json.dumps(train(args)))
        return
    print(
        "| replicas | per replica | first loss | last loss | largest difference | seconds a step |\n"
        + "|---" * 6
        + "|"
    )
    first = None
    for num_replicas in args.replicas:
        result = run_alone(num_replicas, vars(args))
        first = first or result
        cells = [
            num_replicas,
            args.batch_size // num_replicas,
            *(f"{result['loss'][step]:.6f}" for step in (0, -1)),
            f"{largest_difference(first['loss'], result['loss']):.1e}",
            f"{result['seconds']:.3f}",
        ]
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def run_alone(num_replicas, settings):
    """Trains in another process, because the all-reduces of two strategies in one process would clash.

    Args:
        num_replicas: int > 0.
        settings: dict from flags of this program to values.

    Returns:
        The dict of `train_on`.
    """
    flags = [
        f"--{name}" if value is True else f"--{name}={value}"
        for name, value in settings.items()
        if name not in ("replicas", "alone") and value is not None and value is not False
    ]
    command = [sys.executable, "-m", "benchmarks.replicas", "--alone", f"--replicas={num_replicas}", *flags]
    root = Path(__file__).parents[1]
    run = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if run.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit code {run.returncode}\n{run.stderr}")
    return json.loads(run.stdout.splitlines()[-1])


def largest_difference(one, two):
    """Returns the largest difference between two lists of losses, relative to the losses of the first."""
    return max(abs(a - b) / abs(a) for a, b in zip(one, two, strict=True))


def train(args):
    """Trains on `args.replicas[0]` logical devices, and returns the dict of `train_on`."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf

    from training.distribution import make_strategy

    (num_replicas,) = args.replicas
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * num_replicas
    )
    return train_on(make_strategy([f"CPU:{number}" for number in range(num_replicas)]), args)


def train_on(strategy, args):
    """Trains on the devices of a strategy.

    Args:
        strategy: from `training.distribution.make_strategy`.
        args: parsed flags of this program.

    Returns:
        dict: `loss` and `gradient_norm`, lists with a value for each step; `moving`, the sum of all moving
        statistics at the end; `seconds`, the median time of a step after the first two.
    """
    import numpy as np
    import tensorflow as tf

    from losses.angular_centre import AngularCentreLoss
    from nets.backbone import decayed_variables
    from nets.layers.batch_norm import synchronise_batch_norm
    from training.optimizers import MomentumSGD
    from training.trainer import StepOptions, Trainer

    with strategy.scope():
        backbone = make_net(args.net)
        head = AngularCentreLoss(IDENTITIES, scale=args.scale)
        head.build(backbone.output_shape)
        optimizer = MomentumSGD(args.learning_rate, 0.9)
    if args.sync_bn:
        synchronise_batch_norm(backbone)
    decayed = [*decayed_variables(backbone), *head.trainable_variables]
    trainer = Trainer(
        strategy,
        backbone,
        head,
        optimizer,
        decayed,
        StepOptions(clip_norm=args.clip_norm, accumulate=args.accumulate, xla=args.xla),
    )
    rng = np.random.default_rng(0)
    result = {"loss": [], "gradient_norm": []}
    seconds = []
    for _ in range(args.steps):
        identities = rng.integers(0, IDENTITIES, args.batch_size)
        # Brightness rises through the batch, so the statistics of a replica differ from those of the batch.
        images = rng.uniform(-1, 1, (args.batch_size, *backbone.input_shape[1:]))
        images += (
            np.linspace(-1, 1, args.batch_size)[:, None, None, None] + identities[:, None, None, None] / 6
        )
        start = time.perf_counter()
        terms = trainer.train_step(tf.constant(images, tf.float32), tf.constant(identities, tf.int32))
        for name, values in result.items():
            values.append(float(terms[name]))
        seconds.append(time.perf_counter() - start)
    moving = [v.numpy().sum() for v in backbone.non_trainable_variables if "moving" in v.path]
    return {**result, "moving": float(np.sum(moving)), "seconds": float(np.median(seconds[2:] or seconds))}


def make_net(name):
    """Builds a net by name: a tiny one of `NETS`, or any backbone for images of 32x32."""
    import keras

    from nets.backbone import Backbone
    from nets.layers.batch_norm import BatchNorm
    from nets.layers.batch_renorm import BatchRenorm
    from nets.layers.dropout import Dropout
    from nets.layers.group_norm import GroupNorm
    from nets.layers.prelu import PReLU

    if name not in NETS[:-1]:
        return Backbone(name, image_size=(32, 32), keep_prob=1.0)
    norm = {"tiny_renorm": BatchRenorm, "tiny_group": GroupNorm}.get(name, BatchNorm)
    images = keras.Input((16, 16, 3))
    conv = keras.layers.Conv2D(8, 3, 2, use_bias=False, kernel_initializer=keras.initializers.HeNormal(1))
    x = PReLU()(norm()(conv(images)))
    if name == "tiny_dropout":
        x = Dropout(0.4, seed=3)(x)
    dense = keras.layers.Dense(32, kernel_initializer=keras.initializers.HeNormal(2), name="E_DenseLayer")
    x = dense(keras.layers.Flatten()(x))
    if name == "tiny_group":
        return keras.Model(images, x)
    return keras.Model(images, norm(train_gamma=False, unbiased=True)(x))


def parse_arguments(argv):
    """Parses the flags."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.replicas",
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--replicas", type=int, nargs="+", default=[1, 2, 4], help="numbers of replicas to compare"
    )
    parser.add_argument("--net", default="tiny", help=f"one of {', '.join(NETS)}, or another backbone")
    parser.add_argument(
        "--sync_bn", action="store_true", help="compute batch statistics over the global batch"
    )
    parser.add_argument("--batch_size", type=int, default=16, help="images in a global batch")
    parser.add_argument("--steps", type=int, default=20, help="steps to train")
    parser.add_argument("--learning_rate", type=float, default=0.01, help="learning rate")
    parser.add_argument("--scale", type=float, default=8.0, help="scale of the loss")
    parser.add_argument("--clip_norm", type=float, help="clip the norm of the gradient to this value")
    parser.add_argument("--accumulate", type=int, default=1, help="number of parts to split a batch into")
    parser.add_argument("--xla", action="store_true", help="compile the step with XLA")
    parser.add_argument(
        "--alone", action="store_true", help="train with one number of replicas, and print the result as JSON"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
