"""Losses for face embeddings. Each is a Keras layer that you call as `layer(embeddings, identities)`.

The classes are imported on first use, because importing TensorFlow takes seconds. After `import losses`,
Keras can load models that contain these layers.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .lazy_layers import register_layers
from .variants import LOSSES, TEACHER_LOSSES

if TYPE_CHECKING:
    from .adaface import AdaFaceLoss as AdaFaceLoss
    from .angular_centre import AngularCentreLoss as AngularCentreLoss
    from .arcface import ArcFaceLoss as ArcFaceLoss
    from .build import build_loss as build_loss
    from .combined_margin import CombinedMarginLoss as CombinedMarginLoss
    from .cosface import CosFaceLoss as CosFaceLoss
    from .distillation import DistillationLoss as DistillationLoss
    from .hardnet import HardNetLoss as HardNetLoss
    from .magface import MagFaceLoss as MagFaceLoss
    from .margin import MarginLoss as MarginLoss
    from .softmax import SoftmaxLoss as SoftmaxLoss
    from .sub_centre import SubCentreLoss as SubCentreLoss
    from .triplet import TripletLoss as TripletLoss

_LAYERS = {loss.layer: loss.module for loss in (LOSSES | TEACHER_LOSSES).values()}
_LAYERS |= {"TripletLoss": ".triplet", "HardNetLoss": ".hardnet"}
_MODULES = {**_LAYERS, "build_loss": ".build"}

__all__ = ["LOSSES", *_MODULES]

register_layers(__name__, _LAYERS)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name], __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
