"""Base class of the models that a runtime runs directly from a file."""

import abc
import math
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from eval.embedding.engines import check_faces
from eval.embedding.input_format import EXAMPLE, PLAIN_PIXELS, InputFormat
from nets.importers.model_files import input_format_path

FACE_SIZE = (112, 112)  # for nets that take any size

_MAX_PIXELS = 1 << 25  # in a batch; a damaged file may ask for billions


class NetInput(NamedTuple):
    """The input of a net as its file describes it."""

    name: str
    shape: tuple[int | None, ...]  # `None` for an axis that may have any size
    dtype: np.dtype
    # The stored number `q` means `scale * (q - zero_point)`.
    quantization: tuple[float, int] | None = None


class FileModel(abc.ABC):
    """Embeds aligned faces with a file that has one input.

    A file that this project exported takes uint8 `images` and gives `embedding` and `norm`. Any other file
    needs a description of its input; see `InputFormat`. The image size and the batch size come from the file,
    or else from the description. Larger faces are cropped to their centre. The embedding is the output
    `embedding`, or else the first output. If there is an output `norm`, the embedding is multiplied by it.

    Args:
        path: the file.
        face_size: `(height, width)` of the faces to embed. Defaults to the input size of the net, or to
            112x112 if the net takes any size.

    Raises:
        ValueError: the file is damaged, its description is damaged or missing, or the file is not a net that
            computes embeddings from images of at most this size.
    """

    _runtime: ClassVar[str]  # name of the runtime in messages

    def __init__(self, path: Path, face_size: tuple[int, int] | None = None) -> None:
        self._path = path
        described = InputFormat.read(path)
        try:
            inputs, outputs = self._open(path)
        except (*self._errors(), UnicodeDecodeError) as error:  # names in a damaged file may not be UTF-8
            raise ValueError(f"{path}: {self._runtime} cannot run it: {_last_line(error)}") from None
        if len(inputs) != 1 or len(inputs[0].shape) != 4:
            received = ", ".join(f"{entry.name} {list(entry.shape)}" for entry in inputs)
            raise ValueError(f"{path}: expected one input of four dimensions, received {received}")
        self._input = inputs[0]
        is_ours = self._input.dtype == np.uint8 and {"embedding", "norm"} <= set(outputs)
        found = described or (PLAIN_PIXELS if is_ours else None)
        if found is None:
            raise ValueError(
                f"{path}: expected a description of the input in {input_format_path(path)}, such as {EXAMPLE}"
            )
        self._format = found
        self._outputs = ["embedding" if "embedding" in outputs else outputs[0]]
        self._outputs += ["norm"] if "norm" in outputs else []
        self._set_sizes(face_size)

    def embed(self, faces: np.ndarray) -> np.ndarray:
        """See `eval.embedding.engines.EmbeddingModel`."""
        check_faces(faces, self.face_size)
        images = self._to_input_type(self._format.prepare(faces, self._image_size))
        size = self._batch_size or max(len(images), 1)
        parts = []
        for start in range(0, len(images), size):
            part = images[start : start + size]
            # A file with a fixed batch size does not take fewer images.
            filled = np.resize(part, (size, *part.shape[1:])) if self._batch_size else part
            try:
                outputs = self._run(filled, self._outputs)
            except self._errors() as error:
                shape = list(filled.shape)
                raise ValueError(
                    f"{self._path}: {self._runtime} cannot run it on images of shape {shape}: "
                    f"{_last_line(error)}"
                ) from None
            embeddings, *norms = (np.array(output, np.float32) for output in outputs)
            if not embeddings.size or embeddings.size % size or any(norm.size != size for norm in norms):
                shapes = ", ".join(str(list(output.shape)) for output in outputs)
                raise ValueError(f"{self._path}: expected a row for each of {size} images, received {shapes}")
            embeddings = embeddings.reshape(size, -1)
            for norm in norms:
                embeddings = embeddings * norm.reshape(size, 1)
            parts.append(embeddings[: len(part)])
        return np.concatenate(parts)

    @abc.abstractmethod
    def _errors(self) -> tuple[type[Exception], ...]:
        """Returns the exceptions that the runtime raises for files and images that it cannot run."""

    @abc.abstractmethod
    def _open(self, path: Path) -> tuple[Sequence[NetInput], Sequence[str]]:
        """Opens the file. Returns its inputs and the names of its outputs."""

    @abc.abstractmethod
    def _run(self, images: np.ndarray, names: Sequence[str]) -> Sequence[np.ndarray]:
        """Returns the outputs of these names."""

    def _set_sizes(self, face_size):
        taken, shape = self._format, list(self._input.shape)
        batch, first, second, third = shape
        channels, *size = (first, second, third) if taken.layout == "nchw" else (third, first, second)
        if channels not in (3, None):
            raise ValueError(
                f"{self._path}: expected 3 channels in the layout {taken.layout}, received {shape}"
            )
        described = [taken.batch, *(taken.size or (None, None))]
        for name, said, have in zip(("batch", "height", "width"), described, (batch, *size), strict=True):
            if said and have and said != have:
                raise ValueError(
                    f"{input_format_path(self._path)}: {name} is {said}, but the file takes {shape}"
                )
        height, width = (have or said for have, said in zip(size, described[1:], strict=True))
        self._batch_size = batch or taken.batch
        self.face_size = face_size or (height or FACE_SIZE[0], width or FACE_SIZE[1])
        self._image_size = (height or self.face_size[0], width or self.face_size[1])
        if math.prod([*self._image_size, self._batch_size or 1]) > _MAX_PIXELS:
            raise ValueError(f"{self._path}: expected at most {_MAX_PIXELS} pixels, received {shape}")
        if any(want > have for want, have in zip(self._image_size, self.face_size, strict=True)):
            raise ValueError(
                f"{self._path}: expected faces of at least {self._image_size}, received {self.face_size}"
            )
        is_float = np.issubdtype(self._input.dtype, np.floating)
        if not (is_float or self._input.quantization or taken.takes_plain_pixels):
            raise ValueError(
                f"{input_format_path(self._path)}: expected mean 0 and scale 1, because the file takes "
                f"{self._input.dtype} pixels"
            )

    def _to_input_type(self, images):
        """Converts images to the type of the input, and quantises them if the input is quantised."""
        dtype = self._input.dtype
        if self._input.quantization:
            scale, zero_point = self._input.quantization
            limits = np.iinfo(dtype)
            images = np.clip(np.rint(images / np.float32(scale) + zero_point), limits.min, limits.max)
        return images.astype(dtype, copy=False)


def _last_line(error):
    """Returns the last line of a message, which says what is wrong. The other lines name source files."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
