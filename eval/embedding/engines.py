"""Which library computes embeddings; told without importing any."""

import dataclasses
import importlib.metadata
import logging
import time

import numpy as np

logger = logging.getLogger(__name__)


# How far a number of a unit embedding may be from TensorFlow's.
_LIMITS = {"float32": 1e-4, "bfloat16": 2e-2}

_WORTH_IT = 0.95


def load_engine(path, face_size, engines, faces):
    """Loads a model for the fastest of some engines that agrees with TensorFlow.

    Which one that is depends on processor, net and versions; it is timed, as no table would hold everywhere.
    OpenVINO is taken where it saves a twentieth of the time, and computes on the CPU: where TensorFlow sees a
    GPU and may be used, it is.

    Args:
        path, face_size: as `eval.embedding.face_model.load_face_model` takes them.
        engines: of `eval.embedding.engines.engines_for`.
        faces: uint8 `(n, *face_size, 3)`, RGB, a few to compare the embeddings of, and to time.

    Returns:
        `(model, engine, rates)`: a `FaceModel` or `OpenVinoModel`, the `Engine` that it is of, and a dict
        from engines to images per second of what was timed; empty where there was no choice.

    Raises:
        FileNotFoundError, ValueError: as `load_face_model`; or no engine agrees with TensorFlow.
    """
    # TensorFlow only here: the flags below are read before it is loaded.
    import tensorflow as tf

    from eval.embedding.face_model import load_face_model

    model = load_face_model(path, face_size)
    openvino = next((engine for engine in engines if engine.name == "openvino"), None)
    tensorflow = next((engine for engine in engines if engine.name == "tensorflow"), None)
    if openvino is None or (tensorflow and tf.config.list_physical_devices("GPU")):
        return model, tensorflow, {}
    try:
        candidate = _open_vino(path, face_size, openvino)
        _compare(candidate, model, faces, _LIMITS[openvino.precision])
    except (RuntimeError, ValueError) as error:  # the first is what OpenVINO raises for a graph it cannot run
        message = f"{path}: {openvino}: {str(error).strip().splitlines()[-1]}"
        if tensorflow is None:
            raise ValueError(message) from None
        logger.warning("%s; TensorFlow is used", message)
        return model, tensorflow, {}
    if tensorflow is None:
        return candidate, openvino, {}
    rates = {tensorflow: _images_per_second(model, faces), openvino: _images_per_second(candidate, faces)}
    if rates[openvino] * _WORTH_IT > rates[tensorflow]:
        return candidate, openvino, rates
    return model, tensorflow, rates


def _compare(candidate, model, faces, limit):
    difference = np.abs(_units(candidate.embed(faces)) - _units(model.embed(faces))).max()
    if not difference <= limit:
        raise ValueError(
            f"expected TensorFlow's unit embeddings up to {limit}, received a difference of {difference:.1e}"
        )


def _images_per_second(model, faces):
    """The better of two; `_compare` was the one that does not count."""
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        model.embed(faces)
        seconds.append(time.perf_counter() - start)
    return len(faces) / min(seconds)


def _open_vino(path, face_size, engine):
    from eval.embedding.face_model import load_face_model
    from eval.embedding.openvino import OpenVinoModel  # only where it is installed

    return OpenVinoModel(load_face_model(path, face_size, rectified=True), engine.precision)


def _units(embeddings):
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return embeddings / np.where(lengths > 0, lengths, 1)


ENGINES = ("auto", "tensorflow", "openvino")

PRECISIONS = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Engine:
    """A library, and the precision that it computes in.

    The last bits of an embedding depend on both: features that are kept say which they are of.

    Attributes:
        name: `"tensorflow"` or `"openvino"`.
        precision: `"float32"` or, of OpenVINO only, `"bfloat16"`.
    """

    name: str
    precision: str = "float32"

    @property
    def version(self):
        """str, of the installed package; `None` where there is none."""
        try:
            return importlib.metadata.version(self.name)
        except importlib.metadata.PackageNotFoundError:
            return None

    def __str__(self):
        return f"{self.name} {self.version}, {self.precision}"


def engines_for(asked, precision="float32"):
    """The engines that may be used: of several `eval.embedding.engines.load_engine` takes the fastest.

    Args:
        asked: of `ENGINES`. `"auto"`: OpenVINO where it is installed, and TensorFlow.
        precision: of `PRECISIONS`. Defaults to `"float32"`.

    Returns:
        tuple of `Engine`, at least one.

    Raises:
        ValueError: OpenVINO is asked for and not installed, or a precision that the engine has not.
    """
    openvino = Engine("openvino", precision)
    if asked == "tensorflow" and precision != "float32":
        raise ValueError(f"--precision: expected float32 with --engine tensorflow, received {precision}")
    if asked == "tensorflow":
        return (Engine("tensorflow"),)
    if openvino.version is None and (asked == "openvino" or precision != "float32"):
        asks = "--engine openvino" if asked == "openvino" else f"--precision {precision}"
        raise ValueError(f"{asks}: expected the package openvino, received none: pip install openvino")
    if asked == "openvino" or precision != "float32":
        return (openvino,)
    return (Engine("tensorflow"),) if openvino.version is None else (openvino, Engine("tensorflow"))


def describe_engine(engine, rates):
    """The line that a program prints of `eval.embedding.engines.load_engine`'s choice."""
    timed = ", ".join(f"{one.name} {rate:.1f}" for one, rate in rates.items())
    return f"Engine : {engine}" + (f" (images/s: {timed})" if timed else "")


def add_engine_flags(parser):
    """Adds `--engine` and `--precision` to a parser or a group of it."""
    parser.add_argument(
        "--engine", choices=ENGINES, default="auto",
        help="what computes embeddings; auto: the faster one, where OpenVINO is installed and agrees",
    )  # fmt: skip
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="float32", help="of the computation; bfloat16 by OpenVINO"
    )
