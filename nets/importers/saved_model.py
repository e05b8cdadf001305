"""The net inside of an exported SavedModel, to train it further.

Nothing of the SavedModel's program is run: beside it lies a `net.json` with the arguments of the
`Backbone`, and its variables are read as numbers, in the order of `Backbone.variables`.
"""

import json
from pathlib import Path

NET_NAME = "net.json"
VARIABLES = "variables_of_net"  # the attribute of the exported module that holds them


def is_saved_model(path):
    """Whether a folder is a SavedModel."""
    return (Path(path) / "saved_model.pb").is_file()


def load_backbone_of_saved_model(path):
    """Builds the net of an exported SavedModel and loads its weights.

    Args:
        path: str or Path of the folder.

    Returns:
        `Backbone`, float32.

    Raises:
        ValueError: not a SavedModel of `export.saved_model`, or a damaged one.
    """
    # TensorFlow only here: what a folder is can be told without.
    import tensorflow as tf

    from ..backbone import Backbone

    path = Path(path)
    if not (path / NET_NAME).is_file():
        raise ValueError(
            f"{path}: expected a SavedModel with a {NET_NAME}, as export.saved_model writes it, received none"
        )
    try:
        backbone = Backbone(**json.loads((path / NET_NAME).read_text()))
        reader = tf.train.load_checkpoint(str(path / "variables" / "variables"))
        for number, variable in enumerate(backbone.variables):
            variable.assign(reader.get_tensor(f"{VARIABLES}/{number}/.ATTRIBUTES/VARIABLE_VALUE"))
    except (tf.errors.OpError, RuntimeError, IndexError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: expected the weights of the net in {NET_NAME}: {error}") from None
    return backbone
