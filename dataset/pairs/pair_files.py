"""Writes pairs of images in the formats that `dataset.pairs.image_pairs` reads."""

import pickle
from collections.abc import Sequence
from pathlib import Path

from common.files import atomic_file
from common.progress import Progress
from dataset.images import MAX_FACE_PIXELS, check_image, decode_picture

_PROTOCOL = 4  # pickle protocol that Python 3.4 and later read
_MOST_LISTED = 5


def write_image_pairs(path: Path, root: Path, pairs: Sequence[tuple[str, str, bool]]) -> tuple[int, int]:
    """Writes a verification set. The suffix of `path` selects the format.

    `.bin` is a pickle of `(images, is_same)` with unchanged image files, two per pair. `.np` is a pickle of
    `(positives, negatives)`, which are lists of `[image1, image2]` as uint8 RGB arrays. `.txt` has lines
    `same,first_image,second_image`. `.bin` and `.txt` keep the order of the pairs, and `.np` keeps it within
    each kind. All images are read and checked before anything is written.

    Args:
        path: file to write, with a suffix of `PAIR_SUFFIXES`. An existing file is replaced.
        root: folder that contains the images.
        pairs: `(first image, second image, is same)`, with paths relative to `root`.

    Returns:
        `(height, width)` of the images.

    Raises:
        FileNotFoundError: an image does not exist.
        ValueError: there are no pairs, images are damaged or differ in size, or a path has a comma or a line
            break, which a `.txt` cannot represent.
    """
    if not pairs:
        raise ValueError(f"{path}: expected at least one pair of images, received none")
    images = _read_images(root, pairs)
    with atomic_file(path) as file:
        _WRITERS[path.suffix](file, pairs, images)
    return check_image(images[pairs[0][0]], verify="header")


def _read_images(root, pairs):
    names = dict.fromkeys(name for *names, _ in pairs for name in names)
    images, damaged, image_size, first = {}, [], None, None
    for name in Progress(names, desc=root.name, unit="images"):
        images[name] = (root / name).read_bytes()
        try:
            received = check_image(images[name], image_size, max_pixels=MAX_FACE_PIXELS)
        except ValueError as error:
            damaged.append(f"{name}: {error}")
        else:
            image_size, first = received, first or name
    if damaged:
        size = "" if image_size is None else " of size {}x{}, the size of {}".format(*image_size, first)
        listed = "; ".join(damaged[:_MOST_LISTED])
        more = f" (and {len(damaged) - _MOST_LISTED} more)" if len(damaged) > _MOST_LISTED else ""
        raise ValueError(
            f"{root}: expected {len(names)} valid images{size}; {len(damaged)} are not: {listed}{more}"
        )
    return images


def _write_bin(file, pairs, images):
    encoded = [images[name] for *names, _ in pairs for name in names]
    pickle.dump((encoded, [bool(is_same) for *_, is_same in pairs]), file, _PROTOCOL)


def _write_np(file, pairs, images):
    arrays = {name: decode_picture(image) for name, image in images.items()}
    positives, negatives = (
        [[arrays[first], arrays[second]] for first, second, is_same in pairs if is_same == kind]
        for kind in (True, False)
    )
    pickle.dump((positives, negatives), file, _PROTOCOL)


def _write_txt(file, pairs, images):
    for name in images:
        if "," in name or name.splitlines() != [name.strip()]:
            raise ValueError(f"{file.name}: expected paths without commas and line breaks, received {name!r}")
    for first, second, is_same in pairs:
        file.write(f"{int(is_same)},{first},{second}\n".encode())


_WRITERS = {".bin": _write_bin, ".np": _write_np, ".txt": _write_txt}
PAIR_SUFFIXES = tuple(_WRITERS)
