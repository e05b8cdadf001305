"""Verification sets in one file: pairs of face images, each of one person or of two."""

import collections.abc
import dataclasses
from pathlib import Path

import cv2
import numpy as np

from dataset.pairs.safe_pickle import load_plain


@dataclasses.dataclass(frozen=True, eq=False)
class PairSet:
    """Pairs of aligned faces, in the order of the file: pair `i` is images `2i` and `2i + 1`.

    Attributes:
        images: sequence of uint8 RGB arrays, all of one shape `(height, width, 3)`. Encoded
            images stay encoded in memory and are decoded when they are asked for.
        is_same: bool array, shape `(num_pairs,)`.
    """

    images: collections.abc.Sequence
    is_same: np.ndarray

    def __len__(self):
        return len(self.is_same)

    @property
    def image_size(self):
        """`(height, width)` of every image."""
        return self.images[0].shape[:2]

    def batch(self, start, stop):
        """Images `start` to `stop`, the last batch as short as it comes out.

        Args:
            start: int, number of the first image, from 0.
            stop: int, number after the last one; what lies past the end is left away.

        Returns:
            uint8 array, shape `(num_images, height, width, 3)`, RGB.

        Raises:
            ValueError: there is no image from `start` to `stop`, or one of them cannot be
                decoded or has another size than the first image.
        """
        numbers = range(len(self.images))[start:stop]
        if not numbers:
            raise ValueError(f"expected some of {len(self.images)} images, received {start} to {stop}")
        return np.stack([self.images[number] for number in numbers])


_LAYOUTS = "expected a pickle of (images, is_same) or of (positives, negatives)"
_CONVERSIONS = {"rgb": lambda image: image, "bgr": lambda image: image[..., ::-1]}


def read_pairs(path, order="rgb"):
    """Reads a verification set, in either of the two layouts that are about.

    A `.bin` of InsightFace is a pickle of `(images, is_same)`: encoded images, two to a
    pair. The original's `lfw.np` is a pickle of `(positives, negatives)`: lists of
    `[image1, image2]`, uint8 arrays. Which one it is, the content tells. The file is
    opened without running anything in it.

    Args:
        path: str or Path.
        order: `"rgb"` or `"bgr"`, the channel order of a `(positives, negatives)` file.
            Encoded images carry their own. Defaults to `"rgb"`, as the published file has.

    Returns:
        A `PairSet`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not such a file, or one that asks to run code. The message names it.
    """
    if order not in _CONVERSIONS:
        raise ValueError(f"{path}: expected channel order {' or '.join(_CONVERSIONS)}, received '{order}'")
    path = Path(path)
    content = load_plain(path)
    if not isinstance(content, list | tuple) or len(content) != 2:
        raise ValueError(f"{path}: {_LAYOUTS}, received {_describe(content)}")
    first, second = content
    if not _is_list(first) or not _is_list(second):
        raise ValueError(f"{path}: {_LAYOUTS}, received {_describe(first)} and {_describe(second)}")
    if any(isinstance(item, bytes) for item in first[:1]):
        return _encoded_pairs(path, first, second)
    return _array_pairs(path, first, second, order)


def read_image_pairs(path, prefix):
    """Reads a list of image pairs, such as the original's `ytf_img_pair.txt`.

    Args:
        path: str or Path; lines `same,first_image,second_image` with `same` 0 or 1, empty ones are
            skipped.
        prefix: str or Path, the folder that the images' paths start at.

    Returns:
        A `PairSet`; the images are read when they are asked for.

    Raises:
        FileNotFoundError: no such list, or an image that it names is not there.
        ValueError: a line that cannot be read, no pairs, or an image that cannot be decoded.
    """
    path, prefix = Path(path), Path(prefix)
    images, is_same = [], []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if not line.strip():
            continue
        fields = [field.strip() for field in line.split(",")]
        if len(fields) != 3 or fields[0] not in ("0", "1"):
            raise ValueError(
                f"{path}: line {number}: expected same,first_image,second_image, received {line!r}"
            )
        is_same.append(fields[0] == "1")
        images += [prefix / field for field in fields[1:]]
    if not images:
        raise ValueError(f"{path}: expected lines same,first_image,second_image, received none")
    missing = [image for image in images if not image.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{path}: {len(missing)} of {len(images)} images are missing, first {missing[0]}"
        )
    return PairSet(_Images(path, images, lambda image: _decode(image.read_bytes())), np.array(is_same))


class _Images(collections.abc.Sequence):
    """Stored images, converted to RGB one at a time."""

    def __init__(self, path, stored, to_rgb):
        self._path = path
        self._stored = stored
        self._to_rgb = to_rgb
        self._shape = self._convert(0).shape

    def __len__(self):
        return len(self._stored)

    def __getitem__(self, number):
        image = self._convert(number)
        _check_size(self._path, number, image.shape, self._shape)
        return image

    def _convert(self, number):
        image = self._to_rgb(self._stored[number])
        if image is None:
            raise ValueError(
                f"{self._path}: image {number}: expected an encoded image, "
                f"received {_describe(self._stored[number])} that cannot be decoded"
            )
        return image


def _encoded_pairs(path, stored, is_same):
    for number, answer in enumerate(is_same):
        if not isinstance(answer, int | np.bool | np.integer) or answer not in (0, 1):
            raise ValueError(f"{path}: pair {number}: expected a boolean, received {_describe(answer)}")
    if len(stored) != 2 * len(is_same):
        raise ValueError(
            f"{path}: expected {2 * len(is_same)} images for {len(is_same)} pairs, received {len(stored)}"
        )
    for number, item in enumerate(stored):
        if not isinstance(item, bytes):
            raise ValueError(f"{path}: image {number}: expected bytes, received {_describe(item)}")
    return PairSet(_Images(path, stored, _decode), np.array(is_same, bool))


def _array_pairs(path, positives, negatives, order):
    stored = []
    for pair in (*positives, *negatives):
        if not _is_list(pair) or len(pair) != 2:
            raise ValueError(
                f"{path}: pair {len(stored) // 2}: expected [image1, image2], received {_describe(pair)}"
            )
        stored.extend(pair)
    if not stored:
        raise ValueError(f"{path}: {_LAYOUTS}, received no pairs")
    for number, item in enumerate(stored):
        is_image = isinstance(item, np.ndarray) and item.ndim == 3 and item.shape[2] == 3
        if not is_image or item.dtype != np.uint8:
            raise ValueError(
                f"{path}: image {number}: expected a uint8 array (height, width, 3), "
                f"received {_describe(item)}"
            )
        _check_size(path, number, item.shape, stored[0].shape)
    images = _Images(path, stored, _CONVERSIONS[order])
    return PairSet(images, np.repeat([True, False], [len(positives), len(negatives)]))


def _decode(encoded):
    try:
        return cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error:  # of no bytes, or of a size past its limit; from all else broken comes None
        return None


def _check_size(path, number, shape, expected):
    if shape != expected:
        raise ValueError(
            f"{path}: image {number}: expected {expected[0]}x{expected[1]} as image 0 has, "
            f"received {shape[0]}x{shape[1]}"
        )


def _is_list(value):
    return isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim > 0)


def _describe(value):
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype}, shape {value.shape}"
    if isinstance(value, list | tuple | bytes | str):
        return f"{type(value).__name__} of length {len(value)}"
    return repr(value)
