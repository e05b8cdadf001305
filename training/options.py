"""Command-line options of the two training programs. Imports no TensorFlow, so that `--help` is instant."""

import argparse
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from common.options import option, parse_options
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

    config: Path = option(Path("./config.ini"), "config file that says where the data is")
    source: tuple[str, ...] = option(("vgg", "ms1m"), "config sections to train on", nargs="+")
    source_weights: tuple[float, ...] | None = option(
        None, "probabilities (default: by size)", nargs="+", minimum=0
    )
    read: Literal["random", "sequential"] = option("random", "how to read the records, see docs/data.md")
    mirror: bool = _switch(True, "mirror images at random (row 3)")
    list_order: Literal["bgr", "rgb"] = option("bgr", "channel order of image lists (row 25)")
    batch_size: int = option(64, "images per step, over all devices", minimum=1)
    max_bad_images: int = option(100, "stop when more than N images are unusable (row 27)", minimum=0)
    seed: int = option(0, "seed of weights, order, mirroring and dropout", minimum=0)

    def problems(self) -> Iterator[str]:
        """Yields wrong combinations of flags."""
        if self.source_weights is not None and len(self.source_weights) != len(self.source):
            counts = f"{len(self.source_weights)} numbers for {len(self.source)} sources"
            yield f"--source_weights has {counts}. Give one number for each source."
        elif self.source_weights is not None and not math.isclose(sum(self.source_weights), 1, abs_tol=1e-5):
            given = " ".join(map(str, self.source_weights))
            yield f"--source_weights is {given}. Give probabilities that sum to 1."


@dataclass(frozen=True, kw_only=True)
class LengthOptions:
    """Length of the run."""

    epoch: int = option(20, "stop after N epochs; the original's 100,000 never ended (row 41)", minimum=0)
    max_steps: int | None = option(None, "stop after N steps", minimum=0)
    max_minutes: float | None = option(None, "stop after X minutes; the same command resumes", above=0)

    def num_steps(self, steps_per_epoch: float) -> int:
        """Returns the step to stop after: the sooner of `epoch` and `max_steps`."""
        steps = math.ceil(self.epoch * steps_per_epoch)
        return steps if self.max_steps is None else min(steps, self.max_steps)


