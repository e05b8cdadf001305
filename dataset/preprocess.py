"""Converts pixels to network input, for training, evaluation and export."""

from typing import NamedTuple

import tensorflow as tf

MEAN, SCALE = 127.5, 128.0


def preprocess(images: tf.Tensor, image_size: tuple[int, int]) -> tf.Tensor:
    """Crops the centre of faces, converts RGB to BGR and normalises: `(pixel - 127.5) / 128`.

    References:
    - margin-centre-face, `dataset/utils.py::process_image` (BGR, crop to 112x96, scale)

    Args:
        images: uint8 `(batch, height, width, 3)`, RGB.
        image_size: `(height, width)` of the network's input.

    Returns:
        float32 `(batch, *image_size, 3)`, BGR, in `[-0.996, 0.996]`.

    Raises:
        ValueError: the images are smaller than `image_size`.
    """
    return normalise(crop_centre(images, image_size)[..., ::-1])


class RawImages(NamedTuple):
    """Training images before the training device converts them to network input.

    Attributes:
        pixels: uint8 `(batch, height, width, 3)`, with the channels in the order of the network's input.
        is_mirrored: bool `(batch,)`, true for images that `to_input` mirrors.
    """

    pixels: tf.Tensor
    is_mirrored: tf.Tensor

    def to_input(self, image_size: tuple[int, int]) -> tf.Tensor:
        """Mirrors, crops and normalises the images. Returns float32 `(batch, *image_size, 3)`."""
        return normalise(crop_centre(mirror(*self), image_size))


def crop_centre(images: tf.Tensor, image_size: tuple[int, int]) -> tf.Tensor:
    """Crops the centre of images. If opposite margins differ by a pixel, the top or left one is smaller.

    Args:
        images: `(batch, height, width, channels)`.
        image_size: `(height, width)` to keep.

    Raises:
        ValueError: the images are smaller than `image_size`.
    """
    height, width = images.shape[1:3]
    if None in (height, width) or height < image_size[0] or width < image_size[1]:
        raise ValueError(f"expected images of at least {tuple(image_size)}, received {(height, width)}")
    top, left = (height - image_size[0]) // 2, (width - image_size[1]) // 2
    return images[:, top : top + image_size[0], left : left + image_size[1]]


def normalise(pixels: tf.Tensor) -> tf.Tensor:
    """Normalises uint8 pixels of any shape to float32 in `[-0.996, 0.996]`: `(pixel - 127.5) / 128`."""
    return (tf.cast(pixels, tf.float32) - MEAN) / SCALE


def mirror(images: tf.Tensor, is_mirrored: tf.Tensor) -> tf.Tensor:
    """Mirrors some images left to right.

    Args:
        images: `(batch, height, width, channels)`.
        is_mirrored: bool `(batch,)`, true for images to mirror.
    """
    # A slice with a negative step takes ten times as long on a CPU.
    return tf.where(is_mirrored[:, None, None, None], tf.reverse(images, [2]), images)


def draw_mirrors(batch_size: int, seed: tf.Tensor) -> tf.Tensor:
    """Chooses which images of a batch to mirror, each with a probability of 0.5.

    Row 3 of docs/fidelity.md: the original defines mirroring and never calls it.

    Args:
        batch_size: number of images.
        seed: int32 or int64 `(2,)`. It alone determines the result.

    Returns:
        bool `(batch_size,)`.
    """
    return tf.random.stateless_uniform((batch_size,), seed) < 0.5
