"""A model from whatever it was saved as, run by the fastest engine that gives the same embeddings."""

import logging
import time

import numpy as np
import tensorflow as tf

from eval.face_model import load_face_model

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
        path, face_size: as `eval.face_model.load_face_model` takes them.
        engines: of `eval.engine.engines_for`.
        faces: uint8 `(n, *face_size, 3)`, RGB, a few to compare the embeddings of, and to time.

    Returns:
        `(model, engine, rates)`: a `FaceModel` or `OpenVinoModel`, the `Engine` that it is of, and a dict
        from engines to images per second of what was timed; empty where there was no choice.

    Raises:
        FileNotFoundError, ValueError: as `load_face_model`; or no engine agrees with TensorFlow.
    """
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
    from eval.openvino_model import OpenVinoModel  # only where it is installed

    return OpenVinoModel(load_face_model(path, face_size, rectified=True), engine.precision)


def _units(embeddings):
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return embeddings / np.where(lengths > 0, lengths, 1)
