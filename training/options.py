"""Flags of the two training programs. Imports no TensorFlow, so that `--help` is instant."""

import argparse
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from common.options import ShortHelpParser, option, parse_options
from eval.scoring.verification import RULES
from losses.variants import ARGUMENTS, LOSSES, MININGS, TEACHER_LOSSES, LossVariant
from nets.variants import KEEP_PROB, UNIT_TYPES, VARIANTS, find_variant

# What `--faithful` sets. The rows are those of docs/fidelity.md.
FAITHFUL = {
    "lr_counts_per_step": 2,  # row 1
    "mirror": False,  # row 3
    "dense_decay": "depth_50",  # row 5
    "random_final_gamma": True,  # row 7
    "threshold": "crossing",  # rows 18 and 19
    "lfw_as_stored": True,  # row 24
    "list_order": "rgb",  # row 25
    "epoch": 100_000,  # row 41
}
_LARGE_RATE = {
    "optimizer": "sgd",
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "lr": 0.1,
    "epoch": 20,
    "clip_norm": 5.0,
    "mirror": True,
}
# What `--preset` of train_centre sets. A preset says how to train a net, not which one.
PRESETS = {
    "arcface": dict(loss="arcface", **_LARGE_RATE, schedule="polynomial", lr_power=1.0, warmup_steps=0),
    "video": {
        "loss": "angular_centre",
        **_LARGE_RATE,
        "schedule": "cosine",
        "warmup_steps": 1000,
        "ema": 0.999,
        "augment_crop": 0.2,
        "augment_colour": 0.2,
        "augment_low_resolution": 0.2,
        "augment_jpeg": 0.2,
    },
}

_OUTPUT_FOLDERS = {
    "summary_path": "summary",
    "ckpt_path": "ckpt",
    "saved_model_path": "models",
    "log_file_path": "logs",
}

# `--help` of both programs shows these flags. `--help-all` shows every flag.
_FIRST_FLAGS = (
    "config",
    "source",
    "output",
    "check",
    "model_path",
    "backbone",
    "batch_size",
    "epoch",
    "max_steps",
    "strategy",
    "precision",
)


def _is_positive(text: str) -> bool:
    try:
        return 0 < float(text) < math.inf
    except ValueError:
        return False


