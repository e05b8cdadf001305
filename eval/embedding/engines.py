"""The engines that compute embeddings. An engine is imported only when it loads a model."""

import dataclasses
import importlib
import importlib.metadata
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from common.options import option
from nets.importers.model_files import runs_as_it_is
from nets.start_tensorflow import start_tensorflow

NUM_COMPARED = 16  # how many faces of a set to give to `load_engine`

# Other engines are timed only for at least this many images. Timing takes seconds, embedding takes minutes.
_MIN_IMAGES_TO_MEASURE = 10_000
_MIN_SPEED_UP = 1.05

# Largest allowed difference between an engine's unit embeddings and TensorFlow's, by precision.
_TOLERANCES = {"float32": 1e-4, "bfloat16": 2e-2}


class EmbeddingModel(Protocol):
    """A net that an engine runs."""

    @property
    def face_size(self) -> tuple[int, int]:
        """`(height, width)` of the faces, in pixels."""
        ...

    def embed(self, faces: np.ndarray) -> np.ndarray:
        """Embeds uint8 RGB faces `(batch, *face_size, 3)` as float32 `(batch, dim)`, not normalised."""
        ...


class _Implementation(NamedTuple):
    module: str  # has a function `load_model(path, face_size, precision)` that returns an `EmbeddingModel`
    precisions: tuple[str, ...]


# Each engine is named after the Python package that it needs. The first one is the default and the reference.
ENGINES = {
    "tensorflow": _Implementation("eval.embedding.face_model", ("float32",)),
    "openvino": _Implementation("eval.embedding.openvino", ("float32", "bfloat16")),
}


class _FileEngine(NamedTuple):
    package: str
    module: str
    model: str  # a class of this module, called with `(path, face_size)`


# The engines that run a model file as it is, by suffix. An ONNX file is run like this only if it takes uint8
# pixels or its input is described. TensorFlow loads the weights of any other ONNX file.
FILE_ENGINES = {
    ".onnx": _FileEngine("onnxruntime", "eval.embedding.onnx_file", "OnnxModel"),
    ".tflite": _FileEngine("ai-edge-litert", "eval.embedding.tflite_file", "TfliteModel"),
    ".xml": _FileEngine("openvino", "eval.embedding.openvino_file", "OpenVinoFileModel"),
}


@dataclasses.dataclass(frozen=True)
class Engine:
    """A library and the precision that it computes in. The last bits of embeddings depend on both."""

    name: str = "tensorflow"
    precision: str = "float32"

    @property
    def version(self) -> str | None:
        """Version of the installed package, or `None` if it is not installed."""
        try:
            return importlib.metadata.version(self.name)
        except importlib.metadata.PackageNotFoundError:
            return None

    @property
    def package_versions(self) -> dict[str, str]:
        """Versions of the installed packages that an embedding depends on."""
        packages = dict.fromkeys((self.name, "tensorflow", "numpy", "opencv-python-headless"))
        return {name: importlib.metadata.version(name) for name in packages}

    def __str__(self) -> str:
        return f"{self.name} {self.version}, {self.precision}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Engine."""

    engine: str | None = option(
        None,
        "library that computes embeddings (default: tensorflow; with --precision bfloat16: openvino)",
        choices=tuple(ENGINES),
    )
    precision: str = option("float32", "precision of the computation", choices=tuple(_TOLERANCES))

    @property
    def chosen(self) -> Engine:
        """The requested engine, or else the first one that supports the precision."""
        able = (name for name, engine in ENGINES.items() if self.precision in engine.precisions)
        return Engine(self.engine or next(able), self.precision)

    def chosen_for(self, path: Path) -> Engine:
        """Returns the engine for a model: the one for its suffix in `FILE_ENGINES`, or else `chosen`.

        Raises:
            ValueError: the flags name another engine, or the engine is not installed.
        """
        known = FILE_ENGINES.get(path.suffix)
        if known is None or (path.suffix == ".onnx" and not runs_as_it_is(path)):
            return self.chosen
        engine = Engine(known.package)
        if self.engine not in (None, engine.name) or self.precision != engine.precision:
            raise ValueError(f"{path}: {engine.name} runs this file. Leave out --engine and --precision.")
        if engine.version is None:
            raise ValueError(
                f"{path}: {engine.name} is not installed. Run: pip install -r requirements-export.txt"
            )
        return engine

    def problems(self) -> Iterator[str]:
        """Yields a sentence if the engine does not support the precision or is not installed."""
        engine = self.chosen
        precisions = ENGINES[engine.name].precisions
        if engine.precision not in precisions:
            yield (
                f"--precision: {engine.name} does not support {engine.precision}. "
                f"Use {' or '.join(precisions)}."
            )
        elif engine.version is None:
            yield f"--engine: {engine.name} is not installed. Run `pip install {engine.name}`."


