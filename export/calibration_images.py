"""Reads the faces on which an int8 export measures the ranges of its activations."""

from pathlib import Path

import numpy as np

from dataset.images import MAX_FACE_PIXELS, SUFFIXES, decode_picture
from dataset.pairs.image_folders import natural_key
from dataset.pairs.image_pairs import read_pairs
from dataset.records.manifest import MANIFEST_NAME, read_manifest
from dataset.sampling.batch_loader import BatchLoader
from dataset.sampling.combine import CombinedSources

NUM_IMAGES = 500  # faces that are drawn by default


def read_calibration_images(
    path: Path, face_size: tuple[int, int], num_images: int = NUM_IMAGES, seed: int = 0
) -> np.ndarray:
    """Draws aligned faces at random, or takes all of them if there are fewer than `num_images`.

    Args:
        path: one of three sources: a folder of converted records; any other folder, whose images and
            subfolders are read; or a file of pairs.
        face_size: `(height, width)` that every image must have.
        num_images: int > 0.
        seed: seed of the draw.

    Returns:
        uint8 `(n, *face_size, 3)`, RGB, `n <= num_images`.

    Raises:
        FileNotFoundError: `path` does not exist.
        ValueError: there is no image, or one is damaged or has another size.
    """
    if (path / MANIFEST_NAME).is_file():
        sources = CombinedSources([read_manifest(path)])
        drawn = _draw(path, sources.num_images, num_images, seed)
        loader = BatchLoader(sources, np.arange(len(drawn)), rgb_sources={0})
        images = loader.load(drawn)[0]
    elif path.is_dir():
        files = sorted(
            (file for file in path.rglob("[!.]*") if file.suffix.lower() in SUFFIXES and file.is_file()),
            key=lambda file: natural_key(str(file.relative_to(path))),
        )
        drawn = _draw(path, len(files), num_images, seed)
        images = _stack([(str(files[number]), _decode(files[number])) for number in drawn])
    else:
        pairs = read_pairs(path)
        drawn = _draw(path, 2 * len(pairs), num_images, seed)
        images = np.concatenate([pairs.batch(number, number + 1) for number in drawn])
    if images.shape[1:3] != face_size:
        raise ValueError(
            "{}: the images are {}x{}, but --face_size is {} {}. Give other images, or another "
            "--face_size.".format(path, *images.shape[1:3], *face_size)
        )
    return images


def _draw(path, num_found, num_images, seed):
    if not num_found:
        raise ValueError(f"{path}: no image found. Give a folder of aligned faces or of converted records.")
    rng = np.random.default_rng(seed)
    return np.sort(rng.choice(num_found, min(num_images, num_found), replace=False))


def _decode(file):
    try:
        return decode_picture(file.read_bytes(), max_pixels=MAX_FACE_PIXELS)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def _stack(named):
    first_name, first = named[0]
    for name, image in named:
        if image.shape != first.shape:
            raise ValueError(
                "{}: expected {}x{} like {}, received {}x{}".format(
                    name, *first.shape[:2], first_name, *image.shape[:2]
                )
            )
    return np.stack([image for _, image in named])