@dataclass(frozen=True, kw_only=True)
class NetOptions:
    """Net (default: that of the model to start from, or else ir50 at 112 96)."""

    net_depth: Literal[32, 50, 100, 152] | None = option(None, "depth of the original's net")
    net_type: str | None = option(None, "kind of its residual units", choices=UNIT_TYPES)
    backbone: str | None = option(None, f"any net: {', '.join(VARIANTS)}", choices=VARIANTS, metavar="NAME")
    image_size: tuple[int, ...] | None = option(
        None, "centre crop to feed", nargs=2, metavar=("H", "W"), minimum=1
    )
    embedding_size: int | None = option(
        None, "numbers of an embedding (512; mobilefacenet 128)", minimum=1, metavar="N"
    )
    keep_prob: float | None = option(
        None, f"share that dropout keeps ({KEEP_PROB}; iresnets and small nets 1)", above=0, maximum=1
    )
    random_final_gamma: bool = _switch(False, "freeze the last gamma at a random draw (row 7)")

    def problems(self) -> Iterator[str]:
        """Yields wrong combinations of flags."""
        if self.backbone is not None and (self.net_depth is not None or self.net_type is not None):
            yield "--backbone names the whole net. Leave out --net_depth and --net_type."

    def arguments(self, seed: int, base: dict[str, Any] | None = None) -> dict[str, Any]:
        """The arguments of `nets.backbone.Backbone`.

        Args:
            seed: of the weights.
            base: used where no flag is given: the model to start from, by default ir50 at 112x96.
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
        if net["architecture"] != base.get("architecture"):  # whose function may not take further arguments
            net = {name: value for name, value in net.items() if name in (*given, "seed")}
        if self.random_final_gamma and find_variant(net["architecture"]).builder == "resnet_ir":
            net["random_final_gamma"] = True
        return net


@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """Devices (see docs/devices.md)."""

    strategy: Literal["auto", "one", "mirrored", "multiworker"] = option(
        "auto", "use one device, all GPUs of this machine (auto: if it has several), or several machines"
    )
    workers: str | None = option(None, "all workers (default: TF_CONFIG)", metavar="HOST:PORT,...")
    worker_index: int | None = option(None, "place of this worker in --workers; 0 is the chief")
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = option(
        "float32", "precision of the net's computations"
    )
    tf32: Literal["on", "off"] = option(
        "on", "let GPUs round the factors of a float32 net to 10 bits of mantissa; the loss never does"
    )
    deterministic: bool = option(False, "make runs on GPUs repeatable; slower, and no use on CPUs")
    sync_bn: bool = option(False, "compute batch norm over the global batch instead of each device's share")
    xla: Literal["auto", "on", "off"] = option(
        "auto",
        "compile the step with XLA (auto: on GPUs, as far as the other flags allow); --xla alone means on",
        nargs="?",
        const="on",
    )
    accumulate: int = option(1, "compute each batch in N parts, to save memory", minimum=1)
    gpu_memory: str = option(
        "all",
        "memory to take of each GPU: all that is free, as it is needed (growth), or at most X GiB",
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

    optimizer: Literal["sgd", "adamw", "lamb"] = option("sgd", "adamw and lamb decay in the update")
    momentum: float = option(0.9, "momentum of SGD, or beta_1 of AdamW and LAMB", above=0, maximum=1)
    weight_decay: float = option(
        1e-4, "weight of the decay", flags=("--weight_decay", "--weight_deacy"), minimum=0
    )
    dense_decay: Literal["every_depth", "depth_50"] = option(
        "every_depth", "nets whose dense kernel decays (row 5)"
    )
    clip_norm: float | None = option(None, "largest global norm of the gradient", above=0)
    ema: float | None = option(None, "score and export a moving average with decay X", above=0, below=1)

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
        "steps", "follow --lr_values, or fall from --lr to --lr_end"
    )
    lr_values: tuple[float, ...] = option((0.001, 0.0005, 0.0003, 0.0001), "rates", nargs="+", above=0)
    lr_steps: tuple[int, ...] = option(
        (40_000, 60_000, 80_000), "steps at which the rate changes, for a batch of 512", nargs="*"
    )
    lr_counts_per_step: Literal[1, 2] = option(1, "counts of --lr_steps per step (row 1)")
    lr: float | None = option(None, "peak of cosine and polynomial, for a batch of 512", above=0)
    lr_end: float = option(0.0, "end of cosine and polynomial, for a batch of 512", minimum=0)
    lr_power: float = option(2.0, "power of polynomial", above=0)
    warmup_steps: int = option(0, "steps over which the rate rises from 0", minimum=0)

    def problems(self) -> Iterator[str]:
        """Yields wrong combinations of flags."""
        if self.schedule == "steps" and len(self.lr_values) != len(self.lr_steps) + 1:
            counts = f"{len(self.lr_values)} rates and --lr_steps {len(self.lr_steps)} steps"
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
    """Augmentation: probabilities per image (see docs/recipes.md)."""

    augment_crop: float = option(0.0, "shift and zoom", minimum=0, maximum=1)
    augment_occlusion: float = option(0.0, "black out all but a box", minimum=0, maximum=1)
    augment_colour: float = option(0.0, "change brightness, contrast and saturation", minimum=0, maximum=1)
    augment_low_resolution: float = option(0.0, "scale down and up again", minimum=0, maximum=1)
    augment_jpeg: float = option(0.0, "compress as JPEG", minimum=0, maximum=1)

    def probabilities(self) -> dict[str, Any]:
        """The arguments of `dataset.augment.Augmentation`."""
        return {name.removeprefix("augment_"): value for name, value in vars(self).items()}


@dataclass(frozen=True, kw_only=True)
class DistillationOptions:
    """Distillation (see docs/nets_and_losses.md)."""

    teacher: Path | None = option(None, "also learn the embeddings of this model, in any format")
    teacher_weight: float | None = option(
        None, "weight of 1 - cosine to the embedding of the teacher (10)", above=0
    )

    teacher_relation: float | None = option(
        None, "weight of the differences to the teacher's distances within a batch (0)", minimum=0
    )

    def problems(self) -> Iterator[str]:
        """Yields wrong combinations of flags."""
        for name in ("teacher_weight", "teacher_relation"):
            if getattr(self, name) is not None and self.teacher is None:
                yield f"--{name} needs --teacher MODEL."

    def arguments(self) -> dict[str, Any]:
        """Those of `losses.distillation.DistillationLoss`, where the flags give them."""
        given = {"weight": self.teacher_weight, "relation_weight": self.teacher_relation}
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """Output."""

    output: Path = option(Path("./output"), "folder for the next four, unless they are given")
    summary_path: Path = option(None, "folder for TensorBoard logs (default: summary in --output)")
    ckpt_path: Path = option(None, "folder for training checkpoints (default: ckpt in --output)")
    saved_model_path: Path = option(None, "folder for SavedModels (default: models in --output)")
    log_file_path: Path = option(None, "folder for log files (default: logs in --output)")
    saver_maxkeep: int = option(100, "keep N SavedModels, and the best of each validation set", minimum=1)
    show_info_interval: int = option(20, "log progress every N steps", minimum=1)
    summary_interval: int = option(300, "write TensorBoard scalars every N steps", minimum=1)
    validate_interval: int = option(2000, "validate every N steps", minimum=1)
    save_interval: int = option(1000, "save a checkpoint every N steps; keep 3 and the best", minimum=1)
    ckpt_interval: int = option(20_000, "write a SavedModel every N steps, whatever its score", minimum=1)
    profile: bool = option(False, "write a TensorBoard profile of steps 10 to 20 of this run")
    worker_folder: Path | None = None  # temporary folder of a worker that is not the chief

    def __post_init__(self) -> None:
        for flag, name in _OUTPUT_FOLDERS.items():
            if getattr(self, flag) is None:
                object.__setattr__(self, flag, self.output / name)

    @property
    def profile_path(self) -> Path | None:
        """Folder for the profile, if one is asked for."""
        return self.summary_path if self.profile else None

    def due(self, step: int) -> set[str]:
        """Returns which of `show_info`, `summary`, `validate`, `save`, `ckpt` are due after `step` steps."""
        intervals = {name: value for name, value in vars(self).items() if name.endswith("_interval")}
        return {name.removesuffix("_interval") for name, value in intervals.items() if step % value == 0}


@dataclass(frozen=True, kw_only=True)
class ValidationOptions:
    """Validation."""

    lfw_threshold: float = option(0.99, "write a SavedModel when LFW reaches a new best above this accuracy")
    ytf_threshold: float = option(0.94, "the same for YTF, images and videos")
    validate_videos: int | None = option(None, "also score YTF videos, N frames per template", minimum=1)
    threshold: str = option(
        "best", "rule for a fold's threshold; crossing uses the original's folds (rows 18, 19)", choices=RULES
    )
    lfw_as_stored: bool = _switch(False, "feed a .np file to the net in its own channel order (row 24)")


@dataclass(frozen=True, kw_only=True)
class StartOptions:
    """Start of a run."""

    def models(self) -> dict[str, Path]:
        """The models that flags name, by flag without dashes."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Path)}


