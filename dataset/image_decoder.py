"""Encoded image -> pixels at their place in a batch, without a graph."""

import cv2
import numpy as np
import simplejpeg
import tensorflow as tf

from dataset.preprocess import decode

_FOUR_CHANNELS = ("CMYK", "YCCK")  # what simplejpeg calls them


class ImageDecoder:
    """Decodes images one by one, crops their centre and mirrors them, into arrays that are there.

    JPEGs are decoded by simplejpeg, which holds up no other thread meanwhile and takes a third of
    TensorFlow's time; the pixels are those of `dataset.preprocess.decode`, bit for bit. What simplejpeg
    refuses (a PNG, a JPEG with a fault that can be got over) is left to that function, and so are
    the say on what cannot be decoded, and CMYK, of which the two make other colours.

    For one thread: images pass through a buffer of the decoder.

    Args:
        image_size: `(height, width)` that every image must have.
        crop_size: `(height, width)` of the centre that is kept, at most `image_size`.

    Call arguments:
        encoded: bytes, an image.
        out: uint8 array `(*crop_size, 3)`, contiguous, that gets the pixels.
        order: `"RGB"` or `"BGR"`.
        is_mirrored: bool, whether it is turned left to right, before it is cropped.

    Raises:
        ValueError: the image cannot be decoded, or has another size.

    Example:

    >>> decoder, out = ImageDecoder((112, 112), (112, 96)), np.zeros((112, 96, 3), np.uint8)
    >>> decoder(simplejpeg.encode_jpeg(np.full((112, 112, 3), 9, np.uint8)), out, "BGR", False)
    >>> int(out.min())
    9
    """

    def __init__(self, image_size, crop_size):
        self.image_size = tuple(image_size)
        self.crop_size = tuple(crop_size)
        self._whole = np.empty((*self.image_size, 3), np.uint8)
        top, left = ((have - keep) // 2 for have, keep in zip(self.image_size, self.crop_size, strict=True))
        rows = slice(top, top + self.crop_size[0])
        self._crop = self._whole[rows, left : left + self.crop_size[1]]
        # The same columns of the mirrored image; others where the two margins differ.
        end = self.image_size[1] - left
        self._crop_to_mirror = self._whole[rows, end - self.crop_size[1] : end]

    def __call__(self, encoded, out, order, is_mirrored):
        decoded = self._by_simplejpeg(encoded, order)
        if decoded is None:
            decoded = _by_tensorflow(encoded, order)
            if decoded.shape == self._whole.shape:
                self._whole[...] = decoded
        if decoded.shape != self._whole.shape:
            raise ValueError(
                "expected an image of {}x{}, received {}x{}".format(*self.image_size, *decoded.shape)
            )
        if is_mirrored:
            cv2.flip(self._crop_to_mirror, 1, dst=out)  # NumPy takes 25 times as long to turn pixels
        else:
            out[...] = self._crop

    def _by_simplejpeg(self, encoded, order):
        """The image, in the buffer; `None` where it is for TensorFlow to decode."""
        try:
            if simplejpeg.decode_jpeg_header(encoded)[2] in _FOUR_CHANNELS:
                return None
            return simplejpeg.decode_jpeg(encoded, order, buffer=self._whole)
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
