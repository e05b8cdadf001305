"""Puts faces where the nets expect them: five points, a similarity transform, a warp.

Points are `(x, y)` in pixels, the middle of the first pixel being `(0, 0)`, always in the order left eye,
right eye, nose, left mouth corner, right mouth corner, as the viewer sees them.
"""

import cv2
import numpy as np

from dataset.align.detector import CHOICES, choose_face
from dataset.images import check_image

IMAGE_SIZES = ((112, 112), (112, 96))
FALLBACKS = ("none", "centre")
NO_FACE, CENTRE_CROP, UNREADABLE = "no face", "centre crop", "unreadable"

# InsightFace, `src/common/face_preprocess.py::preprocess`: the template at 112x112.
_TEMPLATE = np.array(
    [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)]
)
_NARROW_OFFSET = 8  # columns that 112x96 lacks on either side

# Where the face is in a picture cut around the box of a detector, as parts of the shorter side. Measured on
# photographs of LFW; the whole picture, which `preprocess` takes, would show the face half as large.
_CENTRE_SIDE = 0.54
_CENTRE_RISE = 0.03

_MIN_SCALE = 1e-6  # a mirror image fits best when it is shrunk to nothing


class FaceAligner:
    """Makes an aligned face of an encoded picture. As picklable as its detector.

    Args:
        detector: `FaceDetector`, or what has its `detect`.
        image_size: `(height, width)`, one of `IMAGE_SIZES`. Defaults to `(112, 112)`.
        face: `"central"` or `"biggest"`, see `choose_face`. Defaults to `"central"`.
        fallback: what becomes of a picture without a face: `"none"`: nothing; `"centre"`: its
            `centre_crop` stands for the face. Defaults to `"none"`.
        quality: int in `[1, 100]`, of the JPEGs. Defaults to `95`.

    Raises:
        ValueError: an option out of range.
    """

    def __init__(self, detector, image_size=(112, 112), face="central", fallback="none", quality=95):
        face_template(image_size)  # checks the size
        if face not in CHOICES:
            raise ValueError(f"face: expected {' or '.join(CHOICES)}, received {face}")
        if fallback not in FALLBACKS:
            raise ValueError(f"fallback: expected {' or '.join(FALLBACKS)}, received {fallback}")
        if not 1 <= quality <= 100:
            raise ValueError(f"quality: expected 1 to 100, received {quality}")
        self.detector = detector
        self.image_size = tuple(image_size)
        self.face = face
        self.fallback = fallback
        self.quality = quality

    def align(self, data):
        """Aligns one picture.

        Args:
            data: bytes, a JPEG or PNG. Its orientation, where it states one, is respected.

        Returns:
            `(image, failure)`: bytes, the JPEG, or `None`; and `None` or `(kind, reason)`, where the kind
            is `"no face"`, `"centre crop"` (with an image) or `"unreadable"`.
        """
        try:
            picture = _decode(data)
        except (ValueError, cv2.error) as error:
            return None, (UNREADABLE, str(error))
        try:
            return self._encode(self._cut_out(picture)), None
        except (ValueError, IndexError, cv2.error) as error:  # a detector's own must not end a long run
            if self.fallback == "none":
                return None, (NO_FACE, str(error))
            return self._encode(centre_crop(picture, self.image_size)), (CENTRE_CROP, str(error))

    def _cut_out(self, picture):
        boxes, points = self.detector.detect(picture)
        if not len(boxes):
            raise ValueError("expected a face, received none")
        return align_face(picture, points[choose_face(boxes, picture.shape[:2], self.face)], self.image_size)

    def _encode(self, image):
        return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, self.quality])[1].tobytes()


