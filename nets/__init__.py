"""Backbones: networks that turn images of faces into embeddings.

The names below are imported on first use, so `import nets` loads neither TensorFlow nor Keras.
`keras.saving.load_model` finds the classes after `import nets`.
"""

from typing import TYPE_CHECKING

from .lazy_exports import export_lazily

if TYPE_CHECKING:
    from .backbone import Backbone, build_backbone, load_backbone
    from .layers.batch_norm import BatchNorm
    from .layers.batch_renorm import BatchRenorm
    from .layers.dropout import Dropout
    from .layers.group_norm import GroupNorm
    from .layers.prelu import PReLU

__all__ = [
    "Backbone",
    "BatchNorm",
    "BatchRenorm",
    "Dropout",
    "GroupNorm",
    "PReLU",
    "build_backbone",
    "load_backbone",
]

__getattr__ = export_lazily(
    __name__,
    {
        "Backbone": ".backbone",
        "BatchNorm": ".layers.batch_norm",
        "BatchRenorm": ".layers.batch_renorm",
        "Dropout": ".layers.dropout",
        "GroupNorm": ".layers.group_norm",
        "PReLU": ".layers.prelu",
        "build_backbone": ".backbone",
        "load_backbone": ".backbone",
    },
)