def _switch(default: bool, help: str) -> Any:
    """A flag with a negative form, such as `--no-mirror`."""
    return option(default, help, action=argparse.BooleanOptionalAction)


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Data."""

    config: Path = option(Path("./config.ini"), "file that says where the data is")
    source: tuple[str, ...] = option(
        ("vgg", "ms1m"), "data to train on: names of sections of --config", nargs="+", metavar="NAME"
    )
    source_weights: tuple[float, ...] | None = option(
        None,
        "probability of drawing from each --source, in that order; they sum to 1 (default: in proportion to "
        "the number of images)",
        nargs="+",
        minimum=0,
    )
    read: Literal["random", "sequential"] = option(
        "random",
        "random shuffles over the whole set; sequential streams the files through a shuffle buffer, for "
        "disks that are slow at random reads",
    )
    mirror: bool = _switch(True, "mirror half of the images, chosen at random (row 3)")
    list_order: Literal["bgr", "rgb"] = option(
        "bgr", "channel order in which images of a train_list are fed to the net (row 25)"
    )
    batch_size: int = option(64, "number of images per step, summed over all devices", minimum=1)
    max_bad_images: int = option(
        100, "stop after more than N damaged images; each one is replaced by another", minimum=0
    )
    seed: int = option(
        0, "seed of all random numbers: initial weights, order, augmentation, dropout", minimum=0
    )

    def problems(self) -> Iterator[str]:
        """Yields wrong combinations of flags."""
        if self.source_weights is not None and len(self.source_weights) != len(self.source):
            counts = f"{len(self.source_weights)} number(s) for {len(self.source)} source(s)"
            yield f"--source_weights has {counts}. Give one number for each source."
        elif self.source_weights is not None and not math.isclose(sum(self.source_weights), 1, abs_tol=1e-5):
            given = " ".join(map(str, self.source_weights))
            yield f"--source_weights is {given}. Give probabilities that sum to 1."


@dataclass(frozen=True, kw_only=True)
class LengthOptions:
    """Length of the run."""

    epoch: int = option(20, "stop after N passes over the images (row 41)", minimum=0)
    max_steps: int | None = option(None, "stop after N steps (default: --epoch decides)", minimum=0)
    max_minutes: float | None = option(
        None,
        "save and stop after X minutes; run the same command again to resume (default: no limit)",
        above=0,
    )

    def num_steps(self, steps_per_epoch: float) -> int:
        """Returns the step to stop after: the end of `epoch` or `max_steps`, whichever comes first."""
        steps = math.ceil(self.epoch * steps_per_epoch)
        return steps if self.max_steps is None else min(steps, self.max_steps)


@dataclass(frozen=True, kw_only=True)
class NetOptions:
    """Net. The defaults are those of the model to start from, or ir50 for images of 112x96."""

    net_depth: Literal[32, 50, 100, 152] | None = option(
        None, "number of layers of the original's net, instead of --backbone (default: 50)"
    )
    net_type: str | None = option(
        None,
        "residual units of the original's net; se_ir adds squeeze-and-excitation (default: ir)",
        choices=UNIT_TYPES,
    )
    backbone: str | None = option(
        None,
        "net to train, such as ir50, iresnet50, mobilefacenet or vit_s; --help-all lists all names "
        "(default: ir50)",
        choices=VARIANTS,
        metavar="NAME",
    )
    image_size: tuple[int, ...] | None = option(
        None,
        "height and width in pixels of the images that the net takes, cut from the centre (default: 112 96)",
        nargs=2,
        metavar=("H", "W"),
        minimum=1,
    )
    embedding_size: int | None = option(
        None, "length of an embedding (default: 512; mobilefacenet 128)", minimum=1, metavar="N"
    )
    keep_prob: float | None = option(
        None,
        "share of the features that dropout keeps before the last dense layer; 1 switches dropout off "
        f"(default: {KEEP_PROB}; iresnets, vits and small nets 1)",
        above=0,
        maximum=1,
    )
    random_final_gamma: bool = _switch(
        False, "freeze the gamma of the last batch norm at random values instead of 1 (row 7)"
    )

    def problems(self) -> Iterator[str]:
        """Yields wrong combinations of flags."""
        if self.backbone is not None and (self.net_depth is not None or self.net_type is not None):
            yield "--backbone names the whole net. Leave out --net_depth and --net_type."

    def arguments(self, seed: int, base: dict[str, Any] | None = None) -> dict[str, Any]:
        """Returns the arguments of `nets.backbone.Backbone`.

        Args:
            seed: seed of the initial weights.
            base: arguments of the model to start from, used where no flag is given. Defaults to ir50 for
                images of 112x96.
        """
        base = base or {}
        net = {"architecture": "ir50", "image_size": (112, 96), **base, "seed": seed}
        if self.net_depth is not None or self.net_type is not None:
            net["architecture"] = f"{self.net_type or 'ir'}{self.net_depth or 50}"
        size = None if self.image_size is None else list(self.image_size)
        given = {
            "architecture": self.backbone,
            "image_size": size,
            "embedding_size": self.embedding_size,
            "keep_prob": self.keep_prob,
        }
        net |= {name: value for name, value in given.items() if value is not None}
        if net["architecture"] != base.get("architecture"):
            # Another architecture may not take the further arguments of the base.
            net = {name: value for name, value in net.items() if name in (*given, "seed")}
        if self.random_final_gamma and find_variant(net["architecture"]).builder == "resnet_ir":
            net["random_final_gamma"] = True
        return net


# A docstring cannot be an f-string. `--help-all` shows this paragraph.
NetOptions.__doc__ = f"{NetOptions.__doc__}\n\nNames for --backbone: {', '.join(VARIANTS)}."


@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """Devices (see docs/devices.md)."""

    strategy: Literal["auto", "one", "mirrored", "multiworker"] = option(
        "auto",
        "devices to train on: one, all GPUs of this machine (mirrored), or several machines "
        "(multiworker); auto is mirrored if there are several GPUs, and one otherwise",
    )
    workers: str | None = option(
        None,
        "addresses of all workers, the same list on each (default: environment variable TF_CONFIG)",
        metavar="HOST:PORT,...",
    )
    worker_index: int | None = option(
        None, "position of this worker in --workers, from 0; worker 0, the chief, writes the files"
    )
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = option(
        "float32",
        "arithmetic of the net; mixed_bfloat16 is faster on recent GPUs, and weights and loss stay float32",
    )
    tf32: Literal["on", "off"] = option(
        "on",
        "let GPUs round the factors of the net's float32 products to 10 bits, which is faster; the loss "
        "is not rounded",
    )
    deterministic: bool = option(
        False, "make runs on GPUs repeatable, which is slower; runs on CPUs always are"
    )
    sync_bn: bool = option(False, "normalise over the batch of all devices instead of each device's share")
    xla: Literal["auto", "on", "off"] = option(
        "auto",
        "compile the training step with XLA; auto does so on GPUs where the other flags allow it; --xla "
        "alone means on",
        nargs="?",
        const="on",
    )
    accumulate: int = option(
        1, "compute each batch in N parts, one after the other, which needs less memory", minimum=1
    )
    gpu_memory: str = option(
        "all",
        "GPU memory to reserve: all that is free, a little more whenever it is needed (growth), or X GiB",
        metavar="{all,growth,X}",
    )

    def problems(self) -> Iterator[str]:
        """Yields wrong combinations of flags."""
        is_given = self.workers is not None or self.worker_index is not None
        if self.strategy != "multiworker" and is_given:
            yield f"--workers and --worker_index need --strategy multiworker, not {self.strategy}."
        elif self.workers is not None:
            addresses = self.workers.split(",")
            if not all(":" in address for address in addresses) or len(set(addresses)) < len(addresses):
                yield f"--workers is {self.workers}. Give host:port,host:port,... and each address once."
            if self.worker_index is None or not 0 <= self.worker_index < len(addresses):
                yield f"--worker_index is {self.worker_index}. Give a number in [0, {len(addresses)})."
        elif self.worker_index is not None:
            yield "--worker_index needs --workers. With TF_CONFIG leave out both."
        if self.gpu_memory not in ("all", "growth") and not _is_positive(self.gpu_memory):
            yield f"--gpu_memory is {self.gpu_memory}. Give all, growth or a number of GiB above 0."


@dataclass(frozen=True, kw_only=True)
class OptimizerOptions:
    """Optimizer (see docs/recipes.md)."""

    optimizer: Literal["sgd", "adamw", "lamb"] = option(
        "sgd", "sgd adds weight decay to the loss; adamw and lamb apply it in the update"
    )
    momentum: float = option(0.9, "momentum of SGD, or beta_1 of AdamW and LAMB", above=0, maximum=1)
    weight_decay: float = option(
        1e-4, "strength of weight decay", flags=("--weight_decay", "--weight_deacy"), minimum=0
    )
    dense_decay: Literal["every_depth", "depth_50"] = option(
        "every_depth",
        "whether the last dense layer has weight decay in every net, or only in the original's nets of "
        "depth 50 (row 5)",
    )
    clip_norm: float | None = option(
        None, "scale the gradient down to this global norm when it is larger (default: never)", above=0
    )
    ema: float | None = option(
        None,
        "keep a moving average of the weights with decay X, such as 0.999; validate and export it "
        "(default: off)",
        above=0,
        below=1,
    )

    def recipe(self) -> dict[str, object] | None:
        """Returns the options that add variables to a checkpoint, or `None` if there are none."""
        recipe: dict[str, object] = {} if self.optimizer == "sgd" else {"optimizer": self.optimizer}
        if self.ema:
            recipe["ema"] = True
        return recipe or None


@dataclass(frozen=True, kw_only=True)
class ScheduleOptions:
    """Learning rate (see docs/recipes.md)."""

    schedule: Literal["steps", "cosine", "polynomial"] = option(
        "steps",
        "steps follows --lr_values; cosine and polynomial fall from --lr to --lr_end until the end of "
        "the run",
    )
    lr_values: tuple[float, ...] = option(
        (0.001, 0.0005, 0.0003, 0.0001),
        "learning rates of --schedule steps, one more than --lr_steps",
        nargs="+",
        above=0,
    )
    lr_steps: tuple[int, ...] = option(
        (40_000, 60_000, 80_000),
        "steps at which the next of --lr_values takes over, for 512 images per step; with --batch_size "
        "64 they are 8 times as large",
        nargs="*",
    )
    lr_counts_per_step: Literal[1, 2] = option(
        1, "2 counts every step twice, so rates change at half of --lr_steps (row 1)"
    )
    lr: float | None = option(
        None,
        "highest learning rate of --schedule cosine or polynomial, which require it; give the rate for 512 "
        "images per step, which is scaled to --batch_size",
        above=0,
    )
    lr_end: float = option(0.0, "last learning rate of cosine and polynomial, scaled like --lr", minimum=0)
    lr_power: float = option(2.0, "exponent of polynomial; 1 is a straight line", above=0)
    warmup_steps: int = option(0, "raise the learning rate from 0 over the first N steps", minimum=0)

    def problems(self) -> Iterator[str]:
        """Yields wrong combinations of flags."""
        if self.schedule == "steps" and len(self.lr_values) != len(self.lr_steps) + 1:
            counts = f"{len(self.lr_values)} rate(s) and --lr_steps {len(self.lr_steps)} step(s)"
            yield f"--lr_values has {counts}. Give one rate more than steps."
        if self.schedule == "steps" and self.lr is not None:
            yield "--lr needs --schedule cosine or polynomial. With --schedule steps give --lr_values."
        elif self.schedule != "steps" and self.lr is None:
            yield f"--schedule {self.schedule} needs --lr."
        elif self.lr is not None and self.lr_end > self.lr:
            yield f"--lr_end is {self.lr_end}. Give at most --lr, {self.lr}."

    def boundaries(self, batch_size: int) -> list[int]:
        """Returns the steps at which the learning rate changes, for this batch size.

        References:
            - margin-centre-face, `train_centre.py`: `int(512 / batch_size) * lr_steps`
        """
        return [max(1, int(512 / batch_size)) * step // self.lr_counts_per_step for step in self.lr_steps]


@dataclass(frozen=True, kw_only=True)
class AugmentationOptions:
    """Augmentation: the probability that an image is changed (see docs/recipes.md)."""

    augment_crop: float = option(0.0, "shift and zoom the image a little", minimum=0, maximum=1)
    augment_occlusion: float = option(
        0.0, "black out all of the image but a random box", minimum=0, maximum=1
    )
    augment_colour: float = option(0.0, "change brightness, contrast and saturation", minimum=0, maximum=1)
    augment_low_resolution: float = option(0.0, "scale the image down and up again", minimum=0, maximum=1)
    augment_jpeg: float = option(0.0, "compress the image as JPEG", minimum=0, maximum=1)

    def probabilities(self) -> dict[str, Any]:
        """Returns the arguments of `dataset.augment.Augmentation`."""
        return {name.removeprefix("augment_"): value for name, value in vars(self).items()}


@dataclass(frozen=True, kw_only=True)
class DistillationOptions:
    """Distillation (see docs/nets_and_losses.md)."""

    teacher: Path | None = option(
        None,
        "train the net to give the same embeddings as this model, a file or folder in any format "
        "(default: off)",
    )
    teacher_weight: float | None = option(
        None, "weight of 1 - cosine between the embeddings of net and teacher (default: 10)", above=0
    )

    teacher_relation: float | None = option(
        None,
        "weight of the difference between the distances within a batch and those of the teacher (default: 0)",
        minimum=0,
    )

    def problems(self) -> Iterator[str]:
        """Yields wrong combinations of flags."""
        for name in ("teacher_weight", "teacher_relation"):
            if getattr(self, name) is not None and self.teacher is None:
                yield f"--{name} needs --teacher MODEL."

    def arguments(self) -> dict[str, Any]:
        """Returns the arguments of `losses.distillation.DistillationLoss` that flags give."""
        given = {"weight": self.teacher_weight, "relation_weight": self.teacher_relation}
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """Output."""

    output: Path = option(
        Path("./output"), "folder for the files of the run: checkpoints, models, logs, TensorBoard logs"
    )
    summary_path: Path = option(None, "folder for TensorBoard logs (default: summary/ in --output)")
    ckpt_path: Path = option(None, "folder for training checkpoints (default: ckpt/ in --output)")
    saved_model_path: Path = option(None, "folder for SavedModels (default: models/ in --output)")
    log_file_path: Path = option(None, "folder for log files (default: logs/ in --output)")
    saver_maxkeep: int = option(
        100, "keep the N newest SavedModels, and the best of each validation set", minimum=1
    )
    show_info_interval: int = option(20, "log progress every N steps", minimum=1)
    summary_interval: int = option(300, "write TensorBoard scalars every N steps", minimum=1)
    validate_interval: int = option(2000, "validate every N steps", minimum=1)
    save_interval: int = option(
        1000, "save a training checkpoint every N steps; the newest 3 and the best are kept", minimum=1
    )
    ckpt_interval: int = option(
        20_000, "write a SavedModel every N steps, also without a new best score", minimum=1
    )
    profile: bool = option(False, "write a TensorBoard profile of steps 10 to 20 after the start")
    worker_folder: Path | None = None  # temporary folder of a worker that is not the chief

    def __post_init__(self) -> None:
        for flag, name in _OUTPUT_FOLDERS.items():
            if getattr(self, flag) is None:
                object.__setattr__(self, flag, self.output / name)

    @property
    def profile_path(self) -> Path | None:
        """Folder for the profile, or `None` without `--profile`."""
        return self.summary_path if self.profile else None

    def due(self, step: int) -> set[str]:
        """Returns which of `show_info`, `summary`, `validate`, `save`, `ckpt` are due after `step` steps."""
        intervals = {name: value for name, value in vars(self).items() if name.endswith("_interval")}
        return {name.removesuffix("_interval") for name, value in intervals.items() if step % value == 0}


@dataclass(frozen=True, kw_only=True)
class ValidationOptions:
    """Validation."""

    lfw_threshold: float = option(
        0.99, "write a SavedModel at each new best accuracy on LFW above X, a fraction"
    )
    ytf_threshold: float = option(0.94, "the same for YTF, both for pairs of images and for pairs of videos")
    validate_videos: int | None = option(
        None, "also validate on videos of YTF, with N frames of each (default: off)", minimum=1
    )
    threshold: str = option(
        "best",
        "how a fold gets its threshold; best: the most accurate threshold on the other folds; crossing: the "
        "original's rule and folds (rows 18, 19)",
        choices=RULES,
    )
    lfw_as_stored: bool = _switch(
        False, "feed the .np file of [lfw] to the net in the channel order of the file (row 24)"
    )


@dataclass(frozen=True, kw_only=True)
class StartOptions:
    """Start of a run."""

    def models(self) -> dict[str, Path]:
        """Returns the models that flags name, by flag without dashes."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Path)}


