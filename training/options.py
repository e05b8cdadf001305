"""The command line that both trainers share. Imports no TensorFlow: `--help` is instant."""

import argparse
import math
from pathlib import Path

from eval.scoring.verification import RULES
from nets.variants import KEEP_PROB, UNIT_TYPES, VARIANTS, find_variant

STRATEGIES = ("auto", "one", "mirrored", "multiworker")


def add_device_flags(parser):
    """Adds the group `devices`; see docs/devices.md."""
    parser.set_defaults(worker_folder=None)  # of `training.workers.own_folders`
    group = parser.add_argument_group("devices", "see docs/devices.md")
    group.add_argument(
        "--strategy", choices=STRATEGIES, default="auto",
        help="one device, all GPUs of this machine (auto: if there are several), or several machines",
    )  # fmt: skip
    group.add_argument(
        "--workers", metavar="HOST:PORT,...", help="of multiworker, the same on each; or set TF_CONFIG"
    )
    group.add_argument("--worker_index", type=int, metavar="I", help="of this worker in --workers; 0: chief")
    group.add_argument(
        "--sync_bn", action="store_true", help="batch norm over the global batch, whatever the devices"
    )
    group.add_argument("--xla", action="store_true", help="compile the net with XLA; one device only")
    group.add_argument(
        "--accumulate", type=int, default=1, metavar="N",
        help="compute a batch in N parts, one after the other: less memory, the same update",
    )  # fmt: skip


PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")


DEPTHS = (32, 50, 100, 152)


DENSE_DECAYS = ("every_depth", "depth_50")


LIST_ORDERS = ("bgr", "rgb")


SCHEDULES = ("steps", "cosine", "polynomial")


OPTIMIZERS = ("sgd", "adamw", "lamb")


# The original's default of `--epoch`.
NO_END = 100_000


# Arguments of `dataset.augment.Augmentation`.
AUGMENTATIONS = {
    "crop": "shifted and zoomed",
    "occlusion": "all but a box is black",
    "colour": "brightness, contrast, saturation",
    "low_resolution": "scaled down and up again",
    "jpeg": "compressed",
}


# What `--faithful` sets, each of which is a flag of its own; the rows are those of docs/fidelity.md.
FAITHFUL = {
    "lr_counts_per_step": 2,  # row 1
    "mirror": False,  # row 3
    "dense_decay": "depth_50",  # row 5
    "random_final_gamma": True,  # row 7
    "threshold": "crossing",  # rows 18 and 19
    "lfw_as_stored": True,  # row 24
    "list_order": "rgb",  # row 25
}


