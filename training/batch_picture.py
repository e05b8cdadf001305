"""A batch as a picture: what the net gets, for a person to look at."""

import math

import cv2
import numpy as np

from dataset.atomic import atomic_file

_MOST_IMAGES = 64
_MOST_COLUMNS = 8
_SMALLEST_CELL = 96  # pixels wide; smaller images are enlarged
_STRIP = 16  # pixels for the label below each image


def write_batch_picture(path, images, labels, group=1):
    """Draws the images of a batch with their labels below them, in the batch's order.

    Args:
        path: Path of a PNG; its folder is made. An existing file is replaced.
        images: float `(batch, height, width, 3)` as the net gets them, `(pixel - 127.5) / 128`, BGR. One that
            holds RGB looks blue: so a wrong order of channels is seen.
        labels: sequence of str, one per image.
        group: int > 0, images that belong together; a group is not broken over two rows where
            it fits into one. Defaults to `1`.

    Raises:
        OSError: it cannot be written.
    """
    images = np.clip(np.rint(np.asarray(images)[:_MOST_IMAGES] * 128.0 + 127.5), 0, 255).astype(np.uint8)
    height, width = images.shape[1:3]
    factor = max(1, math.ceil(_SMALLEST_CELL / width))
    height, width = height * factor, width * factor
    columns = min(len(images), _MOST_COLUMNS // group * group or _MOST_COLUMNS)
    rows = math.ceil(len(images) / columns)
    # White lines of two pixels between the cells.
    picture = np.full((rows * (height + _STRIP + 2), columns * (width + 2), 3), 255, np.uint8)
    for number, (image, label) in enumerate(zip(images, labels, strict=False)):
        row, column = divmod(number, columns)
        top, left = row * (height + _STRIP + 2), column * (width + 2)
        picture[top : top + height, left : left + width] = cv2.resize(
            image, (width, height), interpolation=cv2.INTER_NEAREST
        )
        cell = picture[top + height : top + height + _STRIP, left : left + width]
        cv2.putText(cell, label, (2, 12), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (0, 0, 0), 1, cv2.LINE_AA)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        file.write(cv2.imencode(".png", picture)[1].tobytes())
