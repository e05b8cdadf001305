"""Loads backbones and centres from TensorFlow 1 checkpoints of the original."""

import collections
import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..variants import STAGES
from .shapes import STRIDE, Shapes, check_shapes, some

if TYPE_CHECKING:
    import keras

    from ..backbone import Backbone

_LEAVES = {"kernel": "W", "bias": "b"}
_CENTRES = ("arc_loss/embedding_weights", "arcface_loss/embedding_weights")
_SLOTS = ("/Momentum", "/Adam", "/Adam_1", "/ExponentialMovingAverage")
_FILE_ENDING = re.compile(r"\.(index|meta|data-\d{5}-of-\d{5})$")


@dataclasses.dataclass(frozen=True)
class Import:
    """The variables that were loaded from a checkpoint, and those that were ignored.

    Attributes:
        backbone: the backbone, float32.
        centres: float32 `(embedding_size, num_identities)`, or `None` if the checkpoint contains none.
        num_mapped: number of variables of the backbone.
        ignored: names of the other variables, by kind: `"optimizer slots"` and `"others"`.
    """

    backbone: "Backbone"
    centres: np.ndarray | None
    num_mapped: int
    ignored: dict[str, list[str]]

    def report(self) -> str:
        """Returns lines to print that list the mapped and ignored variables."""
        net = self.backbone.net
        lines = [
            f"net: {net['architecture']}, images of {tuple(net['image_size'])}, "
            f"embeddings of {net['embedding_size']}",
            f"mapped: {self.num_mapped} variables, none missing",
        ]
        if self.centres is not None:
            lines.append(f"centres: {self.centres.shape[1]} identities")
        lines += [f"ignored {kind}: {len(names)} ({some(names)})" for kind, names in self.ignored.items()]
        return "\n".join(lines)


def tf1_variables(backbone: "keras.Model") -> "dict[str, keras.Variable]":
    """Maps the names of the original's variables to the variables of a backbone, which have the same shapes.

    Such a name is `resnet_v1_50/block1/unit_1/bottleneck_v1/conv1/W_conv2d`. The counter of dropout has no
    counterpart in the original.

    References:
    - margin-centre-face, `nets/L_Resnet_E_IR_fix_issue9.py`: the variable scopes
    """
    variables = {}
    for layer in backbone.layers:
        for variable in layer.variables:
            leaf = _LEAVES.get(variable.name, variable.name)
            if leaf == "draws":
                continue
            if leaf == "W" and len(variable.shape) == 4:
                leaf = "W_conv2d"
            variables[f"{backbone.name}/{layer.name.replace('.', '/')}/{leaf}"] = variable
    return variables


def checkpoint_prefix(path: str | Path) -> Path | None:
    """Finds the prefix of a TensorFlow 1 checkpoint. Returns `None` if there is no such checkpoint.

    Args:
        path: the prefix (`model.ckpt`), one of the checkpoint's files (`model.ckpt.index`), or a folder with
            a file `checkpoint`, which names the newest checkpoint.
    """
    path = Path(path)
    if (path / "checkpoint").is_file():
        text = (path / "checkpoint").read_text(errors="replace")
        named = re.search(r'^model_checkpoint_path: "(.+)"', text, re.MULTILINE)
        path = path / Path(named[1]).name if named else path
    elif _FILE_ENDING.search(path.name):
        path = path.with_name(_FILE_ENDING.sub("", path.name))
    return path if path.with_name(path.name + ".index").is_file() else None


def load_tf1_checkpoint(path: str | Path) -> Import:
    """Loads backbone and centres. The architecture is inferred from the names and shapes of the variables.

    Args:
        path: see `checkpoint_prefix`.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: the checkpoint is damaged, contains another net or lacks variables.
    """
    import tensorflow as tf  # here, because the import takes seconds and `checkpoint_prefix` does not need it

    from ..backbone import Backbone

    prefix = checkpoint_prefix(path)
    if prefix is None:
        raise FileNotFoundError(f"{path}: no TensorFlow 1 checkpoint, because {path}.index does not exist")
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        shapes = {name: tuple(shape) for name, shape in reader.get_variable_to_shape_map().items()}
        backbone = Backbone(**identify_net(shapes))
        variables = tf1_variables(backbone)
        check_shapes(shapes, {name: tuple(variable.shape) for name, variable in variables.items()})
        for name, variable in variables.items():
            variable.assign(reader.get_tensor(name))
        centres = next((reader.get_tensor(name) for name in _CENTRES if name in shapes), None)
    except (tf.errors.OpError, RuntimeError, IndexError) as error:
        raise ValueError(f"{prefix}: the checkpoint is incomplete or damaged: {error}") from None
    except ValueError as error:
        raise ValueError(f"{prefix}: {error}") from None

    ignored = collections.defaultdict(list)
    for name in sorted(shapes.keys() - variables.keys() - set(_CENTRES)):
        ignored["optimizer slots" if name.endswith(_SLOTS) else "others"].append(name)
    return Import(backbone, centres, len(variables), dict(ignored))


def identify_net(shapes: Shapes) -> dict:
    """Infers the arguments of `Backbone` from the names and shapes of a checkpoint's variables.

    Raises:
        ValueError: the shapes are not those of one of the original's nets.
    """
    depths = {int(found[1]) for name in shapes if (found := re.match(r"resnet_v1_(\d+)/", name))}
    if len(depths) != 1 or not depths <= STAGES.keys():
        raise ValueError(
            f"expected variables below one resnet_v1_DEPTH/ with a depth of {tuple(STAGES)}, "
            f"received {some(sorted(shapes)) or 'nothing'}"
        )
    depth = depths.pop()
    scope = f"resnet_v1_{depth}/"
    unit = f"{scope}block1/unit_1/bottleneck_v1/"

    def shape(name):
        if name not in shapes:
            raise ValueError(f"the checkpoint has no variable {name}")
        return shapes[name]

    unit_type = "se_ir" if f"{unit}excitation_1/W" in shapes else "ir"
    expansion = shape(f"{unit}conv2/W_conv2d")[-1] // shape(f"{unit}conv1/W_conv2d")[-1]
    norm = "gn_" if f"{unit}conv1_bn1/scale" in shapes else "wide_" if expansion > 1 else ""
    rows, embedding_size = shape(f"{scope}E_DenseLayer/W")
    channels = shape(f"{scope}E_GN_0/scale" if norm == "gn_" else f"{scope}E_BN1/gamma")
    pixels = rows // max(channels)
    # Faces are upright or square, so a feature map of 42 pixels is 7 x 6, and one of 49 pixels is 7 x 7.
    width = max(w for w in range(1, pixels + 1) if pixels % w == 0 and w * w <= pixels)
    return {
        "architecture": f"{norm}{unit_type}{depth}",
        "image_size": (pixels // width * STRIDE, width * STRIDE),
        "embedding_size": embedding_size,
    }
