"""Pixels that a file's net was trained on, as other projects normalise them."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .model_files import input_format_path
from .net_arguments import read_small_json

_CENTRE, _SCALE = 127.5, 128.0  # what all backbones take


class Pixels(NamedTuple):
    """Channel order and numbers of `(pixel - mean) / scale`, where pixels are 0 to 255.

    Attributes:
        is_rgb: whether the first channel is red, and not blue.
        mean, scale: three numbers, in the order of the channels.
    """

    is_rgb: bool
    mean: tuple[float, ...]
    scale: tuple[float, ...]

    def after(self, scale: float, offset: float) -> "Pixels":
        """Returns the pixels after a graph's own `x * scale + offset`."""
        means = (m - offset / scale * s for m, s in zip(self.mean, self.scale, strict=True))
        return Pixels(self.is_rgb, tuple(means), tuple(s / scale for s in self.scale))

    def arguments(self) -> dict[str, Any]:
        """The arguments of a builder for these pixels; none if the first kernel can take what differs.

        A conv pads with zeros, which stand for the mean. So only a scale can move into its kernel.
        """
        if np.allclose(self.mean, _CENTRE, rtol=1e-5, atol=0):
            return {}
        order = slice(None, None, -1 if self.is_rgb else 1)
        return {"pixel_mean": list(self.mean[order]), "pixel_scale": list(self.scale[order])}

    def stem_kernel(self, kernel: np.ndarray) -> np.ndarray:
        """Turns the first kernel, HWIO, into one that takes what the net here gives it: BGR."""
        if not self.arguments():
            kernel = kernel * (_SCALE / np.asarray(self.scale, np.float64)).astype(np.float32)[:, None]
        return kernel[:, :, ::-1] if self.is_rgb else kernel


# `recognition/arcface_torch/dataset.py` (RGB), `inference.py` (`/ 255`, `- 0.5`, `/ 0.5`)
INSIGHTFACE = Pixels(True, (127.5,) * 3, (127.5,) * 3)
UNCHANGED = Pixels(True, (0.0,) * 3, (1.0,) * 3)


def read_pixels(path: Path) -> Pixels | None:
    """Reads `NAME.onnx.input.json` of a `NAME.onnx`, if there is one.

    Raises:
        ValueError: it is damaged, or the layout is not that of a graph of convolutions.
    """
    description = input_format_path(path)
    if not description.is_file():
        return None
    values = read_small_json(description)
    if not isinstance(values, dict) or not {"channels", "layout", "mean", "scale"} <= values.keys():
        raise ValueError(f"{description}: expected the keys channels, layout, mean and scale")
    for name, known in (("channels", ("rgb", "bgr")), ("layout", ("nchw",))):
        if values[name] not in known:
            raise ValueError(
                f"{description}: {name}: expected {' or '.join(known)}, received {values[name]!r}"
            )
    for name in ("mean", "scale"):
        numbers = values[name]
        is_right = isinstance(numbers, list) and len(numbers) == 3
        if not is_right or not all(type(n) in (int, float) and np.isfinite(n) for n in numbers):
            raise ValueError(f"{description}: {name}: expected three numbers, received {str(numbers)[:80]}")
    if 0 in values["scale"]:
        raise ValueError(f"{description}: scale: expected no 0, received {values['scale']}")
    return Pixels(values["channels"] == "rgb", tuple(values["mean"]), tuple(values["scale"]))
