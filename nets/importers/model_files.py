"""What files a model is read from, and a digest of them; without reading a weight."""

import hashlib
from pathlib import Path

from .saved_model import is_saved_model
from .tf1_weights import checkpoint_prefix
from .training_checkpoint import MANIFEST_NAME, newest_checkpoint, sha256


def find_model(path):
    """The one model that a path leads to now.

    Where a run still writes its checkpoints the same path leads elsewhere later. So who needs both a
    model and its digest finds it once, and loads and digests what was found.

    Args:
        path: str or Path of anything that `nets.backbone.load_backbone` or
            `eval.embedding.face_model.load_face_model` takes.

    Returns:
        Path: of a SavedModel, the prefix of a TensorFlow 1 checkpoint, a training checkpoint (of a folder
        of them the newest whole one, which is what the loaders take) or a file.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: a folder that holds no model, or only damaged checkpoints.
    """
    path = Path(path)
    if is_saved_model(path):
        return path
    prefix = checkpoint_prefix(path)
    if prefix is not None:
        return prefix
    if path.is_file():
        return path
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such model, nor a TensorFlow 1 checkpoint {path.name}.index")
    newest = newest_checkpoint(path)
    if newest is None:
        raise ValueError(
            f"{path}: expected a SavedModel, a training checkpoint or a folder of them, "
            "received a folder without"
        )
    return newest[0]


def model_sha256(path):
    """SHA-256 of a model's content, whatever its path: equal digests, equal embeddings.

    A `.keras` or PyTorch file has the one that `sha256sum` prints, and so has an ONNX file that holds
    its tensors itself. A training checkpoint has that of its manifest, which holds the SHA-256 of all its
    other files; the loaders compare them. All else is several files: it is that of lines of their names
    and SHA-256.

    Args:
        path: as `find_model`.

    Returns:
        str, hexadecimal.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: a folder that holds no model, only damaged checkpoints, or an ONNX file that is none.
    """
    path = find_model(path)
    if is_saved_model(path):
        files = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()}
    elif path.is_dir():
        return sha256(path / MANIFEST_NAME)
    elif checkpoint_prefix(path):
        # Without the .meta, which is the graph that once trained it.
        beside = path.parent.iterdir()
        starts = (f"{path.name}.index", f"{path.name}.data-")
        files = {file.name.removeprefix(path.name): file for file in beside if file.name.startswith(starts)}
    else:
        outside = _files_of_onnx(path) if path.suffix == ".onnx" else {}
        if not outside:
            return sha256(path)
        files = {"": path, **outside}
    lines = [f"{name}\0{sha256(file)}\n" for name, file in sorted(files.items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _files_of_onnx(path):
    """An ONNX file of more than 2 GB, and by choice a smaller one, keeps its tensors in other files."""
    import onnx  # needed by those who have such files, and by nothing else
    from google.protobuf.message import DecodeError

    try:
        tensors = onnx.load(str(path), load_external_data=False).graph.initializer
    except DecodeError as error:
        raise ValueError(f"{path}: expected an ONNX file, received: {error}") from None
    outside = [tensor for tensor in tensors if tensor.data_location == onnx.TensorProto.EXTERNAL]
    names = {entry.value for tensor in outside for entry in tensor.external_data if entry.key == "location"}
    return {name: path.parent / name for name in names}
