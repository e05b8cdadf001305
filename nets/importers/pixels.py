"""Describes the channel order and the normalisation of pixels in other projects."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .model_files import input_format_path
from .net_arguments import read_small_json

_CENTRE, _SCALE = 127.5, 128.0  # all backbones here take (pixel - 127.5) / 128


class Pixels(NamedTuple):
    """The input of a net: `(pixel - mean) / scale`, with pixels of 0 to 255.

    Attributes:
        is_rgb: whether the first channel is red. Otherwise it is blue.
        mean, scale: three numbers, in the order of the channels.
    """

    is_rgb: bool
    mean: tuple[float, ...]
    scale: tuple[float, ...]

    def after(self, scale: float, offset: float) -> "Pixels":
        """Returns the input of a net whose graph first computes `x * scale + offset`."""
        means = (m - offset / scale * s for m, s in zip(self.mean, self.scale, strict=True))
        return Pixels(self.is_rgb, tuple(means), tuple(s / scale for s in self.scale))

    def arguments(self) -> dict[str, Any]:
        """Returns the arguments of a builder for these pixels; empty if `stem_kernel` can make up for them.

        A conv pads with zeros, which stand for the mean. So its kernel can make up for another scale, but not
        for another mean.
        """
        if np.allclose(self.mean, _CENTRE, rtol=1e-5, atol=0):
            return {}
        order = slice(None, None, -1 if self.is_rgb else 1)
        return {"pixel_mean": list(self.mean[order]), "pixel_scale": list(self.scale[order])}

    def stem_kernel(self, kernel: np.ndarray) -> np.ndarray:
        """Converts the kernel of the first conv, HWIO, so that it takes the pixels of the backbones here."""
        if not self.arguments():
            kernel = kernel * (_SCALE / np.asarray(self.scale, np.float64)).astype(np.float32)[:, None]
        return kernel[:, :, ::-1] if self.is_rgb else kernel


# From `recognition/arcface_torch/dataset.py` (RGB) and `inference.py` (`/ 255`, `- 0.5`, `/ 0.5`).
INSIGHTFACE = Pixels(True, (127.5,) * 3, (127.5,) * 3)
UNCHANGED = Pixels(True, (0.0,) * 3, (1.0,) * 3)


def read_pixels(path: Path) -> Pixels | None:
    """Reads the file `NAME.onnx.input.json` next to `NAME.onnx`. Returns `None` if there is none.

    Raises:
        ValueError: the file is damaged, or its layout is not `"nchw"`.
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
