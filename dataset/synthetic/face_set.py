"""Writes a complete set of drawn faces, for training, validation and testing."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from common.files import atomic_folder
from common.options import option
from common.processes import worker_map
from common.progress import Progress
from dataset.synthetic.clip import write_call, write_people
from dataset.synthetic.drawing import PLAN_STREAM, draw_frame, draw_image
from dataset.synthetic.files import CONFIG, NUM_FOLDS, write_pairs, write_sheet, write_source, write_videos

logger = logging.getLogger(__name__)

_PARAMETERS_NAME = "synthetic.json"
_DRAWING = 2  # increase it when the same parameters no longer give the same set
_NUM_PHOTOGRAPHS = 6  # photographs of each person in the gallery
_FIRST_CALLED = 10  # From this identity on, the small net of the demo can tell the people apart.


@dataclasses.dataclass(frozen=True, kw_only=True)
class FaceSetOptions:
    """Size and folder of a set of drawn faces."""

    out: Path = option(help="folder to create")
    identities: int = option(200, "number of training identities", minimum=2)
    images: int = option(24, "largest number of images per training identity", minimum=1)
    held_out: int = option(60, "number of further identities, for pairs and videos", minimum=3)
    pairs: int = option(
        600, "number of image pairs, half of them genuine, in ten folds; a multiple of 20", minimum=1
    )
    videos: int = option(3, "number of videos per held-out identity", minimum=2)
    frames: int = option(6, "number of frames per video", minimum=1)
    seed: int = option(0, "seed of the drawings; another seed draws other people", minimum=0)
    workers: int | None = option(
        None, "number of processes, which does not affect the images (default: one per core)", minimum=1
    )

    def problems(self) -> Iterator[str]:
        """Yields a sentence for each value out of range."""
        if self.pairs % (2 * NUM_FOLDS):
            yield f"--pairs is {self.pairs}. Give a multiple of {2 * NUM_FOLDS}."
        num_genuine = self.held_out * self.videos * (self.videos - 1) // 2
        if num_genuine < NUM_FOLDS:
            yield (
                f"--held_out, --videos: {self.held_out} identities with {self.videos} videos make "
                f"{num_genuine} genuine pairs. Increase one of them: {NUM_FOLDS} splits need a pair each."
            )


def write_set(options: FaceSetOptions) -> None:
    """Writes the whole set. An existing set with the same parameters is kept.

    A third of the training identities become the source `vgg`, with `images` images each. The others become
    `ms1m`, with `images / 2` to `images` images each. `call.mp4` is a video call of three people, and
    `people` contains photographs of two of them.

    Raises:
        ValueError: the folder has other content.
    """
    out = options.out.resolve()
    sizes = dataclasses.asdict(options)
    del sizes["out"], sizes["workers"]
    parameters = json.dumps({"drawing": _DRAWING, **sizes}, indent=2)
    marker = out / _PARAMETERS_NAME
    if marker.is_file() and marker.read_text() == parameters:
        logger.info("%s: already exists with the same parameters", out)
        return
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise ValueError(
            f"{out}: expected no folder or a set with the same parameters, received other content. "
            "Choose another --out."
        )
    with atomic_folder(out) as partial:
        _write_content(partial, options)
        (partial / _PARAMETERS_NAME).write_text(parameters)
    logger.info("%s: complete; %s shows some of the faces", out, out / "faces.png")


def _write_content(folder, options):
    rng = np.random.default_rng((options.seed, PLAN_STREAM))
    num_vgg = max(1, options.identities // 3)
    trained = range(options.identities)
    tested = range(options.identities, options.identities + options.held_out)
    with worker_map(options.workers or os.cpu_count() or 1, chunk_size=16) as run:

        def draw(draw_one, jobs, name):
            images = run(functools.partial(draw_one, options.seed), *zip(*jobs, strict=True))
            return Progress(images, desc=name, total=len(jobs), unit="images")

        draw_images, draw_frames = functools.partial(draw, draw_image), functools.partial(draw, draw_frame)
        write_source(folder / "vgg", draw_images, trained[:num_vgg], [options.images] * num_vgg)
        least, num_ms1m = (options.images + 1) // 2, options.identities - num_vgg
        sizes = rng.integers(least, options.images + 1, num_ms1m).tolist()
        write_source(folder / "ms1m", draw_images, trained[num_vgg:], sizes)
        write_pairs(folder, draw_images, tested, options.pairs, rng)
        write_videos(folder / "ytf", draw_frames, tested, options.videos, options.frames, rng)
        called = tested[min(_FIRST_CALLED, len(tested) - 3) :][:3]
        write_people(folder / "people", draw_images, called[:2], _NUM_PHOTOGRAPHS)
        write_call(folder / "call.mp4", draw_frames, called, options.videos)
        write_sheet(folder / "faces.png", draw_images, trained, options.images)
    (folder / "config.ini").write_text(CONFIG)
