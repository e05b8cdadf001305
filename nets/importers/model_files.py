"""Finds, hashes and describes the files of a model without loading its weights."""

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

from .net_arguments import read_small_json
from .restricted_pickle import brief
from .saved_model import CARD_NAME, NET_NAME, is_saved_model
from .shapes import some
from .tf1_weights import checkpoint_prefix
from .training_checkpoint import MANIFEST_NAME, newest_checkpoint, read_manifest, sha256


def import_onnx(path: str | Path) -> ModuleType:
    """Imports the optional package `onnx`.

    Args:
        path: ONNX file that needs the package, for the error message.

    Raises:
        ModuleNotFoundError: the package is not installed. The message says how to install it.
    """
    try:
        import onnx
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f"{path}: cannot read ONNX files. Run: pip install onnx") from None
    return onnx


def input_format_path(path: Path) -> Path:
    """Returns the path of the file that describes a model's input: `NAME.onnx.input.json` for `NAME.onnx`."""
    return path.with_name(f"{path.name}.input.json")


def runs_as_it_is(path: Path) -> bool:
    """Returns whether ONNX Runtime can run an ONNX file without knowing more about its input.

    It can if the model takes uint8 pixels, or if a file describes its input. From any other ONNX file, only
    the weights can be read.

    Raises:
        ValueError: see `read_onnx`.
    """
    if input_format_path(path).is_file():
        return True
    model = read_onnx(path)[0]
    types = [entry.type.tensor_type.elem_type for entry in model.graph.input]
    return types == [import_onnx(path).TensorProto.UINT8]


def find_model(path: str | Path) -> Path:
    """Finds the model that a path refers to at this moment.

    During training, a folder of checkpoints refers to a newer one later. If you need a model and its digest,
    call this function once, then load and hash the result.

    Args:
        path: any path that `nets.load_backbone` takes.

    Returns:
        The path of a SavedModel, a training checkpoint or a file, or the prefix of a TensorFlow 1 checkpoint.
        For a folder of checkpoints it is the newest one that can be read, which the loaders load, too.

    Raises:
        FileNotFoundError: the path does not exist.
        ValueError: the folder contains no model, or only damaged checkpoints.
    """
    path = Path(path)
    if is_saved_model(path):
        return path
    if prefix := checkpoint_prefix(path):
        return prefix
    if path.is_file():
        return path
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such model, and no TensorFlow 1 checkpoint {path.name}.index")
    newest = newest_checkpoint(path)
    if newest is None:
        raise ValueError(f"{path}: expected a SavedModel, a training checkpoint or a folder of them")
    return newest[0]


@dataclass(frozen=True)
class ModelDescription:
    """Facts about a model, to show to a user.

    Attributes:
        name: net and step of a training checkpoint, or the name of any other file or SavedModel.
        net: name of the architecture, or `None` if the files do not say it.
        steps: number of training steps, or `None` if neither the files nor the name say it.
        date: day on which the files were written, in UTC, such as `2026-11-27`.
    """

    name: str
    net: str | None
    steps: int | None
    date: str

    def __post_init__(self):
        datetime.fromisoformat(self.date)


def describe_model(path: Path) -> ModelDescription:
    """Describes a model.

    Args:
        path: what `find_model` returned.

    Raises:
        ValueError: a file that describes the model is damaged.
    """
    main, name, net = path, path.name, None
    named = re.match(r"iter_(\d+)", name)
    steps = int(named[1]) if named else None
    if is_saved_model(path):
        main = path / "saved_model.pb"
        if (path / NET_NAME).is_file():
            net = _read_value(path / NET_NAME, "architecture", str)
        if (path / CARD_NAME).is_file():
            step = _read_value(path / CARD_NAME, "step", int | None)
            steps = steps if step is None else step
    elif path.is_dir():
        main, manifest = path / MANIFEST_NAME, read_manifest(path)
        net, steps = manifest["net"]["architecture"], manifest["step"]
        name = f"{net}, step {steps}"
    elif not path.is_file():
        main = path.with_name(f"{name}.index")
    return ModelDescription(name, net, steps, f"{datetime.fromtimestamp(main.stat().st_mtime, UTC):%Y-%m-%d}")


