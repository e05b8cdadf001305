"""Builds a backbone by its name, or loads one from a file."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import keras

from .layers.batch_norm import BatchNorm, move_statistics_together
from .layers.grouped_conv import GroupedConv
from .layers.prelu import PReLU
from .variants import find_variant

CONVS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, GroupedConv)
# Prefixes of a transformer's dense layers. All of their kernels decay.
_TRANSFORMER = ("blocks.", "feature.")
# The dense layer before the embedding in the original, in InsightFace's iresnets and in MobileFaceNets.
_DENSE_NAMES = ("E_DenseLayer", "fc", "features.layers.2")


@keras.saving.register_keras_serializable(package="margin_centre_face")
class Backbone(keras.Model):
    """A Keras model that turns faces into embeddings and remembers the arguments it was built with.

    Files and checkpoints store these arguments in one line of JSON. These are the architectures:

    - `ir50`, `se_ir50`, with depths 32, 50, 100, 152: the original's LResNet-E-IR, `nets.resnet_ir`
    - `wide_ir50`, `wide_se_ir50`, with depths 50, 101, 152: its models B and C, with units of 4 times the
      output channels
    - `gn_ir50`, `gn_se_ir50`, with the same depths: its model A, wide with group normalisation
    - `renorm_ir50`, `renorm_se_ir50`, with the same depths: wide with batch renormalisation
    - `iresnet50`, with depths 18, 34, 50, 100, 200: InsightFace's residual net, `nets.iresnet`
    - `mobilefacenet`, `mbf`, `mbf_large`: `nets.mobilefacenet`
    - `ghostfacenet_1.3_2`, with widths 0.5, 1, 1.3 and strides 1, 2: `nets.ghostfacenet`
    - `vit_t`, `vit_s`, `vit_b`: vision transformers, `nets.vit`
    - `vgg16`, `vgg19`, `resnet50`, `resnet101`, `resnet152`: ImageNet's nets, `nets.imagenet_net`

    Args:
        architecture: a name of `nets.variants.VARIANTS`.
        image_size: `(height, width)` in pixels.
        embedding_size: greater than 0. Defaults to that of the architecture.
        keep_prob: share of the values that dropout keeps, in `(0, 1]`. Defaults to that of the architecture.
        seed: decides the initial weights and the dropout masks, together with the names of the layers.
        dtype: dtype policy of the layers, such as `"mixed_bfloat16"`.
        **options: further arguments of the architecture's function, such as `random_final_gamma`.

    Call arguments:
        images: float32 `(batch, *image_size, 3)`, BGR, `(pixel - 127.5) / 128`.
        training: whether to use dropout and the statistics of the batch. Defaults to `False`.

    Returns:
        float32 `(batch, embedding_size)`. Embeddings are not normalised.

    Raises:
        ValueError: the architecture is unknown, does not take an argument, or needs a larger image.

    Example:

    >>> import numpy as np
    >>> from nets import Backbone
    >>> backbone = Backbone("mobilefacenet", image_size=(48, 48))
    >>> backbone(np.zeros((2, 48, 48, 3), "float32")).shape
    TensorShape([2, 128])
    """

    def __init__(
        self,
        architecture: str,
        image_size: Sequence[int] = (112, 112),
        embedding_size: int | None = None,
        keep_prob: float | None = None,
        seed: int = 0,
        dtype: Any = "float32",
        **options: Any,
    ) -> None:
        variant = find_variant(architecture)
        build = getattr(importlib.import_module(f".{variant.builder}", __package__), variant.builder)
        self_arguments = {
            "image_size": tuple(image_size),
            "embedding_size": variant.embedding_size if embedding_size is None else embedding_size,
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

    def call(self, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        """Computes the embeddings. Keras calls it."""
        with move_statistics_together():
            return super().call(inputs, training=training, mask=mask)

    @property
    def net(self) -> dict[str, Any]:
        """The arguments of the constructor without the dtype, in the types that JSON has."""
        return {name: value for name, value in self.get_config().items() if name != "dtype"}

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        image_size = list(self._arguments["image_size"])
        return {"architecture": self.architecture, **self._arguments, "image_size": image_size}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict | None = None) -> Self:
        """Builds a backbone with the same arguments and initial weights."""
        return cls(**config)


def build_backbone(name: str, **arguments: Any) -> Backbone:
    """Builds a backbone by its name, with initial weights.

    Args:
        name: architecture of the backbone, such as `"ir50"`; see `Backbone`.
        **arguments: other arguments of `Backbone`.

    Raises:
        ValueError: see `Backbone`.

    Example:

    >>> from nets import build_backbone
    >>> build_backbone("mobilefacenet", image_size=(48, 48), embedding_size=64).output_shape
    (None, 64)
    """
    return Backbone(name, **arguments)


def load_backbone(path: str | Path) -> Backbone:
    """Loads a backbone with its weights, without running any code from the file.

    It can load

    - a SavedModel written by `export.saved_model`
    - a `.keras` file
    - a training checkpoint, or the newest one in a folder of checkpoints
    - a TensorFlow 1 checkpoint of the original, by its prefix or one of its files
    - an iresnet or MobileFaceNet of InsightFace (`.pth`, `.pt`, `.onnx`), or its transformer (`.pth`, `.pt`)
    - another MobileFaceNet (`.onnx`). If it takes other pixels than InsightFace's, describe them in
      `NAME.onnx.input.json`.

    Args:
        path: path of the file or folder.

    Returns:
        The backbone. One from a `.keras` file keeps its dtype policy. All others are float32.

    Raises:
        FileNotFoundError: the path does not exist.
        ModuleNotFoundError: the path is an ONNX file, and the package `onnx` is not installed.
        ValueError: the file is damaged, or has another format.
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
        raise FileNotFoundError(f"{path}: no such model, and no TensorFlow 1 checkpoint {path.name}.index")
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
        "checkpoint (a folder step_...), a TensorFlow 1 checkpoint (a prefix with an .index file), "
        f"or a net of InsightFace or another MobileFaceNet ({', '.join(SUFFIXES)})"
    )


def decayed_variables(backbone: keras.Model, dense: bool = True) -> list[keras.Variable]:
    """Lists the variables to which weight decay applies, as in the original.

    These are the kernels of convs, the dense kernel before the embedding, trainable gammas and the slopes of
    PReLUs. In transformers, the kernels of all dense layers decay. Biases, betas, the dense layers of
    squeeze-and-excitation and the scales of group normalisation do not decay.

    References:
    - margin-centre-face, `train_centre.py`: filters by the variables' names

    Args:
        backbone: a `Backbone`, or a model that one of the builders made.
        dense: whether the dense kernel before the embedding decays. The original's filter found it at depth
            50 only (row 5 of docs/fidelity.md).
    """
    variables = []
    for layer in backbone.layers:
        if (
            isinstance(layer, CONVS)
            or (dense and layer.name in _DENSE_NAMES)
            or (isinstance(layer, keras.layers.Dense) and layer.name.startswith(_TRANSFORMER))
        ):
            variables.append(layer.kernel)
        elif isinstance(layer, BatchNorm) and layer.gamma.trainable:
            variables.append(layer.gamma)
        elif isinstance(layer, PReLU):
            variables.append(layer.alphas)
    return variables
