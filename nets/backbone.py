"""Backbones by name: build one with initial weights, or load one from any file."""

import importlib
from pathlib import Path
from typing import Any

import keras

from .variants import find_variant


@keras.saving.register_keras_serializable(package="margin_centre_face")
class Backbone(keras.Model):
    """A net from normalised faces to embeddings, which knows how it was built.

    Its configuration is its name and few numbers, so that whatever holds its weights (a Keras
    file, a training checkpoint, a SavedModel) can say in a line which net they are of.

    | name | what |
    |---|---|
    | `ir50`, `se_ir50`; 32, 50, 100, 152 | the original's LResNet-E-IR, `nets.resnet_ir` |
    | `wide_ir50`, `wide_se_ir50`; 50, 101, 152 | its models B and C: units put out 4 times their filters |
    | `gn_ir50` and so on | its model A: wide, with group normalisation |
    | `renorm_ir50` and so on | wide, with batch renormalisation |
    | `iresnet50`; 18, 34, 50, 100, 200 | InsightFace's own, `nets.iresnet` |
    | `vgg16`, `vgg19`, `resnet50`, `resnet101`, `resnet152` | ImageNet's, `nets.imagenet_net` |

    Args:
        architecture: str, a name of `nets.variants.VARIANTS`.
        image_size: `(height, width)`. Defaults to `(112, 112)`.
        embedding_size: int > 0. Defaults to `512`.
        keep_prob: float in `(0, 1]`, what dropout keeps. Defaults to that of the architecture.
        seed: int, of the initial weights and of dropout. Defaults to `0`.
        dtype: dtype policy of the layers, e.g. `"mixed_bfloat16"`. Defaults to `"float32"`.
        **options: further arguments of the builder, such as `random_final_gamma`.

    Call arguments:
        images: float32 `(batch, *image_size, 3)`, BGR, `(pixel - 127.5) / 128`.
        training: bool.

    Returns:
        float32 `(batch, embedding_size)`, not normalised.

    Raises:
        ValueError: an unknown name, or an argument that the net does not take.

    Example:

    >>> Backbone("ir32", image_size=(112, 96)).output_shape
    (None, 512)
    """

    def __init__(
        self,
        architecture,
        image_size=(112, 112),
        embedding_size=512,
        keep_prob=None,
        seed=0,
        dtype="float32",
        **options,
    ):
        variant = find_variant(architecture)
        build = getattr(importlib.import_module(f".{variant.builder}", __package__), variant.builder)
        self_arguments = {
            "image_size": tuple(image_size),
            "embedding_size": embedding_size,
            "keep_prob": variant.keep_prob if keep_prob is None else keep_prob,
            "seed": seed,
            "dtype": dtype,
            **options,
        }
        try:
            graph = build(**variant.arguments, **self_arguments)
        except TypeError as error:
            raise ValueError(f"{architecture}: {error}") from None
        super().__init__(graph.input, graph.output, name=graph.name)
        self.architecture = architecture
        self._arguments = self_arguments

    @property
    def net(self):
        """dict: `architecture` and the other arguments, without the dtype; as JSON reads it back."""
        config = self.get_config()
        return {name: config[name] for name in config if name != "dtype"}

    def get_config(self):
        """Arguments of the constructor."""
        arguments = dict(self._arguments)
        return {"architecture": self.architecture, **arguments, "image_size": list(arguments["image_size"])}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """A net of the same configuration, with initial weights."""
        return cls(**config)


def build_backbone(name: str, **arguments: Any) -> Backbone:
    """Builds a backbone by its name, with the keyword arguments of `Backbone`."""
    return Backbone(name, **arguments)


def load_backbone(path: str | Path) -> Backbone:
    """Loads a backbone with its weights. Runs no code from the file.

    Args:
        path: one of these:
            a SavedModel written by `export.saved_model`;
            a `.keras` file;
            a training checkpoint, or a folder of them (the newest is taken);
            a TensorFlow 1 checkpoint of the original (its prefix, or one of its files);
            an iresnet of InsightFace (`.pth`, `.pt` or `.onnx`).

    Returns:
        The backbone, with the dtype policy that it was saved with.

    Raises:
        FileNotFoundError: the path does not exist.
        ValueError: the file is damaged or has another format.
    """
    # The importers import this module.
    from .importers.insightface_weights import SUFFIXES, load_insightface
    from .importers.keras_file import load_keras_file
    from .importers.saved_model import is_saved_model, load_backbone_of_saved_model
    from .importers.tf1_weights import checkpoint_prefix, load_tf1_checkpoint
    from .importers.training_checkpoint import checkpoint_folders, load_backbone_of_checkpoint

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
