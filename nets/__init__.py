"""Backbones: nets that turn images of faces into embeddings.

Classes and functions are imported on first use, because importing TensorFlow takes seconds. After
`import nets`, Keras can load models that contain these layers.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .lazy_layers import register_layers

if TYPE_CHECKING:
    from .backbone import Backbone as Backbone
    from .backbone import build_backbone as build_backbone
    from .backbone import load_backbone as load_backbone
    from .layers.batch_norm import BatchNorm as BatchNorm
    from .layers.batch_renorm import BatchRenorm as BatchRenorm
    from .layers.dropout import Dropout as Dropout
    from .layers.dropout import DropPath as DropPath
    from .layers.group_norm import GroupNorm as GroupNorm
    from .layers.grouped_conv import GroupedConv as GroupedConv
    from .layers.prelu import PReLU as PReLU
    from .layers.tokens import DropTokens as DropTokens
    from .layers.tokens import PositionEmbedding as PositionEmbedding
    from .layers.tokens import RestoreTokens as RestoreTokens
    from .layers.tokens import SelfAttention as SelfAttention

_LAYERS = {
    "Backbone": ".backbone",
    "BatchNorm": ".layers.batch_norm",
    "BatchRenorm": ".layers.batch_renorm",
    "Dropout": ".layers.dropout",
    "GroupNorm": ".layers.group_norm",
    "GroupedConv": ".layers.grouped_conv",
    "PReLU": ".layers.prelu",
    "DropPath": ".layers.dropout",
    "DropTokens": ".layers.tokens",
    "PositionEmbedding": ".layers.tokens",
    "RestoreTokens": ".layers.tokens",
    "SelfAttention": ".layers.tokens",
}
_MODULES = {**_LAYERS, "build_backbone": ".backbone", "load_backbone": ".backbone"}

__all__ = [*_MODULES]

register_layers(__name__, _LAYERS)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name], __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
