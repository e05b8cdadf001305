"""A trained model, from whatever it was saved as, as a function from faces to embeddings."""

from pathlib import Path

import tensorflow as tf

from dataset.preprocess import preprocess
from nets.backbone import load_backbone
from nets.importers.saved_model import NET_NAME, is_saved_model
from nets.inference import in_float32, inference_net


class FaceModel:
    """Embeds aligned faces.

    Args:
        function: `tf.function` with an input signature: from uint8 `(batch, *face_size, 3)`, RGB, to
            float32 `(batch, dim)`.
        face_size: `(height, width)` of the faces it takes.
    """

    def __init__(self, function, face_size):
        self.function = function
        self.face_size = tuple(face_size)

    @classmethod
    def from_backbone(cls, backbone, face_size):
        """Wraps a net; faces larger than its input are cropped.

        Args:
            backbone: `keras.Model` from normalised images to embeddings. It is called as it is when faces
                are embedded: a net in training may be wrapped once.
            face_size: `(height, width)` of the faces.

        Raises:
            ValueError: the faces are smaller than the net's input.
        """
        image_size = backbone.input_shape[1:3]
        if any(have < want for have, want in zip(face_size, image_size, strict=True)):
            raise ValueError(f"expected faces of at least {image_size}, received {tuple(face_size)}")

        @tf.function(input_signature=[_faces(face_size)])
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
        return self.function(tf.constant(faces)).numpy()


def load_face_model(path, face_size, rectified=False):
    """Loads a model from whatever it was saved as: see `nets.backbone.load_backbone`.

    A SavedModel is a program, and this runs it: load only what comes from where you trust. Of
    all other forms nothing is run.

    Args:
        path: str or Path.
        face_size: `(height, width)` of the faces to embed.
        rectified: bool, build the net in the form that suits OpenVINO, where there is one to build; see
            `nets.inference.inference_net`. Defaults to `False`.

    Returns:
        A `FaceModel` that computes in float32.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: not a model, or it does not take faces of this size.
    """
    if is_saved_model(path) and not (rectified and Path(path, NET_NAME).is_file()):
        return _saved_model(Path(path), face_size)
    backbone = inference_net(in_float32(load_backbone(path)), rectified)
    try:
        return FaceModel.from_backbone(backbone, face_size)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _saved_model(path, face_size):
    loaded = tf.saved_model.load(str(path))
    signatures = loaded.signatures
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

    @tf.function(input_signature=[_faces(face_size)])
    def embed(faces):
        outputs = serve(images=faces)
        return outputs["embedding"] * outputs["norm"][:, None]

    model = FaceModel(embed, face_size)
    model.loaded = loaded  # to keep the variables, which the function alone does not
    return model


def _faces(face_size):
    return tf.TensorSpec((None, *face_size, 3), tf.uint8, name="faces")
