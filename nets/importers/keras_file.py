"""Nets as `.keras` files."""

from pathlib import Path

import keras

from ..backbone import Backbone


def save_keras_file(backbone, path):
    """Writes a `.keras` file: whole or not at all.

    Args:
        backbone: `Backbone`.
        path: str or Path that ends in `.keras`.

    Raises:
        ValueError: another ending.
    """
    path = Path(path)
    if path.suffix != ".keras":
        raise ValueError(f"{path}: expected a name that ends in .keras")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.tmp.keras")
    try:
        backbone.save(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load_keras_file(path):
    """Loads a `.keras` file in Keras's safe mode.

    Returns:
        `Backbone`.

    Raises:
        ValueError: not a Keras file, one that would run code, or one of another model.
    """
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except (TypeError, KeyError, OSError) as error:
        raise ValueError(f"{path}: expected a Keras file of a net: {error}") from None
    if not isinstance(model, Backbone):
        raise ValueError(f"{path}: expected a Backbone, received a {type(model).__name__}")
    return model
