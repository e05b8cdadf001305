"""Aligns one face: fits a similarity transform to its five points and warps the picture.

Points are `(x, y)` in pixels, with `(0, 0)` at the centre of the first pixel. Their order is left eye, right
eye, nose, left mouth corner, right mouth corner. Left and right are those of the picture.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import ArrayLike

from dataset.align.detector import FaceDetector, choose_face
from dataset.align.options import IMAGE_SIZES, FaceOptions
from dataset.images import MAX_PIXELS, check_image, decode_picture

NO_FACE, CENTRE_CROP, UNREADABLE = "no face", "centre crop", "unreadable"

# InsightFace, `src/common/face_preprocess.py::preprocess`: the template at 112x112.
_TEMPLATE = np.array(
    [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)]
)
_NARROW_OFFSET = 8  # columns that 112x96 lacks on each side

# Size and place of the face in a picture that was cropped to a detector's box, in fractions of the shorter
# side, measured on photographs of LFW. InsightFace uses the whole picture, where the face is half as large.
_CENTRE_SIDE = 0.54
_CENTRE_RISE = 0.03

_MIN_SCALE = 1e-6  # For a mirror image, the best fit has a scale of about 0.


def align_picture(
    detector: FaceDetector, options: FaceOptions, data: bytes, max_pixels: int = MAX_PIXELS
) -> tuple[bytes | None, tuple[str, str] | None]:
    """Turns a JPEG or PNG into an aligned face. The EXIF orientation is applied first.

    Args:
        detector: finds the faces.
        options: image size, JPEG quality, choice of the face, and what to do without a face.
        data: content of the picture's file.
        max_pixels: largest picture to decode.

    Returns:
        `(image, failure)`. The image is a JPEG, or `None`. The failure is `None`, or `(kind, reason)` where
        the kind is `"no face"`, `"centre crop"` (which has an image) or `"unreadable"`.
    """
    try:
        check_image(data, max_pixels=max_pixels)  # OpenCV alone would accept half a file.
        picture = decode_picture(data, upright=True, max_pixels=max_pixels)
    except ValueError as error:
        return None, (UNREADABLE, str(error))
    failure = None
    try:
        boxes, points = detector.detect(picture)
        if not len(boxes):
            raise ValueError("expected a face, received none")
        chosen = choose_face(boxes, picture.shape[:2], options.face)
        face = align_face(picture, points[chosen], options.image_size)
    except (ValueError, IndexError, cv2.error) as error:  # An error of the detector must not end a long run.
        if options.fallback == "none":
            return None, (NO_FACE, str(error))
        face, failure = centre_crop(picture, options.image_size), (CENTRE_CROP, str(error))
    quality = [cv2.IMWRITE_JPEG_QUALITY, options.quality]
    return cv2.imencode(".jpg", face[..., ::-1], quality)[1].tobytes(), failure


def face_template(image_size: tuple[int, int]) -> np.ndarray:
    """Returns the target positions of the five points, float64 `(5, 2)`.

    Args:
        image_size: `(height, width)`, one of `IMAGE_SIZES`.

    Raises:
        ValueError: no net is trained for this size.
    """
    if image_size not in IMAGE_SIZES:
        raise ValueError("image_size: expected 112x112 or 112x96, received {}x{}".format(*image_size))
    return _TEMPLATE - (_NARROW_OFFSET * (image_size == (112, 96)), 0)


def similarity_transform(source: ArrayLike, target: ArrayLike) -> np.ndarray:
    """Fits a rotation, scale and shift without reflection to pairs of points, by least squares.

    With points as complex numbers the transform is `z -> a z + b`, so `a` is the regression coefficient of
    the targets on the centred sources.

    References:
    - Umeyama, "Least-squares estimation of transformation parameters between two point patterns", 1991

    Args:
        source, target: float `(num_points, 2)`.

    Returns:
        float64 `(2, 3)`: `transform @ (x, y, 1)` maps a source point `(x, y)` to its target.

    Raises:
        ValueError: points are not finite, or do not determine rotation and scale because they coincide or are
            mirrored.
    """
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    if not (np.isfinite(source).all() and np.isfinite(target).all()):
        raise ValueError(f"expected finite points, received {source.tolist()} and {target.tolist()}")
    z, w = source @ (1, 1j), target @ (1, 1j)
    centred = z - z.mean()
    spread = np.vdot(centred, centred).real
    a = np.vdot(centred, w) / spread if spread > 0 else 0
    if abs(a) < _MIN_SCALE:
        raise ValueError(
            "expected points that determine rotation and scale, "
            f"received {source.tolist()} for {target.tolist()}"
        )
    b = w.mean() - a * z.mean()
    return np.array([(a.real, -a.imag, b.real), (a.imag, a.real, b.imag)])


def align_face(image: np.ndarray, points: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """Crops a face so that its points are as near to the template as possible.

    Args:
        image: uint8 `(rows, columns, 3)`.
        points: float `(5, 2)`, positions in the image.
        image_size: `(height, width)`, one of `IMAGE_SIZES`.

    Returns:
        uint8 `(*image_size, 3)`, interpolated linearly. As in InsightFace, pixels outside the picture are
        black.

    Raises:
        ValueError: the points do not determine a transform, see `similarity_transform`.
    """
    return _warp(image, similarity_transform(points, face_template(image_size)), image_size)


def centre_crop(image: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """Crops the likely place of the face in a picture that was already cropped to a detector's box.

    Photographs of LFW and the frames of YouTube Faces' `aligned_images_DB` are such pictures. The centre of
    the crop is a little above that of the picture, so that the eyes are at the template's height.

    Args:
        image: uint8 `(rows, columns, 3)`.
        image_size: `(height, width)` of the crop.

    Returns:
        uint8 `(*image_size, 3)`.
    """
    rows, columns = image.shape[:2]
    height, width = image_size
    shorter = min(rows, columns)
    scale = height / (_CENTRE_SIDE * shorter)
    x, y = (columns - 1) / 2, (rows - 1) / 2 - _CENTRE_RISE * shorter
    transform = [(scale, 0, (width - 1) / 2 - scale * x), (0, scale, (height - 1) / 2 - scale * y)]
    return _warp(image, np.array(transform, np.float64), image_size)


def _warp(image, transform, image_size):
    return cv2.warpAffine(image, transform, image_size[::-1], flags=cv2.INTER_LINEAR)
