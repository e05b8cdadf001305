"""Embeds faces with a trained model in any format, through one interface."""

import dataclasses
from pathlib import Path

import numpy as np

from eval.embedding.engines import EmbeddingModel, Engine, EngineOptions, load_engine, noise_faces
from eval.embedding.extractor import NotFiniteError, embed_images
from eval.embedding.input_format import crop_centre
from eval.scoring.templates import pool
from nets.importers.model_files import find_model, model_sha256


@dataclasses.dataclass(frozen=True, kw_only=True)
class Embedder:
    """A loaded model. `load_embedder` makes it; `dataclasses.replace` changes `flip` or `batch_size`.

    Attributes:
        path: the model that was found, such as the newest checkpoint of a folder.
        sha256: digest of the model; see `nets.importers.model_files.model_sha256`.
        face_size: `(height, width)` of the aligned faces, in pixels.
        dim: length of an embedding.
        engine: the library that runs the model.
        model: the net that the engine loaded.
        flip: add the embedding of each face's mirror image.
        batch_size: number of faces to embed at a time.
    """

    path: Path
    sha256: str
    face_size: tuple[int, int]
    dim: int
    engine: Engine
    model: EmbeddingModel
    flip: bool = False
    batch_size: int = 64

    def embed(self, faces: np.ndarray) -> np.ndarray:
        """Embeds aligned faces.

        Args:
            faces: uint8 `(n, height, width, 3)`, RGB. Faces larger than `face_size` are cropped to their
                centre.

        Returns:
            float32 `(n, dim)`, not normalised. The length of an embedding measures the quality of the face.

        Raises:
            ValueError: the faces are too small or of another type.
            NotFiniteError: an embedding contains NaN or infinity.
        """
        faces = np.asarray(faces)
        fits = faces.ndim == 4 and faces.shape[3] == 3 and faces.dtype == np.uint8
        if not fits or faces.shape[1] < self.face_size[0] or faces.shape[2] < self.face_size[1]:
            height, width = self.face_size
            raise ValueError(
                f"faces: expected uint8 of shape (n, {height}, {width}, 3) or larger, "
                f"received {faces.dtype} of shape {faces.shape}"
            )
        faces = crop_centre(faces, self.face_size)
        batches = embed_images(
            self.model, lambda start, stop: faces[start:stop], len(faces), self.batch_size, flip=self.flip
        )
        try:
            return np.concatenate([np.empty((0, self.dim), np.float32), *batches])
        except NotFiniteError as error:
            raise NotFiniteError(f"{self.path}: {error}") from None

    def template(self, source: np.ndarray | str | Path) -> np.ndarray:
        """Pools one person's faces into one embedding.

        Args:
            source: aligned faces, as for `embed`; or the path of a picture, a folder of pictures of one
                person, or a video. With a path, faces are detected and aligned, and the main track is used;
                see `eval.recognition.tracks`.

        Returns:
            float64 `(dim,)`, of length 1.

        Raises:
            FileNotFoundError, ValueError: the file cannot be read, or there is no usable face.
        """
        if not isinstance(source, (str, Path)):
            return pool(self.embed(source), "mean")
        from eval.recognition.tracks import find_tracks  # Loads the video readers, so not at the top.

        template = find_tracks(Path(source), self).main.template
        if template is None:
            raise ValueError(f"{source}: expected a usable face")
        return template


def load_embedder(
    path: str | Path,
    face_size: tuple[int, int] | None = None,
    *,
    flip: bool = False,
    engine: EngineOptions | None = None,
    batch_size: int = 64,
) -> Embedder:
    """Loads a model in any format, from this project or another one.

    - TensorFlow runs a SavedModel, a training checkpoint or folder of checkpoints, a `.keras` file, and the
      other formats that `nets.backbone.load_backbone` reads.
    - `.onnx`, `.tflite` and OpenVINO's `.xml` files run in their own runtimes, without TensorFlow. Files that
      this project exported describe their input. For any other file, such as `face.onnx`, write the
      description to `face.onnx.input.json` in the same folder; see
      `eval.embedding.input_format.InputFormat`.

    A SavedModel is a program, and loading it runs it: load one only from a source that you trust.

    Args:
        path: the model.
        face_size: `(height, width)` of the aligned faces that you will embed. Defaults to the input size of
            the model, or to 112x112 if the model takes any size.
        flip: add the embedding of each face's mirror image.
        engine: the engine for models that do not run in their own runtime. Defaults to TensorFlow in float32.
        batch_size: number of faces to embed at a time.

    Example: the similarity of two people, from -1 to 1.

    >>> embedder = load_embedder("face.onnx")
    >>> first, second = embedder.template("first.jpg"), embedder.template("second.mp4")
    >>> bool(first @ second > 0.5)
    True

    Raises:
        FileNotFoundError: `path` does not exist.
        ValueError: the model is damaged, needs faces of another size, has no description of its input, or
            gives NaN or infinity; or a package is missing.
    """
    found = find_model(path)
    chosen = (engine or EngineOptions()).chosen_for(found)
    sha256 = model_sha256(found)
    model, _ = load_engine(chosen, found, face_size, None, num_images=0)
    tried = model.embed(noise_faces(1, model.face_size))
    if not np.isfinite(tried).all():
        raise NotFiniteError(f"{found}: expected a finite embedding, received NaN or infinity")
    return Embedder(
        path=found,
        sha256=sha256,
        face_size=model.face_size,
        dim=tried.shape[1],
        engine=chosen,
        model=model,
        flip=flip,
        batch_size=batch_size,
    )