@dataclass(frozen=True, kw_only=True)
class CentreStartOptions(StartOptions):
    """Start of a run that has no checkpoint in --ckpt_path yet."""

    model_path: Path | None = option(
        None,
        "training checkpoint of another run to resume from, or TensorFlow 1 checkpoint from which to take "
        "net and centres (default: random weights)",
    )
    init_from: Path | None = option(
        None, "model in any format from which to take only the net, without centres (default: random weights)"
    )

    def problems(self) -> Iterator[str]:
        """Yields wrong combinations of flags."""
        if self.model_path and self.init_from:
            yield "--model_path and --init_from both name a model to start from. Give only one of them."


@dataclass(frozen=True, kw_only=True)
class LossOptions:
    """Loss. Every loss has its own defaults (see docs/nets_and_losses.md)."""

    loss: str = option(
        "angular_centre",
        f"loss to train with: {', '.join(LOSSES | TEACHER_LOSSES)}",
        choices=LOSSES | TEACHER_LOSSES,
        metavar="NAME",
    )
    margin: float | None = option(
        None,
        "margin in radians; cosface, and in part adaface, subtract it from the cosine instead (default: "
        "0.3 to 0.5, depending on the loss)",
        minimum=0,
    )
    scale: float | None = option(
        None, "factor of the cosines before the softmax (default: 64; cosface 30)", above=0
    )
    centre_weight: float | None = option(
        None, "weight of the centre term of angular_centre (default: 0.3)", minimum=0
    )
    margin_a: float | None = option(None, "factor of the angle in combined (default: 1)", above=0)
    margin_b: float | None = option(
        None,
        "margin that combined subtracts from the cosine, in addition to --margin (default: 0.2)",
        minimum=0,
        below=2,
    )
    num_sub_centres: int | None = option(
        None, "number of centres per identity in sub_centre (default: 3)", minimum=1
    )
    label_smoothing: float = option(
        0.0, "share of each label that is spread evenly over all identities", minimum=0, below=1
    )
    margin_warmup_steps: int = option(0, "raise the margin from 0 over the first N steps", minimum=0)

    def problems(self) -> Iterator[str]:
        """Yields wrong combinations of flags."""
        takes = self.variant.arguments
        for name in ARGUMENTS:
            if getattr(self, name) is not None and name not in takes:
                flags = ", ".join(f"--{one}" for one in takes) or "no flags of its own"
                yield f"--{name} does not apply to --loss {self.loss}, which takes {flags}. Leave it out."
        if self.margin_warmup_steps and not self.has_margin:
            yield f"--margin_warmup_steps needs a loss with a margin. --loss {self.loss} has none."
        limit = self.variant.margin_limit
        if self.has_margin and self.margin is not None and self.margin >= limit:
            yield f"--margin is {self.margin}. With --loss {self.loss} give less than {limit:.5g}."

        if self.label_smoothing and not self.has_centres:
            yield f"--label_smoothing needs a loss with labels. --loss {self.loss} has none."

    @property
    def variant(self) -> LossVariant:
        return (LOSSES | TEACHER_LOSSES)[self.loss]

    @property
    def has_centres(self) -> bool:
        return self.loss in LOSSES

    @property
    def has_margin(self) -> bool:
        return "margin" in self.variant.arguments

    def arguments(self) -> dict[str, Any]:
        """Returns the arguments of `losses.build.build_loss`. `None` means the loss's own default."""
        return {name: getattr(self, name) for name in (*ARGUMENTS, "label_smoothing")}


