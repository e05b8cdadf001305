"""The command line that both trainers share. Imports no TensorFlow: `--help` is instant."""

import argparse
import math
from pathlib import Path

from nets.variants import STAGES, UNIT_TYPES

PRECISIONS = ("float32", "mixed_bfloat16")


def add_shared_flags(parser):
    """Adds the flags of both trainers: the original's, with its defaults, and ours.

    References:
    - margin-centre-face, `train_centre.py::get_parser` and `train_triplet.py::get_parser`; row 17 of
      docs/fidelity.md: there they have no types.

    Args:
        parser: `argparse.ArgumentParser`.
    """
    parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter

    data = parser.add_argument_group("data")
    data.add_argument("--config", type=Path, default=Path("./config.ini"), help="where the data lies")
    data.add_argument(
        "--source", nargs="+", default=["vgg", "ms1m"], metavar="NAME", help="sections of the config"
    )
    data.add_argument(
        "--source_weights", type=float, nargs="+", metavar="P", help="probability of each source (its size)"
    )
    data.add_argument("--read", choices=("random", "sequential"), default="random", help="see docs/data.md")
    data.add_argument(
        "--mirror", action=argparse.BooleanOptionalAction, default=True, help="mirror images at random"
    )
    data.add_argument(
        "--image_size", type=int, nargs=2, default=(112, 96), metavar=("H", "W"), help="centre crop"
    )
    data.add_argument("--batch_size", type=int, default=64, help="images per step, over all devices")
    data.add_argument("--model_path", type=Path, help="checkpoint to start from, if --ckpt_path has none")
    data.add_argument("--epoch", type=int, default=100_000, help="stop after so many epochs")
    data.add_argument("--max_steps", type=int, help="stop after so many steps")
    data.add_argument("--seed", type=int, default=0, help="of weights, order, mirror and dropout")

    net = parser.add_argument_group("net")
    net.add_argument("--net_depth", type=int, choices=STAGES, default=50, help="layers")
    net.add_argument("--net_type", choices=UNIT_TYPES, default="ir", help="kind of residual unit")
    net.add_argument("--keep_prob", type=float, default=0.4, help="what dropout keeps")
    net.add_argument("--precision", choices=PRECISIONS, default="float32", help="of the net's computations")

    optimizer = parser.add_argument_group("optimizer")
    optimizer.add_argument("--momentum", type=float, default=0.9, help="TensorFlow's form")
    optimizer.add_argument(
        "--weight_decay", "--weight_deacy", type=float, default=1e-4, help="also by the original's spelling"
    )
    optimizer.add_argument(
        "--lr_values", type=float, nargs="+", default=[0.001, 0.0005, 0.0003, 0.0001], metavar="RATE",
        help="learning rates, one more than --lr_steps",
    )  # fmt: skip
    optimizer.add_argument(
        "--lr_steps", type=int, nargs="*", default=[40_000, 60_000, 80_000], metavar="STEP",
        help="where the rate changes, at a batch size of 512",
    )  # fmt: skip
    optimizer.add_argument("--warmup_steps", type=int, default=0, help="the rate rises over so many steps")
    optimizer.add_argument("--clip_norm", type=float, help="largest global norm of the gradient")

    output = parser.add_argument_group("output")
    output.add_argument(
        "--summary_path", type=Path, default=Path("./output/summary"), help="TensorBoard logs"
    )
    output.add_argument(
        "--ckpt_path", type=Path, default=Path("./output/ckpt"), help="checkpoints to go on from"
    )
    output.add_argument("--saved_model_path", type=Path, default=Path("./output/models"), help="SavedModels")
    output.add_argument(
        "--log_file_path", type=Path, default=Path("./output/logs"), help="what is printed, as files"
    )
    output.add_argument("--saver_maxkeep", type=int, default=100, help="SavedModels to keep, and the best")
    output.add_argument("--show_info_interval", type=int, default=20, help="steps between progress lines")
    output.add_argument("--summary_interval", type=int, default=300, help="steps between TensorBoard scalars")
    output.add_argument("--validate_interval", type=int, default=2000, help="steps between validations")
    output.add_argument("--save_interval", type=int, default=1000, help="steps between checkpoints")
    output.add_argument(
        "--ckpt_interval", type=int, default=20_000, help="steps between SavedModels in any case"
    )
    output.add_argument(
        "--lfw_threshold", type=float, default=0.99, help="a new best over this makes a SavedModel"
    )
    output.add_argument("--ytf_threshold", type=float, default=0.94, help="the same for YTF image pairs")


def learning_rate_boundaries(lr_steps, batch_size):
    """Steps at which the learning rate changes.

    References:
    - margin-centre-face, `train_centre.py`: `int(512 / batch_size) * lr_steps`

    Args:
        lr_steps: list of int, for a batch of 512 images.
        batch_size: int > 0.

    Returns:
        List of int, in steps of `batch_size`.
    """
    return [max(1, int(512 / batch_size)) * step for step in lr_steps]


def num_steps(args, steps_per_epoch):
    """The step to stop after: the sooner one of `--epoch` and `--max_steps`."""
    return min(
        math.ceil(args.epoch * steps_per_epoch), math.inf if args.max_steps is None else args.max_steps
    )