def add_shared_flags(parser, sources, output_folder):
    """Adds the flags of both trainers: the original's, with its defaults, and ours.

    References:
    - margin-centre-face, `train_centre.py::get_parser` and `train_triplet.py::get_parser`; row 17 of
      docs/fidelity.md: there they have no types.

    Args:
        parser: `argparse.ArgumentParser`.
        sources: list of str, the default `--source`.
        output_folder: str, folder that the defaults of the output's flags lie in.
    """
    parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    parser.add_argument(
        "--check",
        action="store_true",
        help="look at data, memory, disk and speed, and train nothing; exit code 0 if all is well",
    )

    parser.add_argument(
        "--faithful",
        action="store_true",
        help="as the published models were trained: sets the flags marked (row N of docs/fidelity.md)",
    )
    data = parser.add_argument_group("data")
    data.add_argument("--config", type=Path, default=Path("./config.ini"), help="where the data lies")
    data.add_argument("--source", nargs="+", default=sources, metavar="NAME", help="sections of the config")
    data.add_argument(
        "--source_weights", type=float, nargs="+", metavar="P", help="probability of each source (its size)"
    )
    data.add_argument("--read", choices=("random", "sequential"), default="random", help="see docs/data.md")
    data.add_argument(
        "--mirror",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="flip images at random (row 3)",
    )
    data.add_argument(
        "--list_order", choices=LIST_ORDERS, default="bgr", help="channels of image lists (row 25)"
    )
    data.add_argument("--batch_size", type=int, default=64, help="images per step, over all devices")
    data.add_argument("--epoch", type=int, default=NO_END, help="stop after so many epochs")
    data.add_argument("--max_steps", type=int, help="stop after so many steps")
    data.add_argument(
        "--max_minutes", type=float, metavar="M",
        help="stop after so many minutes, as after SIGTERM: saved, and the same command goes on",
    )  # fmt: skip
    data.add_argument(
        "--max_bad_images", type=int, default=100, metavar="N",
        help="stop when more different images than this cannot be used; 0 for the first (row 27)",
    )  # fmt: skip
    data.add_argument("--seed", type=int, default=0, help="of weights, order, mirror and dropout")

    # No defaults: a run that starts from a model takes what is not given from there.
    net = parser.add_argument_group(
        "net", "not given: those of the model to start from, or 50, ir, 112 96 of the original"
    )
    net.add_argument(
        "--net_depth", type=int, choices=DEPTHS, default=argparse.SUPPRESS, help="of the original's net"
    )
    net.add_argument(
        "--net_type", choices=UNIT_TYPES, default=argparse.SUPPRESS, help="kind of its residual units"
    )
    net.add_argument(
        "--backbone", choices=VARIANTS, default=argparse.SUPPRESS, metavar="NAME",
        help=f"any net by its name: {', '.join(VARIANTS)}",
    )  # fmt: skip
    net.add_argument(
        "--image_size", type=int, nargs=2, default=argparse.SUPPRESS, metavar=("H", "W"), help="centre crop"
    )
    net.add_argument(
        "--keep_prob", type=float, default=argparse.SUPPRESS,
        help=f"what dropout keeps ({KEEP_PROB}; iresnets 1)",
    )  # fmt: skip
    net.add_argument("--precision", choices=PRECISIONS, default="float32", help="of the net's computations")
    net.add_argument(
        "--random_final_gamma", action=argparse.BooleanOptionalAction, default=False,
        help="freeze the last gamma at a random draw (row 7)",
    )  # fmt: skip

    add_device_flags(parser)

    optimizer = parser.add_argument_group("optimizer")
    optimizer.add_argument("--momentum", type=float, default=0.9, help="TensorFlow's form")
    optimizer.add_argument(
        "--weight_decay", "--weight_deacy", type=float, default=1e-4, help="also by the original's spelling"
    )
    optimizer.add_argument(
        "--dense_decay", choices=DENSE_DECAYS, default="every_depth", help="of the dense kernel (row 5)"
    )
    optimizer.add_argument(
        "--lr_values", type=float, nargs="+", default=[0.001, 0.0005, 0.0003, 0.0001], metavar="RATE",
        help="learning rates, one more than --lr_steps",
    )  # fmt: skip
    optimizer.add_argument(
        "--lr_steps", type=int, nargs="*", default=[40_000, 60_000, 80_000], metavar="STEP",
        help="where the rate changes, at a batch size of 512",
    )  # fmt: skip
    optimizer.add_argument(
        "--lr_counts_per_step", type=int, choices=(1, 2), default=1,
        help="how far the counter of --lr_steps moves in a step (row 1)",
    )  # fmt: skip
    optimizer.add_argument("--warmup_steps", type=int, default=0, help="the rate rises over so many steps")
    optimizer.add_argument("--clip_norm", type=float, help="largest global norm of the gradient")

    _add_recipe_flags(parser)

    output = parser.add_argument_group("output")
    output.add_argument(
        "--summary_path", type=Path, default=Path(output_folder, "summary"), help="TensorBoard logs"
    )
    output.add_argument(
        "--ckpt_path", type=Path, default=Path(output_folder, "ckpt"), help="checkpoints to go on from"
    )
    output.add_argument(
        "--saved_model_path", type=Path, default=Path(output_folder, "models"), help="SavedModels"
    )
    output.add_argument(
        "--log_file_path", type=Path, default=Path(output_folder, "logs"), help="what is printed, as files"
    )
    output.add_argument("--saver_maxkeep", type=int, default=100, help="SavedModels to keep, and the best")
    output.add_argument("--show_info_interval", type=int, default=20, help="steps between progress lines")
    output.add_argument("--summary_interval", type=int, default=300, help="steps between TensorBoard scalars")
    output.add_argument("--validate_interval", type=int, default=2000, help="steps between validations")
    output.add_argument(
        "--save_interval", type=int, default=1000, help="steps between checkpoints; 3 and the best stay"
    )
    output.add_argument(
        "--ckpt_interval", type=int, default=20_000, help="steps between SavedModels in any case"
    )
    output.add_argument(
        "--lfw_threshold", type=float, default=0.99, help="a new best over this makes a SavedModel"
    )
    output.add_argument(
        "--ytf_threshold", type=float, default=0.94, help="the same for YTF, images and videos"
    )

    output.add_argument(
        "--profile", action="store_true", help="TensorBoard profile of steps 10 to 20 of this run"
    )

    validation = parser.add_argument_group("validation")
    validation.add_argument(
        "--validate_videos", type=int, metavar="N",
        help="also score the videos of [ytf] splits, by templates of at most N frames each",
    )  # fmt: skip
    validation.add_argument(
        "--threshold", choices=RULES, default="best",
        help="how a fold's threshold is found; crossing, with the original's folds (rows 18 and 19)",
    )  # fmt: skip
    validation.add_argument(
        "--lfw_as_stored", action=argparse.BooleanOptionalAction, default=False,
        help="feed a .np file to the net in its own channel order (row 24)",
    )  # fmt: skip


