"""The TensorFlow engine: loads a trained model from any format and embeds faces with it."""

from pathlib import Path
from typing import Any, Self

import keras
import numpy as np
import tensorflow as tf

from dataset.preprocess import preprocess
from eval.embedding.described_model import DescribedModel
from eval.embedding.engines import check_faces
from eval.embedding.input_format import EXAMPLE
from nets.backbone import load_backbone
from nets.importers.model_files import input_format_path
from nets.importers.saved_model import NET_NAME, is_saved_model
from nets.inference import in_float32, inference_net


class FaceModel:
    """Embeds aligned faces.

    Args:
        function: `tf.function` with an input signature. Takes uint8 `(batch, *face_size, 3)`, RGB. Returns
            float32 `(batch, dim)`.
        face_size: `(height, width)` of the faces, in pixels.
    """

    def __init__(self, function: Any, face_size: tuple[int, int]) -> None:
        self.function = function
        self.face_size = face_size

    @classmethod
    def from_backbone(cls, backbone: keras.Model, face_size: tuple[int, int] | None = None) -> Self:
        """Wraps a net that computes embeddings from normalised images.

        Faces that are larger than the net's input are cropped to their centre. Each call uses the current
        weights, so a net in training needs to be wrapped only once.

        Args:
            backbone: the net.
            face_size: `(height, width)` of the faces. Defaults to the size of the net's input.

        Raises:
            ValueError: the faces are smaller than the net's input.
        """
        image_size = backbone.input_shape[1:3]
        face_size = face_size or image_size
        if any(have < want for have, want in zip(face_size, image_size, strict=True)):
            raise ValueError(f"expected faces of at least {image_size}, received {face_size}")

        @tf.function(input_signature=[_faces_spec(face_size)])
        def embed(faces):
            return backbone(preprocess(faces, image_size), training=False)

        return cls(embed, face_size)

    def embed(self, faces: np.ndarray) -> np.ndarray:
        """See `eval.embedding.engines.EmbeddingModel`."""
        check_faces(faces, self.face_size)
        return self.function(tf.constant(faces)).numpy()


def load_model(path: Path, face_size: tuple[int, int] | None, precision: str) -> FaceModel | DescribedModel:
    """Loads a model for the TensorFlow engine. Its only precision is float32."""
    return load_face_model(path, face_size)


def load_face_model(
    path: Path, face_size: tuple[int, int] | None, rectified: bool = False
) -> FaceModel | DescribedModel:
    """Loads a model in any format that `nets.backbone.load_backbone` reads.

    A SavedModel or Keras file of another project is loaded if its input is described; see
    `eval.embedding.input_format`. Such a model is a program, like any SavedModel, and this function runs it.
    Load one only from a source that you trust. Files in other formats cannot run code.

    Args:
        path: the model. It computes in float32, whatever its training used.
        face_size: `(height, width)` of the faces to embed. Defaults to the input size of the model.
        rectified: build the net in the form that suits OpenVINO, if it can be built; see
            `nets.inference.inference_net`.

    Raises:
        FileNotFoundError: `path` does not exist.
        ValueError: `path` is not a model, or the model does not take faces of this size.
    """
    if (is_saved_model(path) or path.suffix == ".keras") and input_format_path(path).is_file():
        return DescribedModel(path, face_size)
    if is_saved_model(path) and not (rectified and Path(path, NET_NAME).is_file()):
        return _load_saved_model(path, face_size)
    backbone = inference_net(in_float32(_load_backbone(path)), rectified)
    try:
        return FaceModel.from_backbone(backbone, face_size)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _load_backbone(path):
    try:
        return load_backbone(path)
    except ValueError as error:
        if path.suffix not in (".onnx", ".keras"):
            raise
        raise ValueError(f"{error}. To run this file as it is, {_describe_input(path)}") from None


def _describe_input(path):
    return f"describe its input in {input_format_path(path)}, such as {EXAMPLE}"


def _load_saved_model(path, face_size):
    loaded: Any = tf.saved_model.load(str(path))
    if "serving_default" not in loaded.signatures:
        raise ValueError(f"{path}: expected a signature serving_default, received {list(loaded.signatures)}")
    serve = loaded.signatures["serving_default"]
    inputs, outputs = serve.structured_input_signature[1], serve.structured_outputs
    if set(inputs) != {"images"} or not {"embedding", "norm"} <= set(outputs):
        received = f"{', '.join(inputs)} -> {', '.join(outputs)}"
        raise ValueError(
            f"{path}: expected images -> embedding, norm, received {received}. For a model of another "
            f"project, {_describe_input(path)}"
        )
    taken = tuple(inputs["images"].shape[1:3])
    if face_size is None:
        face_size = taken
    if taken != face_size:
        raise ValueError(f"{path}: takes faces of {taken}, received faces of {face_size}")

    @tf.function(input_signature=[_faces_spec(face_size)])
    def embed(faces):
        # `loaded` owns the variables. A reference to `serve` alone would not keep them.
        outputs = loaded.signatures["serving_default"](images=faces)
        return outputs["embedding"] * outputs["norm"][:, None]

    return FaceModel(embed, face_size)


def _faces_spec(face_size):
    return tf.TensorSpec((None, *face_size, 3), tf.uint8, name="faces")
