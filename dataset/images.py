"""Encoded image -> pixels at their place in a batch, without a graph."""

import struct

import numpy as np
import simplejpeg

LEVELS = ("full", "header")


_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"

_PNG_START = b"\x89PNG\r\n\x1a\n"

_PNG_HEADER = struct.Struct(">4x4s2I")  # the first chunk: its length, type, width, height

_PNG_END = b"\0\0\0\0IEND\xae\x42\x60\x82"


def check_image(image, image_size=None, verify="full"):
    """Checks one encoded image.

    Args:
        image: bytes, expected to be a JPEG or PNG.
        image_size: `(height, width)` that it must have, or `None` for any.
        verify: `"header"`: its kind and size, and that it is there to its end; `"full"`: also every
            pixel, where the slightest damage counts. Defaults to `"full"`.

    Returns:
        `(height, width)`.

    Raises:
        ValueError: it is damaged, or not what was expected.
    """
    if image.startswith(_JPEG_START):
        return _check_jpeg(image, image_size, verify)
    if image.startswith(_PNG_START):
        return _check_png(image, image_size, verify)
    raise ValueError(
        f"expected a JPEG or PNG, received {len(image)} bytes that start with '{image[:8].hex(' ')}'"
    )


def _check_jpeg(image, image_size, verify):
    try:
        received = simplejpeg.decode_jpeg_header(image)[:2]
    except ValueError as error:
        raise ValueError(f"expected a JPEG, received a damaged header: {error}") from None
    _check_size(image_size, received)
    # Some writers pad with zeros.
    if not image.rstrip(b"\0").endswith(_JPEG_END):
        raise ValueError(
            f"expected a JPEG that ends with its end marker, received {len(image)} bytes without"
        )
    if verify == "full":
        try:
            # Grey and an eighth in size is enough, at nearly twice the speed: all of the data is read all
            # the same, and it is the data that damage shows in, not the arithmetic after it.
            simplejpeg.decode_jpeg(image, "GRAY", min_height=1, min_width=1, min_factor=8, strict=True)
        except ValueError as error:
            raise ValueError(f"expected a JPEG, received damaged data: {error}") from None
    return received


def _check_png(image, image_size, verify):
    if len(image) < len(_PNG_START) + _PNG_HEADER.size:
        raise ValueError(f"expected a PNG, received its first {len(image)} bytes")
    kind, width, height = _PNG_HEADER.unpack_from(image, len(_PNG_START))
    if kind != b"IHDR":
        raise ValueError(f"expected a PNG that starts with its header, received {kind}")
    _check_size(image_size, (height, width))
    if not image.rstrip(b"\0").endswith(_PNG_END):
        raise ValueError(f"expected a PNG that ends with its end marker, received {len(image)} bytes without")
    if verify == "full":
        import cv2  # only now: it loads as long as NumPy does, in every worker, and PNGs are rare

        if cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_UNCHANGED) is None:
            raise ValueError("expected a PNG, received one that does not decode")
    return height, width


def _check_size(expected, received):
    if expected is not None and tuple(expected) != tuple(received):
        raise ValueError("expected {}x{}, received {}x{}".format(*expected, *received))


_FOUR_CHANNELS = ("CMYK", "YCCK")  # what simplejpeg calls them


def decode_image(encoded, out, order):
    """Decodes one image into an array that is there.

    JPEGs are decoded by simplejpeg, which holds up no other thread meanwhile and takes a third of
    TensorFlow's time; the pixels are those of `dataset.preprocess.decode`, bit for bit. What simplejpeg
    refuses (a PNG, a JPEG with a fault that can be got over) is left to that function, and so are
    the say on what cannot be decoded, and CMYK, of which the two make other colours.

    Args:
        encoded: bytes, an image.
        out: uint8 array `(height, width, 3)`, contiguous, that gets the pixels.
        order: `"RGB"` or `"BGR"`.

    Raises:
        ValueError: the image cannot be decoded, or has another size than `out`.

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
    """The image, which is in `out` if it fits; `None` where it is for TensorFlow to decode."""
    try:
        if simplejpeg.decode_jpeg_header(encoded)[2] in _FOUR_CHANNELS:
            return None
        return simplejpeg.decode_jpeg(encoded, order, buffer=out)
    except ValueError:
        return None


def _by_tensorflow(encoded, order):
    # TensorFlow only here: checking images does without it.
    import tensorflow as tf

    from dataset.preprocess import decode

    try:
        rgb = decode(tf.constant(encoded)).numpy()
    except tf.errors.OpError as error:
        raise ValueError(
            f"expected an image, received one that cannot be decoded: {error.message.splitlines()[0]}"
        ) from None
    return rgb if order == "RGB" else rgb[..., ::-1]