@dataclass(frozen=True, kw_only=True)
class CentreStartOptions(StartOptions):
    """Start of a run that has no checkpoint in --ckpt_path yet."""

    model_path: Path | None = option(
        None, "resume from another run's checkpoint, or take net and centres from a TensorFlow 1 checkpoint"
    )
    init_from: Path | None = option(None, "take the net from any model; everything else starts fresh")

    def problems(self) -> Iterator[str]:
        """Yields wrong combinations of flags."""
        if self.model_path and self.init_from:
            yield "--model_path and --init_from both name a model to start from. Give only one of them."


@dataclass(frozen=True, kw_only=True)
class LossOptions:
    """Loss (each has its own defaults)."""

    loss: str = option(
        "angular_centre", "name of the loss; distillation ignores labels", choices=LOSSES | TEACHER_LOSSES
    )
    margin: float | None = option(None, "margin in radians; of the cosine for cosface and adaface", minimum=0)
    scale: float | None = option(None, "factor of the cosines", above=0)
    centre_weight: float | None = option(None, "weight of the centre term (0.3)", minimum=0)
    margin_a: float | None = option(None, "factor of the angle, for combined", above=0)
    margin_b: float | None = option(None, "subtracted from the cosine, for combined", minimum=0, below=2)
    num_sub_centres: int | None = option(None, "centres per identity, for sub_centre", minimum=1)
    label_smoothing: float = option(0.0, "share of the label spread over all identities", minimum=0, below=1)
    margin_warmup_steps: int = option(0, "steps over which the margin rises from 0", minimum=0)

    def problems(self) -> Iterator[str]:
        """Yields wrong combinations of flags."""
        takes = self.variant.arguments
        for name in ARGUMENTS:
            if getattr(self, name) is not None and name not in takes:
                yield f"--loss {self.loss} has no {name}. It takes: {', '.join(takes) or 'no arguments'}."
        if self.margin_warmup_steps and not self.has_margin:
            yield f"--margin_warmup_steps needs a loss with a margin. --loss {self.loss} has none."
        limit = self.variant.margin_limit
        if self.margin is not None and self.margin >= limit:
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
        """Those of `losses.build.build_loss`; `None` stands for the loss's own default."""
        return {name: getattr(self, name) for name in (*ARGUMENTS, "label_smoothing")}


