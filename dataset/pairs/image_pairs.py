"""Reads verification sets, which are genuine and impostor pairs of face images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dataset.images import MAX_FACE_PIXELS, decode_picture
from dataset.pairs.safe_pickle import brief, load_plain
from dataset.pairs.text_lines import quote, read_lines


class PairSet:
    """Pairs of aligned faces, in the order of the file. Pair `i` is images `2i` and `2i + 1`.

    Encoded images stay encoded in memory and are decoded on access.

    Args:
        path: file of the pairs, to name in errors.
        stored: the images, in any form that `to_rgb` accepts.
        to_rgb: function from a stored image to a uint8 array `(height, width, 3)`, RGB.
        is_same: bool array `(num_pairs,)`.

    Raises:
        ValueError: the first image cannot be decoded.
    """

    def __init__(
        self, path: Path, stored: Sequence, to_rgb: Callable[[Any], np.ndarray], is_same: np.ndarray
    ) -> None:
        self.is_same = is_same
        self._path = path
        self._stored = stored
        self._to_rgb = to_rgb
        self._shape = self._decode(0).shape

    def __len__(self) -> int:
        return len(self.is_same)

    @property
    def image_size(self) -> tuple[int, int]:
        """`(height, width)` of every image."""
        return self._shape[:2]

    def digests(self) -> list[str]:
        """Returns the SHA-256 of each stored image, in hexadecimal digits."""
        contents = (item.tobytes() if isinstance(item, np.ndarray) else item for item in self._stored)
        return [hashlib.sha256(content).hexdigest() for content in contents]

    def batch(self, start: int, stop: int) -> np.ndarray:
        """Decodes images `start` to `stop` (exclusive). The last batch may be shorter.

        Returns:
            uint8 `(num_images, height, width, 3)`, RGB.

        Raises:
            ValueError: the range contains no image, or an image cannot be decoded or has another size than
                the first one.
        """
        numbers = range(len(self._stored))[start:stop]
        if not numbers:
            raise ValueError(
                f"expected a range of the {len(self._stored)} images, received {start} to {stop}"
            )
        images = [self._decode(number) for number in numbers]
        for number, image in zip(numbers, images, strict=True):
            _check_size(self._path, number, image.shape, self._shape)
        return np.stack(images)

    def _decode(self, number):
        try:
            return self._to_rgb(self._stored[number])
        except ValueError as error:
            raise ValueError(f"{self._path}: image {number}: {error}") from None


_LAYOUTS = "expected a pickle of (images, is_same) or of (positives, negatives)"
# Limits memory: an array takes 200 bytes more in memory than in the file, and may have one pixel or none.
_MOST_ARRAY_PAIRS = 500_000
_CONVERSIONS = {"rgb": lambda image: image, "bgr": lambda image: image[..., ::-1]}


def read_pairs(path: Path, order: str = "rgb") -> PairSet:
    """Reads a verification set in one of the two published layouts. The content determines the layout.

    InsightFace's `.bin` is a pickle of `(images, is_same)` with encoded images, two per pair. The original's
    `lfw.np` is a pickle of `(positives, negatives)`, which are lists of `[image1, image2]` as uint8 arrays.
    Reading never runs code from the file.

    Args:
        path: file to read.
        order: `"rgb"` or `"bgr"`, the channel order of a `(positives, negatives)` file. It has no effect on
            encoded images. Defaults to `"rgb"`, the order of the published file.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file has another layout, or contains code. The message names the file.
    """
    content = load_plain(path)
    if not isinstance(content, list | tuple) or len(content) != 2:
        raise ValueError(f"{path}: {_LAYOUTS}, received {_describe(content)}")
    first, second = content
    if not _is_list(first) or not _is_list(second):
        raise ValueError(f"{path}: {_LAYOUTS}, received {_describe(first)} and {_describe(second)}")
    if any(isinstance(item, bytes) for item in first[:1]):
        return _encoded_pairs(path, first, second)
    return _array_pairs(path, first, second, order)


def read_image_pairs(path: Path, prefix: Path) -> PairSet:
    """Reads a list of image pairs, such as the original's `ytf_img_pair.txt`.

    Args:
        path: text file with lines `same,first_image,second_image`, where `same` is 0 or 1. Empty lines are
            ignored.
        prefix: folder that the paths of the images are relative to. The images are read on access.

    Raises:
        FileNotFoundError: the list or one of its images does not exist.
        ValueError: a line cannot be read, there are no pairs, or the first image cannot be decoded.
    """
    images, is_same = [], []
    for place, line in read_lines(path):
        fields = [field.strip() for field in line.split(",", 3)]
        if len(fields) != 3 or fields[0] not in ("0", "1"):
            raise ValueError(f"{place}: expected same,first_image,second_image, received {quote(line)}")
        is_same.append(fields[0] == "1")
        images += [prefix / field for field in fields[1:]]
    if not images:
        raise ValueError(f"{path}: expected lines same,first_image,second_image, received none")
    missing = [image for image in images if not image.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{path}: {len(missing)} of {len(images)} images are missing. The first is {missing[0]}."
        )
    return PairSet(path, images, lambda image: _decode(image.read_bytes()), np.array(is_same))


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
    return PairSet(path, stored, _decode, np.array(is_same, bool))


def _decode(encoded):
    return decode_picture(encoded, max_pixels=MAX_FACE_PIXELS)


def _array_pairs(path, positives, negatives, order):
    if len(positives) + len(negatives) > _MOST_ARRAY_PAIRS:
        raise ValueError(
            f"{path}: expected at most {_MOST_ARRAY_PAIRS} pairs of arrays, "
            f"received {len(positives) + len(negatives)}"
        )
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
    is_same = np.repeat([True, False], [len(positives), len(negatives)])
    return PairSet(path, stored, _CONVERSIONS[order], is_same)


def _check_size(path, number, shape, expected):
    if shape != expected:
        raise ValueError(
            f"{path}: image {number}: expected {expected[0]}x{expected[1]}, the size of image 0, "
            f"received {shape[0]}x{shape[1]}"
        )


def _is_list(value):
    return isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim > 0)


def _describe(value):
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype}, shape {value.shape}"
    if isinstance(value, list | tuple | bytes | str):
        return f"{type(value).__name__} of length {len(value)}"
    return brief(value)
