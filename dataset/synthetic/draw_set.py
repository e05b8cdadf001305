"""Draws a small set of made-up faces: training, validation and test with no data to download.

    python -m dataset.synthetic --out data/synthetic

The set has all that a real one has, in the same formats: two training sources, LFW-like pairs,
YouTube-Faces-like videos, and the `config.ini` that names them. The identities of pairs and videos
are not among those to train on. Every image follows from the seed, its identity and its number.
"""

import contextlib
import functools
import json
import logging
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from common.files import atomic_folder
from dataset.synthetic.drawing import draw_face
from dataset.synthetic.files import (
    NUM_FOLDS,
    write_config,
    write_pairs,
    write_sheet,
    write_source,
    write_videos,
)
from dataset.synthetic.parameters import Capture, Face

logger = logging.getLogger(__name__)


_PARAMETERS_NAME = "synthetic.json"

_DRAWING = 1  # to be raised when the same parameters no longer give the same images

_FACE, _IMAGE, _VIDEO, _PLAN = range(4)  # independent random numbers of one seed

_VIDEO_MOTION = 0.5  # how far a video moves from one random picture towards another


def draw_identity(seed, identity):
    """The `Face` of an identity; seed and identity are int >= 0."""
    return Face.sample(np.random.default_rng((seed, _FACE, identity)))


def draw_image(seed, identity, number):
    """One image of an identity, taken independently of the others.

    Args:
        seed: int >= 0.
        identity: int >= 0.
        number: int >= 0, of the image.

    Returns:
        bytes, a JPEG of 112x112.
    """
    rng = np.random.default_rng((seed, _IMAGE, identity, number))
    return _picture(draw_identity(seed, identity), Capture.sample(rng), rng)


def draw_frame(seed, identity, video, frame, num_frames):
    """One frame of a video of an identity, in which pose, light and expression change smoothly.

    Args:
        seed: int >= 0.
        identity: int >= 0.
        video: int >= 0.
        frame: int in `[0, num_frames)`.
        num_frames: int > 0, of the video.

    Returns:
        bytes, a JPEG of 112x112.
    """
    rng = np.random.default_rng((seed, _VIDEO, identity, video))
    first, last = Capture.sample(rng), Capture.sample(rng)
    capture = first.towards(last, _VIDEO_MOTION * frame / max(1, num_frames - 1))
    noise = np.random.default_rng((seed, _VIDEO, identity, video, frame))
    return _picture(draw_identity(seed, identity), capture, noise)


def write_set(
    out, *, identities=200, images=24, held_out=60, pairs=600, videos=3, frames=6, seed=0, workers=None
):
    """Writes the whole set; a set that is there already, of the same parameters, stays as it is.

    A third of the identities to train on are the source `vgg`, with all images each; the others
    are `ms1m`, with half of them to all.

    Args:
        out: str or Path, the folder to make. It appears when it is complete.
        identities: int >= 2, to train on. Defaults to `200`.
        images: int > 0, per identity to train on. Defaults to `24`.
        held_out: int >= 2, identities of pairs and videos. Defaults to `60`.
        pairs: int > 0, a multiple of 20: half are of one identity, in ten folds. Defaults to `600`.
        videos: int >= 2, per identity held out. Defaults to `3`.
        frames: int > 0, per video. Defaults to `6`.
        seed: int >= 0. Defaults to `0`.
        workers: int > 0, processes; the images do not depend on it. Defaults to the number of cores.

    Raises:
        ValueError: an option out of range, or a folder with other content.
    """
    _check_options(identities, images, held_out, pairs, videos, frames, seed, workers)
    out = Path(out).resolve()
    parameters = json.dumps(
        {
            "drawing": _DRAWING,
            "identities": identities,
            "images": images,
            "held_out": held_out,
            "pairs": pairs,
            "videos": videos,
            "frames": frames,
            "seed": seed,
        },
        indent=2,
    )
    if _is_there(out, parameters):
        logger.info("%s: is there already, with the same parameters", out)
        return
    rng = np.random.default_rng((seed, _PLAN))
    num_vgg = max(1, identities // 3)
    trained, tested = range(identities), range(identities, identities + held_out)
    with atomic_folder(out) as partial, _drawing_processes(workers or os.cpu_count()) as draw:
        draw_images = functools.partial(draw, draw_image, seed)
        draw_frames = functools.partial(draw, draw_frame, seed)
        sizes = [images] * num_vgg
        write_source(partial / "vgg", draw_images, trained[:num_vgg], sizes)
        sizes = rng.integers((images + 1) // 2, images + 1, identities - num_vgg).tolist()
        write_source(partial / "ms1m", draw_images, trained[num_vgg:], sizes)
        write_pairs(partial, draw_images, tested, pairs, rng)
        write_videos(partial / "ytf", draw_frames, tested, videos, frames, rng)
        write_sheet(partial / "faces.png", draw_images, trained, images)
        write_config(partial / "config.ini")
        (partial / _PARAMETERS_NAME).write_text(parameters)
    logger.info("%s: complete; %s shows some of the faces", out, out / "faces.png")


def _check_options(identities, images, held_out, pairs, videos, frames, seed, workers):
    for name, value, least in (
        ("identities", identities, 2),
        ("images", images, 1),
        ("held_out", held_out, 2),
        ("videos", videos, 2),
        ("frames", frames, 1),
        ("seed", seed, 0),
        ("workers", 1 if workers is None else workers, 1),
    ):
        if value < least:
            raise ValueError(f"{name}: expected at least {least}, received {value}")
    if pairs < 1 or pairs % (2 * NUM_FOLDS):
        raise ValueError(f"pairs: expected a multiple of {2 * NUM_FOLDS}, received {pairs}")
    num_positives = held_out * videos * (videos - 1) // 2
    if num_positives < NUM_FOLDS:
        raise ValueError(
            f"held_out, videos: expected {NUM_FOLDS} pairs of videos of one identity, one per split, "
            f"received {held_out} identities with {videos} videos, which make {num_positives}"
        )


def _is_there(out, parameters):
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    marker = out / _PARAMETERS_NAME
    if not marker.is_file() or marker.read_text() != parameters:
        raise ValueError(
            f"{out}: expected no such folder, or a set of the same parameters, received other content"
        )
    return True


@contextlib.contextmanager
def _drawing_processes(num_workers):
    """A function like `map` that draws in several processes and shows its progress."""
    with contextlib.ExitStack() as stack:
        run = map
        if num_workers > 1:
            # Forked processes would share the state of OpenCV's threads.
            pool = ProcessPoolExecutor(
                num_workers, multiprocessing.get_context("spawn"), cv2.setNumThreads, (1,)
            )
            run = functools.partial(stack.enter_context(pool).map, chunksize=16)

        def draw(draw_one, seed, jobs, name):
            images = run(functools.partial(draw_one, seed), *zip(*jobs, strict=True))
            return tqdm(images, desc=name, total=len(jobs), unit=" images", disable=None)

        yield draw


def _picture(face, capture, rng):
    image = draw_face(face, capture, rng)
    quality = [cv2.IMWRITE_JPEG_QUALITY, round(capture.jpeg_quality)]
    return cv2.imencode(".jpg", image[..., ::-1], quality)[1].tobytes()
