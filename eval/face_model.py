"""A trained model, from whatever it was saved as, as a function from faces to embeddings."""

from pathlib import Path

import tensorflow as tf

from dataset.preprocess import preprocess
from nets.load import load_backbone
from nets.saved_model import is_saved_model


class FaceModel:
    """Embeds aligned faces.

    Args:
        embed: function from uint8 `(batch, *face_size, 3)` tensors, RGB, to float32
            `(batch, dim)`.
        face_size: `(height, width)` of the faces it takes.
    """

    def __init__(self, embed, face_size):
        self.face_size = tuple(face_size)
        self._embed = embed

    @classmethod
    def from_backbone(cls, backbone, face_size):
        """Wraps a net; faces larger than its input are cropped.

        Args:
            backbone: `keras.Model` from normalised images to embeddings.
            face_size: `(height, width)` of the faces.

        Raises:
            ValueError: the faces are smaller than the net's input.
        """
        image_size = backbone.input_shape[1:3]
        if any(have < want for have, want in zip(face_size, image_size, strict=True)):
            raise ValueError(f"expected faces of at least {image_size}, received {tuple(face_size)}")
        signature = [tf.TensorSpec((None, *face_size, 3), tf.uint8)]

        @tf.function(input_signature=signature)
        def embed(faces):
            return backbone(preprocess(faces, image_size), training=False)

        return cls(embed, face_size)

    def embed(self, faces):
        """Embeddings as the net puts them out: not normalised.

        Args:
            faces: uint8 `(batch, *face_size, 3)`, RGB.

        Returns:
            float32 array `(batch, dim)`.
        """
        if tuple(faces.shape[1:]) != (*self.face_size, 3):
            raise ValueError(f"faces: expected shape (batch, *{self.face_size}, 3), received {faces.shape}")
        return self._embed(tf.constant(faces)).numpy()


def load_face_model(path, face_size):
    """Loads a model from whatever it was saved as: see `nets.load.load_backbone`.

    A SavedModel is a program, and this runs it: load only what comes from where you trust. Of
    all other forms nothing is run.

    Args:
        path: str or Path.
        face_size: `(height, width)` of the faces to embed.

    Returns:
        A `FaceModel`.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: not a model, or it does not take faces of this size.
    """
    if is_saved_model(path):
        return _saved_model(Path(path), face_size)
    backbone = load_backbone(path)
    try:
        return FaceModel.from_backbone(backbone, face_size)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _saved_model(path, face_size):
    signatures = tf.saved_model.load(str(path)).signatures
    if "serving_default" not in signatures:
        raise ValueError(f"{path}: expected a signature serving_default, received {list(signatures)}")
    serve = signatures["serving_default"]
    inputs, outputs = serve.structured_input_signature[1], serve.structured_outputs
    if set(inputs) != {"images"} or not {"embedding", "norm"} <= set(outputs):
        raise ValueError(
            f"{path}: expected images -> embedding, norm, "
            f"received {', '.join(inputs)} -> {', '.join(outputs)}"
        )
    takes = tuple(inputs["images"].shape[1:3])
    if takes != tuple(face_size):
        raise ValueError(f"{path}: takes faces of {takes}, received faces of {tuple(face_size)}")

    def embed(faces):
        outputs = serve(images=faces)
        return outputs["embedding"] * outputs["norm"][:, None]

    return FaceModel(embed, face_size)
