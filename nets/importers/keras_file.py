"""Backbones as `.keras` files."""

import os
import tempfile
from pathlib import Path

import keras

from ..backbone import Backbone


def save_keras_file(backbone: Backbone, path: str | Path) -> None:
    """Writes a file that ends in `.keras` (else `ValueError`). It is complete or absent after a crash."""
    path = Path(path)
    if path.suffix != ".keras":
        raise ValueError(f"{path}: expected a name that ends in .keras")
    path = Path(os.path.realpath(path))  # A link stays.
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", suffix=".tmp", dir=path.parent) as folder:
        temporary = Path(folder, "model.keras")  # Keras insists on the ending.
        backbone.save(temporary)
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)


def load_keras_file(path: Path) -> Backbone:
    """Loads a `.keras` file in Keras's safe mode, which refuses code.

    Raises:
        ValueError: the file is not a Keras file, would run code, or holds another model.
    """
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except (TypeError, KeyError, OSError) as error:
        raise ValueError(f"{path}: expected a Keras file of a backbone: {error}") from None
    if not isinstance(model, Backbone):
        raise ValueError(f"{path}: expected a Backbone, received a {type(model).__name__}")
    return model


def _sync(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