def face_template(image_size):
    """Where the five points are to lie.

    Args:
        image_size: `(height, width)`, one of `IMAGE_SIZES`.

    Returns:
        float64 array, shape `(5, 2)`.

    Raises:
        ValueError: another size, for which no net is trained.
    """
    if tuple(image_size) not in IMAGE_SIZES:
        expected = " or ".join("{}x{}".format(*size) for size in IMAGE_SIZES)
        raise ValueError("image_size: expected {}, received {}x{}".format(expected, *image_size))
    narrow = image_size[1] < image_size[0]
    return _TEMPLATE - (_NARROW_OFFSET * narrow, 0)


def similarity_transform(source, target):
    """The rotation, scaling and shift that bring points nearest to others: least squares, no reflection.

    With points as complex numbers it is `z -> a z + b`, so `a` is the regression coefficient of the
    centred targets on the centred sources. In the plane this is the solution of Umeyama, "Least-squares
    estimation of transformation parameters between two point patterns", 1991.

    Args:
        source, target: float, shape `(points, 2)`.

    Returns:
        float64 array, shape `(2, 3)`: `transform @ (x, y, 1)` is where `(x, y)` goes.

    Raises:
        ValueError: shapes that do not match, points that are not finite, or points that leave rotation
            and scale open: all in one place, or a mirror image.
    """
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    if source.ndim != 2 or source.shape != target.shape or source.shape[1] != 2:
        raise ValueError(
            f"expected two arrays of one shape (points, 2), received {source.shape} and {target.shape}"
        )
    if not (np.isfinite(source).all() and np.isfinite(target).all()):
        raise ValueError(f"expected finite points, received {source.tolist()} and {target.tolist()}")
    z, w = source @ (1, 1j), target @ (1, 1j)
    centred = z - z.mean()
    spread = np.vdot(centred, centred).real
    a = np.vdot(centred, w) / spread if spread > 0 else 0
    if abs(a) < _MIN_SCALE:
        raise ValueError(
            f"expected points that tell rotation and scale, received {source.tolist()} for {target.tolist()}"
        )
    b = w.mean() - a * z.mean()
    return np.array([(a.real, -a.imag, b.real), (a.imag, a.real, b.imag)])


def align_face(image, points, image_size=(112, 112)):
    """Cuts a face out of a picture so that its points come nearest to the template.

    Args:
        image: uint8, shape `(rows, columns, 3)`.
        points: float, shape `(5, 2)`, in the picture.
        image_size: `(height, width)`, one of `IMAGE_SIZES`. Defaults to `(112, 112)`.

    Returns:
        uint8, shape `(*image_size, 3)`, interpolated linearly; black outside of the picture, as with
        InsightFace.

    Raises:
        ValueError: as `face_template` and `similarity_transform`.
    """
    return _warp(image, similarity_transform(points, face_template(image_size)), image_size)


def centre_crop(image, image_size=(112, 112)):
    """Cuts out where the face is likely to be in a picture that was itself cut around a detector's box.

    Photographs of LFW and the frames of YouTube Faces' `aligned_images_DB` are such pictures. Eyes come
    to lie at the template's height, so the square's middle is a little above the picture's.

    Args:
        image: uint8, shape `(rows, columns, 3)`.
        image_size: as of `align_face`.

    Returns:
        uint8, shape `(*image_size, 3)`.

    Raises:
        ValueError: as `face_template`.
    """
    face_template(image_size)
    rows, columns = image.shape[:2]
    height, width = image_size
    shorter = min(rows, columns)
    scale = height / (_CENTRE_SIDE * shorter)
    x, y = (columns - 1) / 2, (rows - 1) / 2 - _CENTRE_RISE * shorter
    transform = np.array(
        [(scale, 0, (width - 1) / 2 - scale * x), (0, scale, (height - 1) / 2 - scale * y)], np.float64
    )
    return _warp(image, transform, image_size)


def _decode(data):
    check_image(data)  # OpenCV alone takes half a file for a picture
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if picture is None:
        raise ValueError("expected a JPEG or PNG, received one that does not decode")
    return picture


def _warp(image, transform, image_size):
    height, width = image_size
    return cv2.warpAffine(image, transform, (width, height), flags=cv2.INTER_LINEAR)
