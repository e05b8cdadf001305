"""Functions that the builders of several backbones share."""

import zlib
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from .layers.depthwise_conv import DepthwiseConv


def named_seed(name: str, seed: int) -> int:
    """Returns a seed for a layer's initial weights that depends on the layer's name, not on other layers."""
    return (zlib.crc32(name.encode()) + seed) % 2**31


def padded_conv(
    x: tf.Tensor,
    name: str,
    filters: int,
    kernel_size: int,
    stride: int,
    kernel_initializer: Any,
    dtype: Any,
    use_bias: bool = False,
) -> tf.Tensor:
    """Applies a conv whose input is padded with zeros, by half the kernel on every side.

    The original and PyTorch pad this way. With a stride of 2, `padding="same"` would pad only the right and
    the bottom side.

    Args:
        x: `(batch, height, width, channels)`.
    """
    x, padding = _pad(x, name, kernel_size, stride, dtype)
    return keras.layers.Conv2D(
        filters,
        kernel_size,
        stride,
        padding=padding,
        use_bias=use_bias,
        kernel_initializer=kernel_initializer,
        dtype=dtype,
        name=name,
    )(x)


def padded_depthwise_conv(
    x: tf.Tensor,
    name: str,
    kernel_size: int,
    stride: int,
    kernel_initializer: Any,
    dtype: Any,
    use_bias: bool = False,
) -> tf.Tensor:
    """Applies a depthwise conv whose input is padded as in `padded_conv`."""
    x, padding = _pad(x, name, kernel_size, stride, dtype)
    return DepthwiseConv(
        kernel_size,
        stride,
        padding=padding,
        use_bias=use_bias,
        depthwise_initializer=kernel_initializer,
        dtype=dtype,
        name=name,
    )(x)


def rescaled_pixels(
    images: tf.Tensor, mean: Sequence[float] | None, scale: Sequence[float] | None
) -> tf.Tensor:
    """Turns the input of all backbones, `(pixel - 127.5) / 128`, into `(pixel - mean) / scale`.

    Nets that were trained with another mean or scale need this. The mean cannot move into the first kernel
    instead: that would change the result at the edges, where a conv pads with zeros.

    Args:
        images: float32 `(batch, height, width, 3)`, BGR.
        mean, scale: three numbers each, for blue, green and red, or both `None` for no change.

    Raises:
        ValueError: mean or scale is not three finite numbers, or a scale is 0.
    """
    if mean is None and scale is None:
        return images
    for name, numbers in (("pixel_mean", mean), ("pixel_scale", scale)):
        given = numbers if isinstance(numbers, list | tuple) else ()
        if len(given) != 3 or not all(isinstance(n, int | float) and np.isfinite(n) for n in given):
            raise ValueError(f"{name}: expected three numbers (blue, green, red), received {numbers}")
    means, scales = np.asarray(mean, np.float64), np.asarray(scale, np.float64)
    if (scales == 0).any():
        raise ValueError(f"pixel_scale: expected no 0, received {scale}")
    factors, offsets = (128 / scales).tolist(), ((127.5 - means) / scales).tolist()
    return keras.layers.Rescaling(factors, offsets, dtype="float32", name="pixels")(images)


def _pad(x, name, kernel_size, stride, dtype):
    if stride == 1 or kernel_size == 1:
        return x, "same" if stride == 1 else "valid"
    return keras.layers.ZeroPadding2D(kernel_size // 2, dtype=dtype, name=f"{name}_pad")(x), "valid"