@dataclass(frozen=True, kw_only=True)
class CentresOptions:
    """Many identities (see docs/many_identities.md)."""

    sample_rate: float = option(
        1.0, "share of the identities in a step: the batch's, and others at random", above=0, maximum=1
    )
    shard_centres: bool = option(False, "split the centres over the devices")


@dataclass(frozen=True, kw_only=True)
class TripletStartOptions(StartOptions):
    """Start of a run that has no checkpoint in --ckpt_path yet."""

    model_path: Path | None = option(None, "model to fine-tune")
    from_scratch: bool = option(False, "train a net with random weights instead")

    def problems(self) -> Iterator[str]:
        """Yields wrong combinations of flags."""
        if self.model_path and self.from_scratch:
            yield "--from_scratch and --model_path exclude each other. Give only one of them."


@dataclass(frozen=True, kw_only=True)
class TripletOptions:
    """Triplets."""

    triplet_margin: float = option(0.3, "margin between the distances", minimum=0)
    triplet_weight: float = option(10.0, "weight of the triplet loss in the total loss", above=0)
    sample_per_class: int = option(4, "images of each identity in a batch", minimum=2)
    mining: str = option("batch_hard", "which triplets of a batch to use", choices=MININGS)
    squared: bool = _switch(False, "square the distances")
    with_replacement: bool = _switch(False, "draw with replacement, identities by their size (row 13)")


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Options of both programs: the original's, with its defaults, and ours.

    References:
        - margin-centre-face, `train_centre.py::get_parser` and `train_triplet.py::get_parser`; row 17 of
          docs/fidelity.md: its flags have no types.
    """

    allow_changes: bool = option(
        False, "resume although loss, net, sources or batch size are not those of the run"
    )
    check: bool = option(False, "only check data, memory, disk and speed; exit code 0 if all is well")
    faithful: bool = option(False, "train as the published models: set the flags marked (row N)")
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
                yield f"--lr_steps is {self.schedule.lr_steps}. Give increasing steps above 0."
        elif self.length.max_steps is not None and self.schedule.warmup_steps >= self.length.max_steps:
            yield f"--warmup_steps is {self.schedule.warmup_steps}. Give fewer than --max_steps."


@dataclass(frozen=True, kw_only=True)
class CentreTrainingOptions(TrainingOptions):
    """Options of train_centre."""

    preset: str | None = option(None, "set all flags of a recipe; flags that you give win", choices=PRESETS)
    reshuffle: bool = _switch(True, "shuffle the images again for every epoch (row 12)")
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
    parser = argparse.ArgumentParser("python -m train_centre", description="Train a net with a margin loss.")
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
    parser = argparse.ArgumentParser("python -m train_triplet", description="Fine-tune a net on triplets.")
    defaults = {"source": ["vgg"], "output": Path("./output/vgg-triplet")}
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
    """The flags of a preset as you would type them."""
    given = []
    for flag, value in PRESETS[name].items():
        if isinstance(value, bool):
            given.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            given.append(f"--{flag}={value:g}" if isinstance(value, float) else f"--{flag}={value}")
    return " ".join(given)
