"""Finds the files of a model, hashes and describes them, without reading a weight."""

import hashlib
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

from .saved_model import NET_NAME, is_saved_model
from .tf1_weights import checkpoint_prefix
from .training_checkpoint import MANIFEST_NAME, newest_checkpoint, read_manifest, sha256


def import_onnx(path: str | Path) -> ModuleType:
    """Imports the optional package `onnx`, or raises an error that says how to install it."""
    try:
        import onnx
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f"{path}: cannot read ONNX files. Run: pip install onnx") from None
    return onnx


def input_format_path(path: Path) -> Path:
    """Returns the path of the file that describes the input of an ONNX file of another project."""
    return path.with_name(f"{path.name}.input.json")


def find_model(path: str | Path) -> Path:
    """Finds the one model that a path stands for at this moment.

    During training the same path stands for a newer checkpoint later. Callers that need a model and its
    digest find it once, then load and hash the result.

    Args:
        path: any path that `nets.load_backbone` takes.

    Returns:
        A SavedModel, the prefix of a TensorFlow 1 checkpoint, a training checkpoint (the newest readable
        one of a folder, like the loaders) or a file.

    Raises:
        FileNotFoundError: the path does not exist.
        ValueError: the folder holds no model, or only damaged checkpoints.
    """
    path = Path(path)
    if is_saved_model(path):
        return path
    if prefix := checkpoint_prefix(path):
        return prefix
    if path.is_file():
        return path
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such model, nor a TensorFlow 1 checkpoint {path.name}.index")
    newest = newest_checkpoint(path)
    if newest is None:
        raise ValueError(f"{path}: expected a SavedModel, a training checkpoint or a folder of them")
    return newest[0]


@dataclass(frozen=True)
class ModelDescription:
    """A model in words.

    Attributes:
        name: the model's own name, not that of a folder of checkpoints.
        net: name of the architecture, if the files tell it.
        steps: number of training steps, if the files or the name tell it.
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

    Returns:
        A training checkpoint is called by its net and step, any other model by its file or SavedModel.

    Raises:
        ValueError: the file that names the net is damaged.
    """
    main, name, net = path, path.name, None
    named = re.match(r"iter_(\d+)", name)
    steps = int(named[1]) if named else None
    if is_saved_model(path):
        main = path / "saved_model.pb"
        if (path / NET_NAME).is_file():
            net = _architecture(path / NET_NAME)
    elif path.is_dir():
        main, manifest = path / MANIFEST_NAME, read_manifest(path)
        net, steps = manifest["net"]["architecture"], manifest["step"]
        name = f"{net}, step {steps}"
    elif not path.is_file():
        main = path.with_name(f"{name}.index")
    return ModelDescription(name, net, steps, f"{datetime.fromtimestamp(main.stat().st_mtime, UTC):%Y-%m-%d}")


def model_sha256(path: str | Path) -> str:
    """Returns the SHA-256 of a model's content. Models with equal digests give equal embeddings.

    The digest of a single file is the one that `sha256sum` prints. That of a training checkpoint is the
    digest of its manifest, which holds the SHA-256 of the other files. For models of several files
    it is that of lines with the names and SHA-256 of the files.

    Raises:
        FileNotFoundError: the path does not exist.
        ValueError: the folder holds no model or only damaged checkpoints, or an ONNX file is damaged.
    """
    path = find_model(path)
    if is_saved_model(path):
        files = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()}
    elif path.is_dir():
        return sha256(path / MANIFEST_NAME)
    elif checkpoint_prefix(path):
        # Not the .meta file: it is the graph of the training.
        beside = path.parent.iterdir()
        starts = (f"{path.name}.index", f"{path.name}.data-")
        files = {file.name.removeprefix(path.name): file for file in beside if file.name.startswith(starts)}
    else:
        outside = _files_of_onnx(path) if path.suffix == ".onnx" else {}
        if path.suffix == ".onnx" and input_format_path(path).is_file():
            outside["input format"] = input_format_path(path)
        if not outside:
            return sha256(path)
        files = {"": path, **outside}
    lines = [f"{name}\0{sha256(file)}\n" for name, file in sorted(files.items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _architecture(path):
    try:
        return str(json.loads(path.read_text())["architecture"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: expected the architecture of a net, received {error!r}") from None


def _files_of_onnx(path):
    """Lists the files in which an ONNX file keeps tensors; those of more than 2 GB have to."""
    onnx = import_onnx(path)
    from google.protobuf.message import DecodeError

    try:
        tensors = onnx.load(str(path), load_external_data=False).graph.initializer
    except DecodeError as error:
        raise ValueError(f"{path}: expected an ONNX file, received: {error}") from None
    outside = [tensor for tensor in tensors if tensor.data_location == onnx.TensorProto.EXTERNAL]
    names = {entry.value for tensor in outside for entry in tensor.external_data if entry.key == "location"}
    return {name: path.parent / name for name in names}
