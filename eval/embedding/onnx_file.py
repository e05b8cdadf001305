"""ONNX files, run by ONNX Runtime as they are."""

import dataclasses
import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from common.typed_json import from_json, read_json
from eval.embedding.engines import check_faces
from nets.importers.model_files import input_format_path, read_onnx

METADATA_KEY = "input_format"  # of the files that `export.onnx` writes
_TYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32, "tensor(float16)": np.float16}


@dataclasses.dataclass(frozen=True)
class InputFormat:
    """The pixels that a net expects: `(pixel - mean) / scale`, where pixels are 0 to 255.

    A file of `export.onnx` says this in its metadata. For any other file, `NAME.onnx.input.json` in
    the folder of `NAME.onnx` holds these keys.

    Args:
        channels: `"rgb"` or `"bgr"`.
        layout: `"nchw"` or `"nhwc"`.
        mean: one number for each channel, in the order of `channels`.
        scale: one number for each channel, not 0.
    """

    channels: str
    layout: str
    mean: tuple[float, float, float]
    scale: tuple[float, float, float]

    def __post_init__(self) -> None:
        for name, known in (("channels", ("rgb", "bgr")), ("layout", ("nchw", "nhwc"))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: expected {' or '.join(known)}, received {getattr(self, name)!r}")
        if not np.isfinite([*self.mean, *self.scale]).all() or 0 in self.scale:
            raise ValueError(f"mean and scale: expected finite numbers, and no scale of 0, received {self}")

    def prepare(self, faces: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
        """Crops the centre of uint8 RGB faces `(batch, height, width, 3)` and turns it into the net's input.

        Returns:
            float32, `(batch, *image_size, 3)` or `(batch, 3, *image_size)`.
        """
        top, left = ((have - want) // 2 for have, want in zip(faces.shape[1:3], image_size, strict=True))
        pixels = faces[:, top : top + image_size[0], left : left + image_size[1]]
        if self.channels == "bgr":
            pixels = pixels[..., ::-1]
        images = (pixels - np.asarray(self.mean, np.float32)) / np.asarray(self.scale, np.float32)
        return np.ascontiguousarray(images.transpose(0, 3, 1, 2) if self.layout == "nchw" else images)


def find_input_format(path: Path) -> InputFormat | None:
    """Reads the description of the input of an ONNX file.

    Returns:
        `None` if nothing describes its input.

    Raises:
        ValueError: the description or the ONNX file is damaged, or a key is missing or wrong.
    """
    description = input_format_path(path)
    if description.is_file():
        return from_json(InputFormat, read_json(description), description)
    metadata = {item.key: item.value for item in read_onnx(path)[0].metadata_props}
    if METADATA_KEY not in metadata:
        return None
    try:
        values = json.loads(metadata[METADATA_KEY])
    except ValueError as error:
        raise ValueError(f"{path}: {METADATA_KEY}: expected JSON: {error}") from None
    return from_json(InputFormat, values, path)


class OnnxModel:
    """Embeds aligned faces with an ONNX file that has one input.

    The size of the input and a fixed batch size are read from the file. Larger faces are cropped.

    Args:
        path: ONNX file with a description of its input; see `InputFormat`. Its first output is the embedding.
            If there is an output `norm`, the embedding is multiplied by it.
        face_size: `(height, width)` of the faces to embed.

    Raises:
        ModuleNotFoundError: ONNX Runtime is not installed.
        ValueError: the file is damaged, or is no net from images of at most this size to embeddings.
    """

    def __init__(self, path: Path, face_size: tuple[int, int]) -> None:
        self.face_size = face_size
        found = find_input_format(path)
        if found is None:
            raise ValueError(f"{path}: expected a description of the input in {input_format_path(path)}")
        self._format = found
        read_onnx(path)  # Refuses files that name others outside of their folder.
        self._session = _open(path)
        names = [output.name for output in self._session.get_outputs()]
        self._outputs = [names[0], *(name for name in names[1:] if name == "norm")]
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or inputs[0].type not in _TYPES or len(inputs[0].shape) != 4:
            received = ", ".join(f"{entry.name} {entry.type} {entry.shape}" for entry in inputs)
            raise ValueError(f"{path}: expected one input of four dimensions, received {received}")
        self._input = inputs[0].name
        self._type = _TYPES[inputs[0].type]
        shape = [size if isinstance(size, int) else None for size in inputs[0].shape]  # else a name
        batch, first, second, third = shape
        channels, height, width = (
            (first, second, third) if self._format.layout == "nchw" else (third, first, second)
        )
        self._batch_size = batch
        self._image_size = (height or face_size[0], width or face_size[1])
        if channels not in (3, None):
            layout = self._format.layout
            raise ValueError(f"{path}: expected 3 channels in the layout {layout}, received {shape}")
        if any(want > have for want, have in zip(self._image_size, face_size, strict=True)):
            raise ValueError(f"{path}: expected faces of at least {self._image_size}, received {face_size}")

    def embed(self, faces: np.ndarray) -> np.ndarray:
        """See `eval.embedding.engines.EmbeddingModel`."""
        check_faces(faces, self.face_size)
        images = self._format.prepare(faces, self._image_size).astype(self._type, copy=False)
        size = self._batch_size or max(len(images), 1)
        parts = []
        for start in range(0, len(images), size):
            part = images[start : start + size]
            # A file with a fixed batch size takes no fewer images.
            filled = np.resize(part, (size, *part.shape[1:])) if self._batch_size else part
            embeddings, *norms = self._session.run(self._outputs, {self._input: filled})
            embeddings = np.asarray(embeddings, np.float32).reshape(len(filled), -1)
            for norm in norms:
                embeddings = embeddings * norm[:, None]
            parts.append(embeddings[: len(part)])
        return np.concatenate(parts)


def _open(path: Path) -> Any:
    import onnxruntime

    # ONNX Runtime's errors have no common base class, and no public name.
    errors = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    failures = tuple(
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except failures as error:
        raise ValueError(f"{path}: ONNX Runtime cannot run it: {error}") from None
