"""Decodes and checks image files. All programs use this module.

Training, conversion, pair files and video frames ignore the EXIF orientation, because aligned faces have
none. Programs that find faces in photographs, such as `dataset.align`, turn the photographs upright. See row
40 of docs/fidelity.md.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np
import simplejpeg

if TYPE_CHECKING:
    import tensorflow as tf

SUFFIXES = (".jpg", ".jpeg", ".png")
# A file of 100 kB can hold a picture of a billion pixels, so the size in its header is checked first.
MAX_PIXELS = 64_000_000
MAX_FACE_PIXELS = 1 << 20  # for aligned faces, because many of them are decoded at a time

_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"\0\0\0\0IEND\xae\x42\x60\x82"
_PNG_CHUNK = struct.Struct(">I4s")  # length, type
_PNG_HEADER = struct.Struct(">4x4s2I")  # the first chunk: length (skipped), type, width, height


def check_image(
    image: bytes,
    image_size: tuple[int, int] | None = None,
    verify: str = "full",
    *,
    max_pixels: int = MAX_PIXELS,
) -> tuple[int, int]:
    """Checks one encoded image.

    Args:
        image: content of a JPEG or PNG file.
        image_size: `(height, width)` that the image must have. Defaults to `None`: any size.
        verify: `"header"` checks the format, the size, and that the file is complete. `"full"` also
            decodes all of the data and rejects any damage. Defaults to `"full"`.
        max_pixels: largest number of pixels that the image may have. Defaults to `MAX_PIXELS`.

    Returns:
        `(height, width)`.

    Raises:
        ValueError: the image is damaged or has another format or size.
    """
    size = _read_size(image, max_pixels)
    is_jpeg = image.startswith(_JPEG_START)
    if image_size is not None and tuple(image_size) != size:
        raise ValueError("expected {}x{}, received {}x{}".format(*image_size, *size))
    # Some writers pad with zeros.
    if not image.rstrip(b"\0").endswith(_JPEG_END if is_jpeg else _PNG_END):
        kind = "JPEG" if is_jpeg else "PNG"
        raise ValueError(
            f"expected a {kind} that ends with its end marker, received {len(image)} bytes without it"
        )
    if verify == "full" and is_jpeg:
        _decode_grey(image)
    elif verify == "full":
        decode_picture(image, max_pixels=max_pixels)
    return size


def _read_size(image, max_pixels):
    """Returns `(height, width)` of a JPEG or PNG from its header."""
    if image.startswith(_JPEG_START):
        height, width = _jpeg_size(image)
    elif image.startswith(_PNG_START):
        height, width = _png_size(image)
    else:
        raise ValueError(
            f"expected a JPEG or PNG, received {len(image)} bytes that start with '{image[:8].hex(' ')}'"
        )
    if height * width > max_pixels:
        raise ValueError(f"expected an image of at most {max_pixels} pixels, received {height}x{width}")
    return height, width


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


def _check_chunks(image):
    """Checks that no chunk of a PNG claims to be longer than the file: OpenCV would allocate the memory."""
    start, kind = len(_PNG_START), b""
    while kind != b"IEND" and start + _PNG_CHUNK.size <= len(image):
        length, kind = _PNG_CHUNK.unpack_from(image, start)
        start += _PNG_CHUNK.size + length + 4  # a checksum of 4 bytes follows
        if start > len(image):
            raise ValueError(f"expected a PNG, received a chunk of {length} bytes in {len(image)} bytes")


def _decode_grey(image):
    try:
        # Decoding to grey at an eighth of the size is nearly twice as fast, and still reads all of the data,
        # so it finds the same damage.
        simplejpeg.decode_jpeg(image, "GRAY", min_height=1, min_width=1, min_factor=8, strict=True)
    except ValueError as error:
        raise ValueError(f"expected a JPEG, received damaged data: {error}") from None


def decode_picture(encoded: bytes, *, upright: bool = False, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decodes a JPEG or PNG with OpenCV.

    Args:
        encoded: content of the file.
        upright: turn the picture as its EXIF orientation says. Defaults to `False`.
        max_pixels: largest number of pixels that the picture may have. Defaults to `MAX_PIXELS`.

    Returns:
        uint8 `(height, width, 3)`, RGB.

    Raises:
        ValueError: the picture cannot be decoded or is too large.
    """
    import cv2  # Imported here because it loads slowly, and most workers never need it.

    _read_size(encoded, max_pixels)
    if encoded.startswith(_PNG_START):
        _check_chunks(encoded)
    flags = cv2.IMREAD_COLOR_RGB | (0 if upright else cv2.IMREAD_IGNORE_ORIENTATION)
    try:
        pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), flags)
    except cv2.error as error:  # more pixels than OpenCV's limit
        raise ValueError(f"expected an image, received one that cannot be decoded: {error}") from None
    if pixels is None:
        raise ValueError(f"expected an image, received {len(encoded)} bytes that cannot be decoded")
    return pixels


