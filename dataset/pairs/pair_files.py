"""Writes pairs of images in the forms that `dataset.pairs.image_pairs` reads."""

import pickle
from pathlib import Path

from tqdm import tqdm

from common.files import atomic_file
from dataset.images import check_image, decode_picture

_PROTOCOL = 4  # from Python 3.4 on


def check_pair_file(path):
    """Raises `ValueError` where `write_image_pairs` does not know the form from the ending."""
    if Path(path).suffix not in _WRITERS:
        raise ValueError(f"{path}: expected an ending {', '.join(_WRITERS)}, received '{Path(path).suffix}'")


def write_image_pairs(path, root, pairs):
    """Writes a verification set; its form is told by the ending.

    `.bin` is a pickle of `(images, is_same)`: files as they are, two to a pair. `.np` is a pickle of
    `(positives, negatives)`: lists of `[image1, image2]`, uint8 RGB arrays. `.txt` has lines
    `same,first_image,second_image`. The first and the last keep the order of the pairs, the
    second keeps it within each kind. All images are read, and checked, before anything is written.

    Args:
        path: str or Path. An existing file is replaced.
        root: str or Path, the folder that the images are in.
        pairs: sequence of `(first image, second image, is same)`: two paths relative to `root`, and a bool.

    Returns:
        `(height, width)` of the images.

    Raises:
        FileNotFoundError: an image is not there.
        ValueError: another ending, no pairs, images that are damaged or not of one size, or a path
            that cannot stand in a `.txt`.
    """
    path = Path(path)
    check_pair_file(path)
    if not pairs:
        raise ValueError(f"{path}: expected at least one pair of images, received none")
    images, image_size = _read_images(Path(root), pairs)
    with atomic_file(path) as file:
        _WRITERS[path.suffix](file, pairs, images)
    return image_size


def _read_images(root, pairs):
    names = dict.fromkeys(name for *names, _ in pairs for name in names)
    images, damaged, image_size, first = {}, [], None, None
    for name in tqdm(names, desc=root.name, unit=" images", disable=None):
        images[name] = (root / name).read_bytes()
        try:
            received = check_image(images[name], image_size)
        except ValueError as error:
            damaged.append(f"{name}: {error}")
        else:
            image_size, first = received, first or name
    if damaged:
        more = f" (and {len(damaged) - 5} more)" if len(damaged) > 5 else ""
        size = "" if first is None else ", all of one size, {}x{} as {} has".format(*image_size, first)
        raise ValueError(
            f"{root}: expected {len(names)} sound images{size}; {len(damaged)} are not: "
            + "; ".join(damaged[:5])
            + more
        )
    return images, image_size


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
