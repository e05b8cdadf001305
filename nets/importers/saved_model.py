"""Loads the backbone of an exported SavedModel, for example to train it further.

It runs no code from the SavedModel. `net.json` contains the arguments of the `Backbone`, and the variables
are read as numbers, in the order of `Backbone.variables`.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from .net_arguments import check_net, read_small_json

if TYPE_CHECKING:
    from ..backbone import Backbone

NET_NAME = "net.json"
CARD_NAME = "model_card.json"  # the training program's description of the model
VARIABLES = "variables_of_net"  # attribute of the exported module that contains the variables


def is_saved_model(path: str | Path) -> bool:
    """Returns whether a folder is a SavedModel."""
    return (Path(path) / "saved_model.pb").is_file()


def load_backbone_of_saved_model(path: str | Path) -> "Backbone":
    """Builds the backbone of an exported SavedModel, in float32, and loads its weights.

    Raises:
        ValueError: the folder is damaged, or is not a SavedModel of `export.saved_model`.
    """
    import tensorflow as tf  # here, because the import takes seconds and `is_saved_model` does not need it

    from ..backbone import Backbone

    path = Path(path)
    if not (path / NET_NAME).is_file():
        raise ValueError(f"{path}: expected a SavedModel of export.saved_model, but it has no {NET_NAME}")
    try:
        net = read_small_json(path / NET_NAME)
        check_net(net, sum(file.stat().st_size for file in (path / "variables").glob("variables.*")))
        backbone = Backbone(**net)
        reader = tf.train.load_checkpoint(str(path / "variables" / "variables"))
        for number, variable in enumerate(backbone.variables):
            variable.assign(reader.get_tensor(f"{VARIABLES}/{number}/.ATTRIBUTES/VARIABLE_VALUE"))
    except (tf.errors.OpError, RuntimeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: expected the weights of the net in {NET_NAME}: {error}") from None
    return backbone
