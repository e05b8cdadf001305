"""Encoded image -> pixels at their place in a batch, without a graph."""

import simplejpeg
import tensorflow as tf

from dataset.preprocess import decode

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
    try:
        rgb = decode(tf.constant(encoded)).numpy()
    except tf.errors.OpError as error:
        raise ValueError(
            f"expected an image, received one that cannot be decoded: {error.message.splitlines()[0]}"
        ) from None
    return rgb if order == "RGB" else rgb[..., ::-1]