@dataclass(frozen=True, kw_only=True)
class CentresOptions:
    """Many identities (see docs/many_identities.md)."""

    sample_rate: float = option(
        1.0,
        "share of the identities whose centres take part in a step: those of the batch and random "
        "others; below 1 a step is faster",
        above=0,
        maximum=1,
    )
    shard_centres: bool = option(
        False, "split the centres over the devices instead of copying all of them to each"
    )


@dataclass(frozen=True, kw_only=True)
class TripletStartOptions(StartOptions):
    """Start of a run that has no checkpoint in --ckpt_path yet."""

    model_path: Path | None = option(None, "model to fine-tune, in any format; give this or --from_scratch")
    from_scratch: bool = option(False, "start from random weights instead of --model_path")

    def problems(self) -> Iterator[str]:
        """Yields wrong combinations of flags."""
        if self.model_path and self.from_scratch:
            yield "--from_scratch and --model_path exclude each other. Give only one of them."


@dataclass(frozen=True, kw_only=True)
class TripletOptions:
    """Triplets."""

    triplet_margin: float = option(
        0.3, "how much farther a negative should be than a positive, as a distance of unit vectors", minimum=0
    )
    triplet_weight: float = option(10.0, "weight of the triplet loss relative to weight decay", above=0)
    sample_per_class: int = option(4, "number of images of each identity in a batch", minimum=2)
    mining: str = option(
        "batch_hard", "triplets of a batch: the hardest one of each image, or all", choices=MININGS
    )
    squared: bool = _switch(False, "compare squared distances")
    with_replacement: bool = _switch(
        False,
        "draw identities in proportion to their size, and identities and images with replacement (row 13)",
    )


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Options of both programs: those of the original, with its defaults, and our own.

    References:
        - margin-centre-face, `train_centre.py::get_parser` and `train_triplet.py::get_parser`; row 17 of
          docs/fidelity.md: its flags have no types.
    """

    allow_changes: bool = option(
        False, "resume even if loss, net, sources or batch size differ from those of the run"
    )
    check: bool = option(False, "check data, memory, disk space and speed, then exit without training")
    faithful: bool = option(
        False, "train with the original's choices: set every flag marked (row N), a row of docs/fidelity.md"
    )
    data: DataOptions
    length: LengthOptions
    net: NetOptions
    device: DeviceOptions
    optimizer: OptimizerOptions
    schedule: ScheduleOptions
    augmentation: AugmentationOptions
    distillation: DistillationOptions
    output: OutputOptions
    validation: ValidationOptions
    start: StartOptions

    @property
    def loss_name(self) -> str:
        """Name of the loss in checkpoints."""
        raise NotImplementedError

    @property
    def needs_labels(self) -> bool:
        """True if the loss compares identities."""
        return True

    def problems(self) -> Iterator[str]:
        """Yields wrong combinations of flags."""
        if self.data.batch_size % max(self.device.accumulate, 1):
            expected = f"a multiple of --accumulate, {self.device.accumulate}"
            yield f"--batch_size is {self.data.batch_size}. Give {expected}."
        if self.distillation.teacher is not None and self.data.read != "random":
            yield f"--read is {self.data.read}. --teacher needs --read random."
        if self.distillation.teacher_relation and self.device.accumulate > 1:
            yield "--teacher_relation needs the whole batch. Leave out --accumulate."
        if self.schedule.schedule == "steps":
            boundaries = self.schedule.boundaries(max(self.data.batch_size, 1))
            if boundaries != sorted(set(boundaries)) or min(boundaries, default=1) < 1:
                given = " ".join(map(str, self.schedule.lr_steps))
                yield f"--lr_steps is {given}. Give increasing steps above 0."
        elif self.length.max_steps is not None and self.schedule.warmup_steps >= self.length.max_steps:
            yield f"--warmup_steps is {self.schedule.warmup_steps}. Give fewer than --max_steps."


@dataclass(frozen=True, kw_only=True)
class CentreTrainingOptions(TrainingOptions):
    """Options of train_centre."""

    preset: str | None = option(
        None,
        "set the flags of a recipe, which docs/recipes.md lists; flags that you give override it (default: "
        "none)",
        choices=PRESETS,
    )
    reshuffle: bool = _switch(
        True, "give every epoch its own order of the images; otherwise all repeat the first order (row 12)"
    )
    start: CentreStartOptions
    loss: LossOptions
    centres: CentresOptions

    @property
    def loss_name(self) -> str:
        return self.loss.loss

    @property
    def needs_labels(self) -> bool:
        return self.loss.has_centres

    def problems(self) -> Iterator[str]:
        """Yields wrong combinations of flags."""
        yield from super().problems()
        if not self.loss.has_centres and self.distillation.teacher is None:
            yield f"--loss {self.loss.loss} needs --teacher MODEL."
        device = self.device
        is_sharded, is_sampled = self.centres.shard_centres, self.centres.sample_rate < 1
        refused = {
            f"--accumulate {device.accumulate}": device.accumulate > 1,
            f"--precision {device.precision}": device.precision == "mixed_float16",
            "--xla on": device.xla == "on",
            f"--loss {self.loss.loss}": (
                (is_sharded and not self.loss.variant.can_be_sharded)
                or (is_sampled and not self.loss.has_centres)
            ),
            f"--sample_rate {self.centres.sample_rate}": is_sharded and is_sampled,
            f"--label_smoothing {self.loss.label_smoothing}": is_sharded and self.loss.label_smoothing > 0,
        }
        if is_sharded or is_sampled:
            flag = "--shard_centres" if is_sharded else "--sample_rate below 1"
            for other in (name for name, is_given in refused.items() if is_given):
                yield f"{flag} does not work with {other}. Leave out one of them."


@dataclass(frozen=True, kw_only=True)
class TripletTrainingOptions(TrainingOptions):
    """Options of train_triplet."""

    start: TripletStartOptions
    triplet: TripletOptions

    @property
    def loss_name(self) -> str:
        return "triplet"

    def problems(self) -> Iterator[str]:
        """Yields wrong combinations of flags."""
        yield from super().problems()
        num_images = self.triplet.sample_per_class
        if self.data.batch_size % max(num_images, 1):
            expected = f"a multiple of --sample_per_class, {num_images}"
            yield f"--batch_size is {self.data.batch_size}. Give {expected}."
        if self.data.read != "random":
            yield f"--read is {self.data.read}. Triplets need --read random."
        if self.device.accumulate > 1:
            yield f"--accumulate is {self.device.accumulate}. Triplets need the whole batch: leave it out."


FindProblems = Callable[[Any], Iterable[str]]


def parse_centre_options(
    argv: Sequence[str] | None = None, find_input_problems: FindProblems | None = None
) -> CentreTrainingOptions:
    """Parses the command line of train_centre; see `common.options.parse_options`."""
    first_flags = (*_FIRST_FLAGS, "loss", "preset", "lr", "faithful")
    parser = ShortHelpParser("python -m train_centre", "Trains a net with a margin loss.", first_flags)
    faithful = {**FAITHFUL, "reshuffle": False}
    return parse_options(
        parser,
        CentreTrainingOptions,
        argv,
        faithful=faithful,
        presets=PRESETS,
        find_input_problems=find_input_problems,
    )


def parse_triplet_options(
    argv: Sequence[str] | None = None, find_input_problems: FindProblems | None = None
) -> TripletTrainingOptions:
    """Parses the command line of train_triplet; see `common.options.parse_options`."""
    first_flags = (
        *_FIRST_FLAGS,
        "from_scratch",
        "sample_per_class",
        "triplet_margin",
        "lr_values",
        "faithful",
    )
    parser = ShortHelpParser(
        "python -m train_triplet", "Fine-tunes a net with the triplet loss.", first_flags
    )
    defaults = {"source": ("vgg",), "output": Path("./output/vgg-triplet")}
    faithful = {**FAITHFUL, "with_replacement": True}
    return parse_options(
        parser,
        TripletTrainingOptions,
        argv,
        defaults=defaults,
        faithful=faithful,
        find_input_problems=find_input_problems,
    )


def describe_preset(name: str) -> str:
    """Returns the flags of a preset as you would type them."""
    given = []
    for flag, value in PRESETS[name].items():
        if isinstance(value, bool):
            given.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            given.append(f"--{flag}={value:g}" if isinstance(value, float) else f"--{flag}={value}")
    return " ".join(given)