def _add_recipe_flags(parser):
    """What docs/recipes.md is about."""
    recipe = parser.add_argument_group("recipe", "see docs/recipes.md")
    recipe.add_argument(
        "--optimizer", choices=OPTIMIZERS, default="sgd", help="adamw and lamb decay by themselves"
    )
    recipe.add_argument(
        "--schedule", choices=SCHEDULES, default="steps", help="of the rate: --lr_steps, or a fall from --lr"
    )
    recipe.add_argument("--lr", type=float, help="peak of cosine and polynomial at 512 images a step")
    recipe.add_argument("--lr_end", type=float, default=0.0, help="their end, at 512 images a step")
    recipe.add_argument("--lr_power", type=float, default=2.0, help="of polynomial")
    recipe.add_argument(
        "--ema", type=float, metavar="DECAY", help="validate and export a moving average of the weights"
    )
    augmentation = parser.add_argument_group(
        "augmentation", "probability per image of each; see docs/recipes.md"
    )
    for name, does in AUGMENTATIONS.items():
        augmentation.add_argument(f"--augment_{name}", type=float, default=0.0, metavar="P", help=does)


def net_arguments(args, base=None):
    """The net that a run trains.

    Args:
        args: parsed flags.
        base: dict, arguments of `nets.backbone.Backbone` that hold where no flag is given: those
            of the model to start from. Defaults to the original's depth 50 at 112x96.

    Returns:
        dict, arguments of `Backbone`.

    Raises:
        ValueError: flags that do not fit together.
    """
    given = vars(args)
    by_depth = {"net_depth", "net_type"} & given.keys()
    if by_depth and "backbone" in given:
        raise ValueError(f"--backbone: expected it alone, received --{min(by_depth)} beside it")
    net = {"architecture": "ir50", "image_size": (112, 96), **(base or {}), "seed": args.seed}
    if by_depth:
        net["architecture"] = f"{given.get('net_type', 'ir')}{given.get('net_depth', 50)}"
    net["architecture"] = given.get("backbone", net["architecture"])
    net |= {name: given[name] for name in ("image_size", "keep_prob") if name in given}
    if args.random_final_gamma and find_variant(net["architecture"]).builder == "resnet_ir":
        net["random_final_gamma"] = True
    return net


def learning_rate_boundaries(lr_steps, batch_size, counts_per_step=1):
    """Steps at which the learning rate changes.

    References:
    - margin-centre-face, `train_centre.py`: `int(512 / batch_size) * lr_steps`

    Args:
        lr_steps: list of int, for a batch of 512 images.
        batch_size: int > 0.
        counts_per_step: int > 0; 2 is the original's counter, row 1 of docs/fidelity.md.

    Returns:
        List of int, in steps of `batch_size`.
    """
    return [max(1, int(512 / batch_size)) * step // counts_per_step for step in lr_steps]


def num_steps(args, steps_per_epoch):
    """The step to stop after: the sooner one of `--epoch` and `--max_steps`."""
    return min(
        math.ceil(args.epoch * steps_per_epoch), math.inf if args.max_steps is None else args.max_steps
    )


# Of `train_centre`. They say how a net is trained, not which one: that is the model's to start from.
PRESETS = {
    "arcface": {
        "loss": "arcface",
        "optimizer": "sgd",
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "schedule": "polynomial",
        "lr": 0.1,
        "lr_power": 1.0,
        "warmup_steps": 0,
        "epoch": 20,
        "clip_norm": 5.0,
        "mirror": True,
    },
    # What changes the training; the rows about scoring are left to --faithful.
    "upstream": {
        "loss": "angular_centre",
        "reshuffle": False,
        **{name: FAITHFUL[name] for name in FAITHFUL if name not in ("threshold", "lfw_as_stored")},
    },
    "video": {
        "loss": "angular_centre",
        "optimizer": "sgd",
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "schedule": "cosine",
        "lr": 0.1,
        "warmup_steps": 1000,
        "epoch": 20,
        "clip_norm": 5.0,
        "mirror": True,
        "ema": 0.999,
        "augment_crop": 0.2,
        "augment_colour": 0.2,
        "augment_low_resolution": 0.2,
        "augment_jpeg": 0.2,
    },
}


def describe_preset(name):
    """The flags of a preset as one would give them."""
    given = []
    for flag, value in PRESETS[name].items():
        if isinstance(value, bool):
            given.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            given.append(f"--{flag}={value:g}" if isinstance(value, float) else f"--{flag}={value}")
    return " ".join(given)
