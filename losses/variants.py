"""The table of all losses. Imports no TensorFlow, so that `--help` can list them quickly."""

import math
from typing import Any, NamedTuple


class LossVariant(NamedTuple):
    """A loss that the training programs know by name.

    Attributes:
        module: its module, relative to the package.
        layer: its class.
        arguments: the constructor's arguments that flags may set.
        fixed: the constructor's arguments that the name sets.
        margin_limit: margins are in `[0, margin_limit)`.
        can_be_sharded: whether each replica can hold a part of the centres.
    """

    module: str
    layer: str
    arguments: tuple[str, ...] = ("margin", "scale")
    fixed: dict[str, Any] = {}  # noqa: RUF012
    margin_limit: float = math.pi
    can_be_sharded: bool = True


_MARGIN = ("margin", "scale")

# To add a loss, add a module and a row here.
LOSSES = {
    "angular_centre": LossVariant(".angular_centre", "AngularCentreLoss", (*_MARGIN, "centre_weight")),
    "arcface": LossVariant(".arcface", "ArcFaceLoss"),
    "cosface": LossVariant(".cosface", "CosFaceLoss", margin_limit=2.0),
    "combined": LossVariant(".combined_margin", "CombinedMarginLoss", (*_MARGIN, "margin_a", "margin_b")),
    "softmax": LossVariant(".softmax", "SoftmaxLoss", (), {"normalise_centres": False}, can_be_sharded=False),
    "normalised_softmax": LossVariant(
        ".softmax", "SoftmaxLoss", (), {"normalise_centres": True}, can_be_sharded=False
    ),
    "margin": LossVariant(".margin", "MarginLoss", (), can_be_sharded=False),
    "sub_centre": LossVariant(
        ".sub_centre", "SubCentreLoss", (*_MARGIN, "num_sub_centres"), can_be_sharded=False
    ),
    "adaface": LossVariant(".adaface", "AdaFaceLoss", can_be_sharded=False),
    "magface": LossVariant(".magface", "MagFaceLoss"),
}

# Losses that need a teacher instead of labels. They own no centres.
TEACHER_LOSSES = {
    "distillation": LossVariant(".distillation", "DistillationLoss", (), can_be_sharded=False),
}

# Every argument that flags may set.
ARGUMENTS = tuple(dict.fromkeys(name for loss in LOSSES.values() for name in loss.arguments))
# Arguments of all losses.
COMMON_ARGUMENTS = ("label_smoothing", "sample_rate", "sharded")

# Kinds of mining in `TripletLoss`.
MININGS = ("batch_hard", "batch_all")


def num_sampled(num_centres: int, sample_rate: float) -> int:
    """Returns the number of centres in a sample, `ceil(sample_rate * num_centres)`."""
    return math.ceil(round(sample_rate * num_centres, 6))  # in floating point 0.1 * 30 is a little over 3
