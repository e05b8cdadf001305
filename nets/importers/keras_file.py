"""Saves and loads backbones as `.keras` files."""

import json
import os
import tempfile
from pathlib import Path

import h5py

from ..backbone import Backbone
from .net_arguments import check_net
from .plain_zip import PlainZip
from .restricted_pickle import brief

_CONFIG, _WEIGHTS = "config.json", "model.weights.h5"
_LARGEST_CONFIG = 1 << 20  # bytes; a backbone needs about 500
_REGISTERED_NAME = "margin_centre_face>Backbone"


def save_keras_file(backbone: Backbone, path: str | Path) -> None:
    """Writes a backbone to a `.keras` file. After a crash the file is either complete or absent.

    Raises:
        ValueError: the path does not end in `.keras`.
    """
    path = Path(path)
    if path.suffix != ".keras":
        raise ValueError(f"{path}: expected a name that ends in .keras")
    path = Path(os.path.realpath(path))  # so that a link stays a link
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", suffix=".tmp", dir=path.parent) as folder:
        temporary = Path(folder, "model.keras")  # Keras needs this ending
        backbone.save(temporary)
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)


def load_keras_file(path: Path) -> Backbone:
    """Loads a backbone from a `.keras` file.

    It runs no code from the file, because it does not use Keras's reader of configurations.

    Raises:
        ValueError: the file is damaged, is not a Keras file, or contains another model.
    """
    try:
        with PlainZip(path) as file, tempfile.TemporaryDirectory() as folder:
            net = _read_net(file)
            check_net(net, path.stat().st_size)
            weights = Path(folder, _WEIGHTS)
            weights.write_bytes(file.entry(_WEIGHTS))
            _check_weights(weights)
            backbone = Backbone(**net)
            backbone.load_weights(weights)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, OSError, RuntimeError) as error:
        raise ValueError(f"{path}: not a Keras file of a backbone: {_first_line(error)}") from None
    return backbone


def _read_net(file):
    """Returns the arguments of the `Backbone` in a file."""
    size = next((entry.file_size for entry in file.infolist() if entry.filename == _CONFIG), 0)
    if not 0 < size <= _LARGEST_CONFIG:
        raise ValueError(f"expected a {_CONFIG} of at most {_LARGEST_CONFIG} bytes, received {size}")
    model = json.loads(file.entry(_CONFIG))
    if not isinstance(model, dict) or model.get("registered_name") != _REGISTERED_NAME:
        received = model.get("class_name") if isinstance(model, dict) else model
        raise ValueError(f"expected a Backbone, received {brief(received)}")
    net = model["config"]
    # Keras writes a dtype policy as a dict if it was given as an object.
    if isinstance(net, dict) and isinstance(net.get("dtype"), dict):
        net["dtype"] = net["dtype"]["config"]["name"]
    return net


def _check_weights(path):
    """Raises a `ValueError` if the arrays take more memory than the file, which HDF5 could expand."""
    num_bytes = 0

    def add(name, item):
        nonlocal num_bytes
        num_bytes += item.nbytes if isinstance(item, h5py.Dataset) else 0

    with h5py.File(path) as file:
        file.visititems(add)
    if num_bytes > path.stat().st_size:
        raise ValueError(f"expected at most {path.stat().st_size} bytes of weights, received {num_bytes}")


def _first_line(error):
    return str(error).strip().partition("\n")[0][:300]


def _sync(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