def model_sha256(path: str | Path) -> str:
    """Returns the SHA-256 of a model's content, in hexadecimal. Equal digests mean equal embeddings.

    The digest of a single file is the one that `sha256sum` prints. That of a training checkpoint is the
    digest of its manifest, which contains the SHA-256 of the other files. For models of several files it is
    the digest of a list of their names and SHA-256. The model card is left out, because new scores or
    thresholds do not change the model.

    Args:
        path: any path that `nets.load_backbone` takes.

    Raises:
        FileNotFoundError: the path does not exist.
        ValueError: the folder contains no model or only damaged checkpoints, or an ONNX file is damaged.
    """
    path = find_model(path)
    if is_saved_model(path):
        # Leaves out the card, and temporary files of it that a killed process left.
        files = {
            file.relative_to(path).as_posix(): file
            for file in path.rglob("*")
            if file.is_file() and not file.name.startswith(CARD_NAME)
        }
    elif path.is_dir():
        return sha256(path / MANIFEST_NAME)
    elif checkpoint_prefix(path):
        # Leaves out the .meta file, which is the training graph.
        siblings = path.parent.iterdir()
        starts = (f"{path.name}.index", f"{path.name}.data-")
        files = {file.name.removeprefix(path.name): file for file in siblings if file.name.startswith(starts)}
    else:
        files = {"": path, **_companion_files(path)}
    if input_format_path(path).is_file():
        files["input format"] = input_format_path(path)
    if list(files) == [""]:
        return sha256(path)
    lines = [f"{name}\0{sha256(file)}\n" for name, file in sorted(files.items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _companion_files(path):
    """Returns the other files that belong to a model file, by name."""
    outside = {}
    if path.suffix == ".onnx":
        outside = read_onnx(path)[1]
    elif path.suffix == ".xml":
        weights = path.with_suffix(".bin")
        if not weights.is_file():
            raise FileNotFoundError(f"{weights}: no such file, but {path.name} keeps its weights in it")
        outside = {".bin": weights}
    return outside


def _read_value(path, key, kind):
    content = read_small_json(path)
    if not isinstance(content, dict) or not isinstance(content.get(key), kind):
        raise ValueError(f"{path}: expected a JSON object with {key}, received {brief(content)}")
    return content.get(key)


def read_onnx(path: Path) -> tuple[Any, dict[str, Path]]:
    """Reads the graph of an ONNX file, and finds the other files that contain its tensors.

    Models of more than 2 GB have such files. They must be in the folder of the ONNX file or below it.

    Returns:
        `(model, files)`: the `ModelProto`, without the tensors in other files; and the paths of these files,
        by their names in the model.

    Raises:
        FileNotFoundError: one of the files does not exist.
        ModuleNotFoundError: the package `onnx` is not installed.
        ValueError: the file is damaged, or names files outside of its folder or the same bytes many times.
    """
    onnx = import_onnx(path)
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(str(path), load_external_data=False)
    except (DecodeError, RuntimeError, ValueError) as error:
        raise ValueError(f"{path}: expected an ONNX file, received: {brief(str(error))}") from None
    tensors = [*model.graph.initializer, *(item.t for node in model.graph.node for item in node.attribute)]
    outside = [tensor for tensor in tensors if tensor.data_location == onnx.TensorProto.EXTERNAL]
    files, num_bytes = {}, 0
    for tensor in outside:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        name = entries.get("location", "")
        files[name] = _file_below(path, name)
        size = files[name].stat().st_size
        try:
            num_bytes += int(entries.get("length", size - int(entries.get("offset", 0))))
        except ValueError:
            raise ValueError(f"{path}: expected numbers as offset and length in {brief(name)}") from None
    most = sum(file.stat().st_size for file in files.values())
    if num_bytes > most:
        raise ValueError(
            f"{path}: expected tensors of at most {most} bytes in {some(list(files))}, received {num_bytes}"
        )
    return model, files


def _file_below(path, name):
    """Returns the path of the file that an ONNX file calls `name`.

    Raises a `ValueError` for files elsewhere, and for pipes and devices, from which reading might never end.
    """
    is_inside = name and not Path(name).is_absolute() and ".." not in Path(name).parts and "\0" not in name
    file = path.parent / name
    if not is_inside or not file.resolve().is_relative_to(path.parent.resolve()):
        raise ValueError(f"{path}: expected tensors in files of its own folder, received {brief(name)}")
    if not file.exists():
        raise FileNotFoundError(f"{file}: no such file, but {path.name} keeps tensors in it")
    if not file.is_file():
        raise ValueError(f"{path}: expected tensors in an ordinary file, received {brief(name)}")
    return file
