"""Decodes and checks encoded images, for every reader.

Pixels are used as they are stored: an orientation in the EXIF data is ignored by training, conversion, pair
files and video frames, because aligned faces carry none. Only `dataset.align`, which reads photographs, turns
pictures upright. Row 40 of docs/fidelity.md.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np
import simplejpeg

if TYPE_CHECKING:
    import tensorflow as tf

SUFFIXES = (".jpg", ".jpeg", ".png")

_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"\0\0\0\0IEND\xae\x42\x60\x82"
_PNG_HEADER = struct.Struct(">4x4s2I")  # the first chunk: length (skipped), type, width, height


def check_image(
    image: bytes, image_size: tuple[int, int] | None = None, verify: str = "full"
) -> tuple[int, int]:
    """Checks one encoded image.

    Args:
        image: content of a JPEG or PNG file.
        image_size: `(height, width)` that the image must have. Defaults to any size.
        verify: `"header"` checks the format, the size and that the file is complete; `"full"` also
            decodes every pixel and rejects the slightest damage.

    Returns:
        `(height, width)`.

    Raises:
        ValueError: the image is damaged or has another format or size.
    """
    if image.startswith(_JPEG_START):
        kind, end, read_size, decode = "JPEG", _JPEG_END, _jpeg_size, _decode_grey
    elif image.startswith(_PNG_START):
        kind, end, read_size, decode = "PNG", _PNG_END, _png_size, decode_picture
    else:
        raise ValueError(
            f"expected a JPEG or PNG, received {len(image)} bytes that start with '{image[:8].hex(' ')}'"
        )
    size = read_size(image)
    if image_size is not None and tuple(image_size) != size:
        raise ValueError("expected {}x{}, received {}x{}".format(*image_size, *size))
    # Some writers pad with zeros.
    if not image.rstrip(b"\0").endswith(end):
        raise ValueError(
            f"expected a {kind} that ends with its end marker, received {len(image)} bytes without"
        )
    if verify == "full":
        decode(image)
    return size


def _jpeg_size(image):
    try:
        height, width = simplejpeg.decode_jpeg_header(image)[:2]
    except ValueError as error:
        raise ValueError(f"expected a JPEG, received a damaged header: {error}") from None
    return int(height), int(width)


def _png_size(image):
    if len(image) < len(_PNG_START) + _PNG_HEADER.size:
        raise ValueError(f"expected a PNG, received its first {len(image)} bytes")
    kind, width, height = _PNG_HEADER.unpack_from(image, len(_PNG_START))
    if kind != b"IHDR":
        raise ValueError(f"expected a PNG that starts with its header, received {kind}")
    return height, width


def _decode_grey(image):
    try:
        # Grey at an eighth of the size still reads all of the data, where damage shows, and is nearly twice
        # as fast.
        simplejpeg.decode_jpeg(image, "GRAY", min_height=1, min_width=1, min_factor=8, strict=True)
    except ValueError as error:
        raise ValueError(f"expected a JPEG, received damaged data: {error}") from None


def decode_picture(encoded: bytes, *, upright: bool = False) -> np.ndarray:
    """Decodes an image file of any size with OpenCV to uint8 `(height, width, 3)`, RGB.

    With `upright`, the picture is turned as its EXIF orientation says. Raises `ValueError` for an image that
    cannot be decoded.
    """
    import cv2  # only now: loading it takes as long as NumPy, in every worker, and PNGs are rare

    flags = cv2.IMREAD_COLOR_RGB | (0 if upright else cv2.IMREAD_IGNORE_ORIENTATION)
    try:
        pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), flags)
    except cv2.error as error:  # no bytes, or more pixels than OpenCV's limit
        raise ValueError(f"expected an image, received one that cannot be decoded: {error}") from None
    if pixels is None:
        raise ValueError(f"expected an image, received {len(encoded)} bytes that cannot be decoded")
    return pixels


def decode_image(encoded: bytes, out: np.ndarray, order: str) -> None:
    """Decodes one training image into an existing array.

    simplejpeg decodes JPEGs in a third of TensorFlow's time, without blocking other threads, and gives
    the pixels of `decode_tensor`, bit for bit. `decode_tensor` itself decodes the rest: PNG, JPEGs with
    recoverable faults, and CMYK, for which the two libraries compute different colours.

    Args:
        encoded: content of an image file.
        out: uint8 `(height, width, 3)`, contiguous; receives the pixels.
        order: `"RGB"` or `"BGR"`.

    Raises:
        ValueError: the image cannot be decoded, or its size is not that of `out`.

    Example:

    >>> face, out = np.full((112, 112, 3), 9, np.uint8), np.zeros((112, 112, 3), np.uint8)
    >>> decode_image(simplejpeg.encode_jpeg(face), out, "BGR")
    >>> int(out.min())
    9
    """
    decoded = _by_simplejpeg(encoded, out, order)
    if decoded is None:
        decoded = _by_tensorflow(encoded, order)
        if decoded.shape == out.shape:
            out[...] = decoded
    if decoded.shape != out.shape:
        raise ValueError("expected an image of {}x{}, received {}x{}".format(*out.shape[:2], *decoded.shape))


def _by_simplejpeg(encoded, out, order):
    """Returns the image, which is in `out` if it fits, or `None` if TensorFlow has to decode it."""
    try:
        if simplejpeg.decode_jpeg_header(encoded)[2] in ("CMYK", "YCCK"):
            return None
        return simplejpeg.decode_jpeg(encoded, order, buffer=out)
    except ValueError:
        return None


def _by_tensorflow(encoded, order):
    import tensorflow as tf

    try:
        rgb = decode_tensor(tf.constant(encoded)).numpy()
    except tf.errors.OpError as error:
        raise ValueError(
            f"expected an image, received one that cannot be decoded: {error.message.splitlines()[0]}"
        ) from None
    return rgb if order == "RGB" else rgb[..., ::-1]


def decode_tensor(encoded: tf.Tensor) -> tf.Tensor:
    """Decodes a JPEG or PNG, a scalar string tensor, in a graph. Returns uint8 `(height, width, 3)`, RGB.

    The pixels are those of PIL and OpenCV.
    """
    import tensorflow as tf

    # TensorFlow's default, the fast DCT, differs from PIL and OpenCV in three values of four.
    return tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE")
