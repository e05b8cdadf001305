"""A net from whatever holds its weights."""

from pathlib import Path

from .insightface_weights import SUFFIXES, load_insightface
from .keras_file import load_keras_file
from .saved_model import is_saved_model, load_backbone_of_saved_model
from .tf1_weights import checkpoint_prefix, load_tf1_checkpoint
from .training_checkpoint import checkpoint_folders, load_backbone_of_checkpoint


def load_backbone(path):
    """Loads a net with its weights.

    Nothing that the file holds is run, whatever it is.

    Args:
        path: str or Path of one of these:
            a SavedModel of `export.saved_model`;
            a `.keras` file;
            a training checkpoint, or a folder of them (the newest is taken);
            a TensorFlow 1 checkpoint of the original (its prefix, or one of its files);
            an iresnet of InsightFace (`.pth`, `.pt` or `.onnx`).

    Returns:
        `nets.backbone.Backbone`, with the dtype that it was saved with.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: none of these, or a damaged one.
    """
    path = Path(path)
    if checkpoint_prefix(path):
        return load_tf1_checkpoint(path).backbone
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such model, nor a TensorFlow 1 checkpoint {path.name}.index")
    if is_saved_model(path):
        return load_backbone_of_saved_model(path)
    if path.is_dir() and checkpoint_folders(path):
        return load_backbone_of_checkpoint(path)
    if path.suffix == ".keras":
        return load_keras_file(path)
    if path.suffix in SUFFIXES:
        return load_insightface(path)
    raise ValueError(
        f"{path}: expected a SavedModel (a folder with saved_model.pb), a .keras file, a training "
        "checkpoint (a folder step_...), a TensorFlow 1 checkpoint (a prefix with an .index beside it), "
        f"or an iresnet of InsightFace ({', '.join(SUFFIXES)})"
    )