def check_faces(faces: np.ndarray, face_size: tuple[int, int]) -> None:
    """Raises `ValueError` if the faces do not have the shape `(batch, *face_size, 3)`."""
    if faces.shape[1:] != (*face_size, 3):
        raise ValueError(f"faces: expected shape (batch, *{face_size}, 3), received {faces.shape}")


def noise_faces(num_faces: int, face_size: tuple[int, int]) -> np.ndarray:
    """Returns noise to try a model with: uint8 `(num_faces, *face_size, 3)`."""
    return np.random.default_rng(0).integers(0, 256, (num_faces, *face_size, 3), np.uint8)


def load_engine(
    engine: Engine,
    path: Path,
    face_size: tuple[int, int] | None,
    faces: np.ndarray | None,
    num_images: int,
) -> tuple[EmbeddingModel, str]:
    """Loads a model and describes the engine that runs it.

    The embeddings of OpenVINO are first compared with TensorFlow's. If TensorFlow has to embed many images on
    a CPU, the other installed engines are timed, and the description says how much faster they would be. The
    timing does not change the choice of the engine.

    Args:
        engine: the engine to use.
        path, face_size: see `eval.embedding.face_model.load_face_model`.
        faces: a few faces for comparing and timing engines, uint8 `(n, *face_size, 3)`, RGB. Defaults to
            noise.
        num_images: how many images the model will embed.

    Returns:
        `(model, description)`. The description has one or more lines.

    Raises:
        FileNotFoundError, ValueError: see `load_face_model`; or the engine's embeddings differ from
            TensorFlow's.
    """
    known = FILE_ENGINES.get(path.suffix)
    if known is not None and known.package == engine.name:
        model_class = getattr(importlib.import_module(known.module), known.model)
        return model_class(path, face_size), f"Engine : {engine}"
    start_tensorflow()
    reference = _load(Engine(), path, face_size)
    size: tuple[int, int] = reference.face_size
    if faces is None:
        faces = noise_faces(NUM_COMPARED, size)
    lines = [f"Engine : {engine}"]
    if engine != Engine():
        return _load_checked(engine, path, size, faces, reference), lines[0]
    if num_images >= _MIN_IMAGES_TO_MEASURE:
        lines += _faster_engines(path, size, faces, reference)
    return reference, "\n".join(lines)


def _load(engine: Engine, path: Path, face_size: tuple[int, int] | None) -> Any:
    module = importlib.import_module(ENGINES[engine.name].module)
    return module.load_model(path, face_size, engine.precision)


def _load_checked(engine, path, face_size, faces, reference):
    try:
        model = _load(engine, path, face_size)
    except RuntimeError as error:  # OpenVINO raises it for a graph that it cannot run
        raise ValueError(f"{path}: {engine}: {str(error).strip().splitlines()[-1]}") from None
    difference = np.abs(_units(model.embed(faces)) - _units(reference.embed(faces))).max()
    if not difference <= _TOLERANCES[engine.precision]:
        raise ValueError(
            f"{path}: the unit embeddings of {engine} differ from TensorFlow's by {difference:.1e}, "
            f"more than {_TOLERANCES[engine.precision]}. Use --engine tensorflow."
        )
    return model


def _faster_engines(path, face_size, faces, reference):
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        return
    for engine in map(Engine, list(ENGINES)[1:]):
        if engine.version is None:
            continue
        try:
            model = _load_checked(engine, path, face_size, faces, reference)
        except ValueError:
            continue  # This engine cannot run the model, or gives wrong embeddings.
        speed_up = _images_per_second(model, faces) / _images_per_second(reference, faces)
        if speed_up >= _MIN_SPEED_UP:
            yield f"  --engine {engine.name} would be {speed_up:.1f} times as fast."


def _images_per_second(model, faces):
    start = time.perf_counter()
    model.embed(faces)
    return len(faces) / (time.perf_counter() - start)


def _units(embeddings):
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return embeddings / np.where(lengths > 0, lengths, 1)
