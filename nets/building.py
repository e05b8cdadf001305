"""What the builders of nets have in common."""

import zlib

import keras


def named_seed(name, seed):
    """The seed of a layer's initial weights: by its name, so that it does not depend on other layers."""
    return (zlib.crc32(name.encode()) + seed) % 2**31


def padded_conv(x, name, filters, kernel_size, stride, kernel_initializer, dtype):
    """A conv without bias whose input is padded by half the kernel on every side.

    The original and PyTorch pad so; `padding="same"` would pad the far side only where the stride is 2.
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
