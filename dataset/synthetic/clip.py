"""Writes a drawn video call of three people, and photographs of two of them."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from common.files import write_file
from dataset.images import decode_picture
from dataset.synthetic.files import Draw, identity_name
from dataset.video_writer import write_video

FRAMES_PER_SECOND = 12

_TILE = (288, 288)  # pixels, (height, width) of the picture of one person
_FACE = 176  # pixels, side of the square with the drawn face in it
_FADE = 12  # pixels, width of the edge where the square fades into the background
_DRIFT = 18  # pixels, largest movement of a face in each direction
_SECONDS = 6
# Seconds between which each of the three people is visible. The third has no photograph.
_PRESENT = ((0.0, 4.5), (1.0, 6.0), (2.5, 6.0))
_EMPTY = (38, 42, 48)


def write_people(folder: Path, draw: Draw, identities: Sequence[int], num_images: int) -> None:
    """Writes a gallery: one folder per identity, named after it, with `num_images` pictures of its face."""
    jobs = [(identity, number) for identity in identities for number in range(num_images)]
    for (identity, number), image in zip(jobs, draw(jobs, folder.name), strict=True):
        picture = _place(decode_picture(image), 0.0)
        encoded = cv2.imencode(".jpg", picture[..., ::-1])[1].tobytes()
        write_file(folder / identity_name(identity) / f"{number}.jpg", encoded)


def write_call(path: Path, draw: Draw, identities: Sequence[int], video: int) -> None:
    """Writes a video of 6 seconds in which three people come and go, side by side.

    Args:
        path: video file to write.
        draw: draws the frames.
        identities: the three people.
        video: number of the video of each person to show.
    """
    num_frames = _SECONDS * FRAMES_PER_SECOND
    jobs = [(identity, video, frame, num_frames) for identity in identities for frame in range(num_frames)]
    faces = list(draw(jobs, path.stem))
    write_video(
        path, _frames([faces[start : start + num_frames] for start in range(0, len(faces), num_frames)])
    )


def _frames(people: list[list[bytes]]) -> Iterator[tuple[np.ndarray, float]]:
    empty = np.full((*_TILE, 3), _EMPTY, np.uint8)
    for frame, images in enumerate(zip(*people, strict=True)):
        time = frame / FRAMES_PER_SECOND
        tiles = [
            _place(decode_picture(image), time + number) if start <= time < stop else empty
            for number, (image, (start, stop)) in enumerate(zip(images, _PRESENT, strict=True))
        ]
        yield np.hstack(tiles), time


def _place(face: np.ndarray, phase: float) -> np.ndarray:
    """Puts a drawn square into a larger picture. Its position depends on the phase, in seconds."""
    picture = cv2.GaussianBlur(cv2.resize(face, _TILE[::-1]), (0, 0), 24).astype(np.float32)
    face = cv2.resize(face, (_FACE, _FACE), interpolation=cv2.INTER_CUBIC)
    inside = np.pad(np.ones((_FACE - 2 * _FADE,) * 2, np.float32), _FADE)
    weight = cv2.GaussianBlur(inside, (0, 0), _FADE / 2)[..., None]
    shift = _DRIFT * np.sin([1.3 * phase, 0.9 * phase + 1.0])
    top, left = np.round((np.array(_TILE) - _FACE) / 2 + shift).astype(int)
    place = picture[top : top + _FACE, left : left + _FACE]
    place += weight * (face - place)
    return np.round(picture).astype(np.uint8)
