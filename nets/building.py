"""Functions that the builders of all backbones share."""

import zlib
from typing import Any

import keras
import tensorflow as tf


def named_seed(name: str, seed: int) -> int:
    """Returns a seed for a layer's initial weights. It depends on the layer's name, not on other layers."""
    return (zlib.crc32(name.encode()) + seed) % 2**31


def padded_conv(
    x: tf.Tensor, name: str, filters: int, kernel_size: int, stride: int, kernel_initializer: Any, dtype: Any
) -> tf.Tensor:
    """Applies a conv without bias whose input is padded by half the kernel on every side.

    The original and PyTorch pad this way; with a stride of 2, `padding="same"` pads only the far side.
    """
    if stride > 1 and kernel_size > 1:
        x = keras.layers.ZeroPadding2D(kernel_size // 2, dtype=dtype, name=f"{name}_pad")(x)
    return keras.layers.Conv2D(
        filters,
        kernel_size,
        stride,
        padding="same" if stride == 1 else "valid",
        use_bias=False,
        kernel_initializer=kernel_initializer,
        dtype=dtype,
        name=name,
    )(x)