def decode_image(encoded: bytes, out: np.ndarray, order: str) -> None:
    """Decodes one training image into an existing array.

    simplejpeg decodes JPEGs in a third of TensorFlow's time, does not block other threads, and returns
    exactly the pixels of `decode_tensor`. `decode_tensor` decodes the other images: PNG, JPEGs with
    recoverable faults, and CMYK, where the two libraries compute different colours.

    Args:
        encoded: content of an image file.
        out: uint8 `(height, width, 3)`, contiguous. The pixels are written to it.
        order: `"RGB"` or `"BGR"`.

    Raises:
        ValueError: the image cannot be decoded, or its size is not that of `out`.

    Example:

    >>> face, out = np.full((112, 112, 3), 9, np.uint8), np.zeros((112, 112, 3), np.uint8)
    >>> decode_image(simplejpeg.encode_jpeg(face), out, "BGR")
    >>> int(out.min())
    9
    """
    if not _by_simplejpeg(encoded, out, order):
        if encoded.startswith(_PNG_START):
            _check_fits(_png_size(encoded), out)
        decoded = _by_tensorflow(encoded, order)
        _check_fits(decoded.shape, out)
        out[...] = decoded


def _check_fits(size, out):
    """Checks the size in a header before the image is decoded, because it may be huge."""
    if size[:2] != out.shape[:2]:
        raise ValueError("expected an image of {}x{}, received {}x{}".format(*out.shape[:2], *size))


def _by_simplejpeg(encoded, out, order):
    """Decodes a JPEG and returns `True`, or returns `False` if TensorFlow has to decode the image."""
    try:
        header = simplejpeg.decode_jpeg_header(encoded)
    except ValueError:
        return False
    _check_fits(header, out)
    if header[2] in ("CMYK", "YCCK"):
        return False
    try:
        simplejpeg.decode_jpeg(encoded, order, buffer=out)
    except ValueError:
        return False
    return True


def _by_tensorflow(encoded, order):
    import tensorflow as tf

    if encoded.startswith(b"GIF"):
        raise ValueError("expected a JPEG or PNG, received a GIF")
    try:
        rgb = decode_tensor(tf.constant(encoded)).numpy()
    except tf.errors.OpError as error:
        raise ValueError(
            f"expected an image, received one that cannot be decoded: {error.message.splitlines()[0]}"
        ) from None
    return rgb if order == "RGB" else rgb[..., ::-1]


def decode_tensor(encoded: tf.Tensor) -> tf.Tensor:
    """Decodes a JPEG or PNG with TensorFlow, also in a graph, to the same pixels as PIL and OpenCV.

    Args:
        encoded: scalar string tensor.

    Returns:
        uint8 `(height, width, 3)`, RGB.
    """
    import tensorflow as tf

    # TensorFlow's default, the fast DCT, differs from PIL and OpenCV in three of four values.
    return tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE")
