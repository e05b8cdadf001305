"""Finds the faces of a frame, aligns them, and measures how usable they are."""

from __future__ import annotations

import dataclasses
import time
from typing import Protocol

import cv2
import numpy as np

from dataset.align.alignment import align_face, face_template, similarity_transform
from dataset.align.detector import FaceDetector
from eval.recognition.sources import Frame

# The larger a picture is compared with the smallest face to find, the longer the detector takes.
_MIN_FACE_SIZE, _MIN_FACE_FRACTION = 20, 1 / 24

# Largest distance of the five points of a plausible face to the template: the root mean square, as a fraction
# of the aligned face's height. A face in full profile reaches 0.08.
_MAX_MISFIT = 0.09


class Detector(Protocol):
    """Finds faces in a picture."""

    def find(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns boxes, points and scores; see `dataset.align.detector.FaceDetector.find`."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Face:
    """A face in one frame.

    Args:
        frame: number of the frame.
        time: seconds from the start of the video, 0 for pictures.
        box: float `(4,)`: left, top, right, bottom, in pixels of the upright frame.
        points: float `(5, 2)`, as in `dataset.align.alignment`.
        score: the detector's probability that this is a face, 0.7 to 1.
        image: aligned face, uint8 `(*face_size, 3)`, RGB. `None` if it is not among the best of its track.
        sharpness: variance of the Laplacian of the aligned grey face.
        frontality: 1 if the nose is in the middle between the eyes, 0 if it is below or beyond one of them.
        rejected: why the face is not used, or `None`.
    """

    frame: int
    time: float
    box: np.ndarray
    points: np.ndarray
    score: float
    image: np.ndarray | None
    sharpness: float
    frontality: float
    rejected: str | None

    @property
    def size(self) -> float:
        """Side in pixels of a square with the area of the box."""
        return float(np.sqrt((self.box[2] - self.box[0]) * (self.box[3] - self.box[1])))


def find_faces(
    frame: Frame,
    face_size: tuple[int, int],
    min_score: float,
    min_face_size: int | None = None,
    detector: Detector | None = None,
    seconds: dict[str, float] | None = None,
) -> list[Face]:
    """Finds and aligns the faces of a frame.

    Args:
        frame: the picture to search.
        face_size: `(height, width)` of the aligned faces.
        min_score: faces with a lower score are rejected.
        min_face_size: smallest face to find, in pixels. Defaults to 1/24 of the picture's shorter side, and
            at least 20, so that pictures of all sizes take the same time.
        detector: finds the faces. Defaults to MTCNN.
        seconds: seconds by stage. The times of `"detecting"` and `"aligning"` are added to it.

    Returns:
        The faces from left to right, rejected ones included.
    """
    image = frame.image
    if min_face_size is None:
        min_face_size = max(_MIN_FACE_SIZE, round(_MIN_FACE_FRACTION * min(image.shape[:2])))
    detector = detector or FaceDetector(min_face_size)
    start = time.perf_counter()
    boxes, points, scores = detector.find(image)
    found = time.perf_counter()
    faces = [
        _make_face(frame, image, boxes[i], points[i], float(scores[i]), face_size, min_score)
        for i in np.lexsort(boxes.T[::-1])
    ]
    if seconds is not None:
        seconds["detecting"] += found - start
        seconds["aligning"] += time.perf_counter() - found
    return faces


def _make_face(frame, image, box, points, score, face_size, min_score):
    rejected = misplaced_points(box, points)
    if rejected is None and score < min_score:
        rejected = f"the detector's score is {score:.2f}, less than {min_score:g}"
    if rejected is None:
        aligned = align_face(image, points, face_size)
    else:  # The face is only shown, and its points may be unusable, so it is placed by its box.
        sides = box[2:] - box[:2]
        aligned = align_face(image, box[:2] + face_template((112, 112)) / 112 * sides.max(), face_size)
    sharpness = measure_sharpness(aligned)
    return Face(
        frame.number, frame.time, box, points, score, aligned, sharpness, frontality(points), rejected
    )


def measure_sharpness(face: np.ndarray) -> float:
    """Returns the variance of the Laplacian of a face, uint8 `(height, width, 3)`, RGB."""
    return float(cv2.Laplacian(cv2.cvtColor(face, cv2.COLOR_RGB2GRAY), cv2.CV_64F).var())


def misplaced_points(box: np.ndarray, points: np.ndarray) -> str | None:
    """Returns why five points cannot be those of a face in this box, or `None` if they can.

    Args:
        box: float `(4,)`: left, top, right, bottom, in pixels.
        points: float `(5, 2)`, as in `dataset.align.alignment`.
    """
    template = face_template((112, 112))
    try:
        transform = similarity_transform(points, template)
    except ValueError:
        return "its eyes, nose and mouth are not where a face has them"
    fitted = points @ transform[:, :2].T + transform[:, 2]
    misfit = np.sqrt(np.square(fitted - template).sum(axis=1).mean()) / 112
    if misfit > _MAX_MISFIT:
        return "its eyes, nose and mouth are not where a face has them"
    margin = 0.1 * (box[2:] - box[:2])
    if np.any(points < box[:2] - margin) or np.any(points > box[2:] + margin):
        return "its eyes, nose and mouth are outside of its box"
    return None


def frontality(points: np.ndarray) -> float:
    """Estimates from the five points how much a face looks into the camera.

    Measured along the line through the eyes, the nose of a frontal face is halfway between them.

    Args:
        points: float `(5, 2)`, as in `dataset.align.alignment`.

    Returns:
        1 for a nose in the middle, falling linearly to 0 at the position of an eye.

    Example:

    >>> frontality(np.array([(0, 0), (4, 0), (3, 2), (1, 4), (3, 4)]))
    0.5
    """
    left, right, nose = points[:3]
    axis = right - left
    length = axis @ axis
    if not length > 0:
        return 0.0
    position = (nose - left) @ axis / length
    return float(np.clip(1 - abs(2 * position - 1), 0, 1))
