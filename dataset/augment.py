"""Augments training images: shift and zoom, occlusion, colour, low resolution, JPEG compression."""

import dataclasses
import math
from typing import ClassVar

import numpy as np
import tensorflow as tf

from dataset.images import decode_tensor

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in torchvision and JPEG
_INTERPOLATIONS = ("nearest", "bilinear", "area", "bicubic")


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Changes random images of a batch. With the defaults it changes none.

    Each kind of change has its own stream of random numbers, which decides the images to change, and how.
    So turning on one kind does not affect the others. The result is a pure function of images and seed.
    Unchanged images cost no time. The changes follow the order of a real recording: pose, occlusion, light,
    resolution, compression.

    References:
    - [AdaFace](https://arxiv.org/abs/2204.00964), and the authors' `dataset/augmenter.py`: occlusion (there
      `crop_augment`), colour and low resolution, with these ranges, at a probability of 0.2 each
    - InsightFace, `image_iter.py::compress_aug`: JPEG with a quality of 20 to 90
    - The ranges of `crop` are ours: the five points that two detectors find in one photograph of 250x250
      lie 2 to 3 pixels apart, so aligned faces of 112x112 move and scale by a few pixels from frame to frame.

    Args:
        crop: probability, 0 to 1, of a shift and zoom. Pixels from outside the image are black.
        occlusion: probability of making everything outside a box black.
        colour: probability of changing brightness, contrast and saturation.
        low_resolution: probability of scaling down and up again, each with one of four interpolations.
        jpeg: probability of JPEG compression.

    Call arguments:
        images: uint8 `(batch, height, width, 3)`, RGB.
        seed: int32 or int64 `(2,)`.
        rows: int `(batch,)`, positions of the images in a batch of `batch_size`. Defaults to `None`: the
            images are a whole batch.
        batch_size: number of images in the whole batch. It is required with `rows`.

    Returns:
        uint8, same shape as `images`.

    Raises:
        ValueError: a probability is not in `[0, 1]`.

    Example:

    >>> faces = np.zeros((2, 112, 112, 3), "uint8")
    >>> Augmentation(jpeg=1.0)(faces, (0, 1)).shape
    TensorShape([2, 112, 112, 3])
    """

    crop: float = 0.0
    occlusion: float = 0.0
    colour: float = 0.0
    low_resolution: float = 0.0
    jpeg: float = 0.0

    MAX_SHIFT: ClassVar = 0.06  # in both directions, as a fraction of the side: 7 pixels of 112
    MAX_ZOOM: ClassVar = 0.1  # in and out
    VISIBLE_AREA: ClassVar = (0.2, 1.0)  # fraction of the image inside the box
    COLOUR_STRENGTH: ClassVar = 0.5  # largest distance of the factors from 1
    RESOLUTION: ClassVar = (0.2, 1.0)  # side after scaling down, as a fraction
    QUALITY: ClassVar = (20, 90)  # of the JPEG

    def __post_init__(self) -> None:
        for name in ("crop", "occlusion", "colour", "low_resolution", "jpeg"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(
                    f"--augment_{name}: expected a probability in [0, 1], received {getattr(self, name)}"
                )

    def __call__(
        self,
        images: tf.Tensor,
        seed: tf.Tensor,
        rows: np.ndarray | None = None,
        batch_size: int | None = None,
    ) -> tf.Tensor:
        kinds = (
            (self.crop, self._crop),
            (self.occlusion, self._occlude),
            (self.colour, self._colour),
            (self.low_resolution, self._lower_resolution),
            (self.jpeg, self._compress),
        )
        for number, (probability, change) in enumerate(kinds):
            if probability:
                own = tf.random.experimental.stateless_fold_in(tf.cast(seed, tf.int64), number)
                # The first number decides whether to change the image, the others how.
                size = tf.shape(images)[0] if rows is None else batch_size
                draws = tf.random.stateless_uniform((size, 5), own)
                draws = draws if rows is None else tf.gather(draws, rows)
                images = _change_some(images, probability, change, draws)
        return images

    def _crop(self, images, draws):
        height, width = images.shape[1:3]
        centre = 0.5 + self.MAX_SHIFT * (2.0 * draws[:, :2] - 1.0)
        half = 0.5 * (1.0 + self.MAX_ZOOM * (2.0 * draws[:, 2:3] - 1.0))
        boxes = tf.concat([centre - half, centre + half], axis=1)
        # The aligner also leaves black where a photograph ends.
        crops = tf.image.crop_and_resize(
            images, boxes, tf.range(tf.shape(images)[0]), (height, width), extrapolation_value=0.0
        )
        return _as_uint8(crops)

    def _occlude(self, images, draws):
        height, width = images.shape[1:3]
        low, high = self.VISIBLE_AREA
        area = (low + (high - low) * draws[:, 0]) * height * width
        ratio = tf.exp(math.log(4 / 3) * (2.0 * draws[:, 1] - 1.0))
        rows = _mark_interval(tf.sqrt(area / ratio), height, draws[:, 2])
        columns = _mark_interval(tf.sqrt(area * ratio), width, draws[:, 3])
        kept = rows[:, :, None] & columns[:, None, :]
        return tf.where(kept[..., None], images, tf.zeros_like(images))

    def _colour(self, images, draws):
        brightness, contrast, saturation = tf.unstack(
            1.0 + self.COLOUR_STRENGTH * (2.0 * draws[:, :3, None, None] - 1.0), axis=1
        )
        # All three changes are affine, so one matrix applies them. torchvision clips after each of them.
        grey = tf.tile(tf.constant(_LUMA)[:, None], (1, 3))
        mix = grey + saturation * (tf.eye(3) - grey)
        pixels = tf.reshape(tf.cast(images, tf.float32), (-1, images.shape[1] * images.shape[2], 3))
        mean = brightness * tf.reduce_mean(pixels, axis=1, keepdims=True) @ grey
        changed = pixels @ (brightness * contrast * mix) + (1.0 - contrast) * mean
        return tf.reshape(_as_uint8(changed), tf.shape(images))

    def _lower_resolution(self, images, draws):
        size = images.shape[1:3]
        low, high = self.RESOLUTION

        def lower(pair):
            image, (where, down, up, _) = pair[0], tf.unstack(pair[1])
            share = low + (high - low) * where
            small = [tf.maximum(tf.cast(share * side, tf.int32), 1) for side in size]
            return tf.ensure_shape(_resize(_resize(image, small, down), size, up), image.shape)

        return tf.map_fn(
            lower, (images, draws), fn_output_signature=tf.TensorSpec(images.shape[1:], tf.uint8)
        )

    def _compress(self, images, draws):
        low, high = self.QUALITY
        qualities = low + tf.cast(draws[:, 0] * (high - low + 1), tf.int32)

        def compress(pair):
            encoded = tf.raw_ops.EncodeJpegVariableQuality(images=pair[0], quality=pair[1])
            return tf.ensure_shape(decode_tensor(encoded), images.shape[1:])

        return tf.map_fn(
            compress, (images, qualities), fn_output_signature=tf.TensorSpec(images.shape[1:], tf.uint8)
        )


def _change_some(images, probability, change, draws):
    places = tf.where(draws[:, 0] < probability)
    chosen = places[:, 0]
    changed = change(tf.gather(images, chosen), tf.gather(draws[:, 1:], chosen))
    return tf.tensor_scatter_nd_update(images, places, changed)


def _mark_interval(length, side, place):
    """Marks an interval of a side, placed by `place` in `[0, 1)`. Returns bool `(batch, side)`."""
    length = tf.clip_by_value(tf.round(length), 1.0, side)
    start = tf.floor(place * (side - length + 1.0))[:, None]
    pixels = tf.range(side, dtype=tf.float32)
    return (pixels >= start) & (pixels < start + length[:, None])


def _resize(image, size, draw):
    """Resizes one uint8 image. `draw` in `[0, 1)` selects one of four interpolations."""
    branches = [
        lambda method=method: _as_uint8(tf.image.resize(image, size, method)) for method in _INTERPOLATIONS
    ]
    return tf.switch_case(tf.cast(draw * len(branches), tf.int32), branches)


def _as_uint8(pixels):
    if pixels.dtype == tf.uint8:  # after nearest-neighbour interpolation
        return pixels
    return tf.saturate_cast(tf.round(pixels), tf.uint8)
