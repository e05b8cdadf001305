"""Makes templates of faces that are already aligned. It detects no faces and uses every picture."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from dataset.align.alignment import face_template
from dataset.align.options import IMAGE_SIZES
from eval.recognition.faces import Face, measure_sharpness
from eval.recognition.sources import open_source
from eval.recognition.tracks import STAGES, Embedder, FoundTracks, Track, frame_weight
from eval.scoring.templates import pool


def find_aligned(path: Path, embedder: Embedder) -> FoundTracks:
    """Makes one track of all aligned faces of one person.

    Args:
        path: a picture of an aligned face, a folder of them, or a video.
        embedder: the model.

    Raises:
        FileNotFoundError, ValueError: the file cannot be read, or a picture is not an aligned face.
    """
    start = time.perf_counter()
    source = open_source(path)
    problems: list[str] = []
    faces = []
    for frame in source.frames(problems.append):
        image = frame.image
        size = image.shape[:2]
        if size not in IMAGE_SIZES:
            expected = " or ".join("{}x{}".format(*one) for one in IMAGE_SIZES)
            place = path / source.names[frame.number] if source.kind == "folder" else path
            raise ValueError(f"{place}: expected an aligned face of {expected}, received {size[0]}x{size[1]}")
        box = np.array([0, 0, size[1], size[0]], float)
        sharpness = measure_sharpness(image)
        face = Face(frame.number, frame.time, box, face_template(size), 1.0, image, sharpness, 1.0, None)
        faces.append(face)
    read = time.perf_counter()
    embeddings = embedder.embed(np.stack([face.image for face in faces]))
    weights = np.array([frame_weight(*one) for one in zip(faces, embeddings, strict=True)])
    template = rejected = None
    if weights.any():
        lengths = np.linalg.norm(embeddings, axis=1)
        scales = np.divide(weights, lengths, out=np.zeros_like(weights), where=lengths > 0)
        template = pool(embeddings * scales[:, np.newaxis], "mean")
        weights /= weights.sum()
    else:
        rejected = "the model gives embeddings of length 0 for all of its faces"
    track = Track(1, faces, embeddings, weights, template, rejected)
    seconds: dict[str, float] = dict.fromkeys(STAGES, 0.0)
    seconds |= {"reading": read - start, "embedding": time.perf_counter() - read}
    tracks = [track] if rejected is None else []
    return FoundTracks(
        source,
        len(faces),
        len(faces),
        faces[-1].time,
        tracks,
        [] if tracks else [track],
        problems,
        seconds,
    )
