"""Describes the pixels that a net in a file expects."""

import dataclasses
from pathlib import Path
from typing import Self

import numpy as np

from common.typed_json import from_json, read_json
from nets.importers.model_files import input_format_path

# Shown in error messages.
EXAMPLE = '{"channels": "rgb", "layout": "nhwc", "mean": [127.5, 127.5, 127.5], "scale": [128, 128, 128]}'
_Colour = tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class InputFormat:
    """The pixels that a net expects: `(pixel - mean) / scale`, where pixels are 0 to 255.

    For `NAME.onnx`, the file `NAME.onnx.input.json` in the same folder contains these keys, and likewise for
    other formats. Files that this project exported need no description.

    Args:
        channels: `"rgb"` or `"bgr"`.
        layout: `"nchw"` or `"nhwc"`.
        mean: one number for each channel, in the order of `channels`.
        scale: one number for each channel, not 0.
        size: `(height, width)` of the input, if the file leaves it open.
        batch: the batch size, if it is fixed and the file does not say so.
    """

    channels: str
    layout: str
    mean: _Colour
    scale: _Colour
    size: tuple[int, int] | None = None
    batch: int | None = None

    def __post_init__(self) -> None:
        for name, known in (("channels", ("rgb", "bgr")), ("layout", ("nchw", "nhwc"))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: expected {' or '.join(known)}, received {getattr(self, name)!r}")
        if not np.isfinite([*self.mean, *self.scale]).all() or 0 in self.scale:
            raise ValueError(f"mean and scale: expected finite numbers, and no scale of 0, received {self}")
        if min(*(self.size or (1, 1)), 1 if self.batch is None else self.batch) < 1:
            raise ValueError(f"size and batch: expected positive numbers, received {self.size}, {self.batch}")

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Reads the description of a model file, or returns `None` if there is none.

        Raises:
            ValueError: the description is damaged, or a key is missing or wrong.
        """
        description = input_format_path(path)
        return from_json(cls, read_json(description), description) if description.is_file() else None

    @property
    def takes_plain_pixels(self) -> bool:
        """True if the net takes pixels from 0 to 255 as they are."""
        return not any(self.mean) and set(self.scale) == {1}

    def prepare(self, faces: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
        """Crops uint8 RGB faces `(batch, height, width, 3)` to their centre and converts them for the net.

        Returns:
            `(batch, *image_size, 3)` or `(batch, 3, *image_size)`; float32, or uint8 for plain pixels.
        """
        images = crop_centre(faces, image_size)
        if self.channels == "bgr":
            images = images[..., ::-1]
        if not self.takes_plain_pixels:
            images = (images - np.asarray(self.mean, np.float32)) / np.asarray(self.scale, np.float32)
        return np.ascontiguousarray(images.transpose(0, 3, 1, 2) if self.layout == "nchw" else images)


# The input of the files that this project exports.
PLAIN_PIXELS = InputFormat(channels="rgb", layout="nhwc", mean=(0.0, 0.0, 0.0), scale=(1.0, 1.0, 1.0))


def crop_centre(faces: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Crops images `(batch, height, width, 3)` to their centre."""
    top, left = ((have - want) // 2 for have, want in zip(faces.shape[1:3], size, strict=True))
    return faces[:, top : top + size[0], left : left + size[1]]
