"""The canvas that a face is drawn on."""

import cv2
import numpy as np

_OVERSAMPLING = 2
_SUBPIXEL_BITS = 4


class FaceCanvas:
    """A canvas with the head's pose: shapes are given on the face and land where they are seen.

    The face is the front of an ellipsoid. A point of it is `(x, y)`, as seen from the front, `x` to
    the right and `y` down from the head's centre; its depth follows from the ellipsoid. The head is
    turned, projected in parallel, and moved by the similarity that fits its landmarks best to their
    targets: what an aligner does to a photograph. Proportions and pose so survive as far as they do
    in real aligned crops.

    Shapes are drawn anti-aliased, at twice the size of the finished image.

    Args:
        background: float, shape `(rows, columns, 3)`, RGB from 0 to 255; enlarged smoothly.
        image_size: `(height, width)` of the finished image.
        radii: `(x, y, depth)` of the ellipsoid.
        yaw: float, radians. The face turns to the right.
        pitch: float, radians. The face turns down.
        landmarks: float, shape `(num_landmarks, 3)`: x, y and the height above the ellipsoid.
        targets: float, shape `(num_landmarks, 2)`: where they belong in the finished image.

    Attributes:
        centre: float, shape `(2,)`: the head's centre in the finished image.
        scale: float, pixels of the finished image per unit of length on the head.
    """

    def __init__(self, background, image_size, radii, yaw, pitch, landmarks, targets):
        self._image_size = image_size
        self._radii = np.asarray(radii, float)
        # Places are complex numbers: a similarity, and so all of the projection, is linear in them.
        self._across = np.array([np.cos(yaw) - 1j * np.sin(yaw) * np.sin(pitch), 1j * np.cos(pitch)])
        self._outwards = np.sin(yaw) + 1j * np.cos(yaw) * np.sin(pitch)
        self._offset = 0.0
        seen = self._project(landmarks[:, :2], lift=landmarks[:, 2])
        factor, self._offset = _fit_similarity(seen, targets @ (1, 1j))
        self._across *= factor
        self._outwards *= factor
        self.centre = np.array([self._offset.real, self._offset.imag])
        self.scale = abs(factor)
        height, width = image_size
        self._pixels = cv2.resize(
            background.astype(np.uint8),
            (width * _OVERSAMPLING, height * _OVERSAMPLING),
            interpolation=cv2.INTER_CUBIC,
        )

    def fill(self, points, colour, opacity=1.0, lift=0.0, depth=None):
        """Fills a polygon.

        Args:
            points: float, shape `(num_points, 2)`, on the face.
            colour: float, shape `(3,)`, RGB from 0 to 255.
            opacity: float, at most 1; nothing is drawn from 0 down. Defaults to `1.0`.
            lift: float, or one per point: height above the ellipsoid. Defaults to `0.0`.
            depth: float, in place of the ellipsoid's: for what is not on the face. Defaults to None.
        """
        if opacity <= 0:
            return
        places = self._places(points, lift, depth)
        box = self._box(places, margin=2)
        before = self._pixels[box].copy() if opacity < 1 else None
        _fill(self._pixels, places, colour)
        self._fade(box, before, opacity)

    def line(self, points, colour, width, opacity=1.0, lift=0.0, depth=None):
        """Draws an open line of a width in pixels of the finished image; else as `fill`."""
        if opacity <= 0:
            return
        places = self._places(points, lift, depth)
        thickness = max(1, round(width * _OVERSAMPLING))
        box = self._box(places, margin=2 + thickness)
        before = self._pixels[box].copy() if opacity < 1 else None
        cv2.polylines(self._pixels, [places], False, colour.tolist(), thickness, cv2.LINE_AA, _SUBPIXEL_BITS)
        self._fade(box, before, opacity)

    def fill_inside(self, outline, shapes):
        """Fills polygons only as far as they lie inside an outline, such as an iris between the lids.

        Args:
            outline: float, shape `(num_points, 2)`.
            shapes: list of `(points, colour)`.
        """
        places = self._places(outline)
        mask = np.zeros(self._pixels.shape[:2], np.uint8)
        _fill(mask, places, np.array([255.0]))
        drawn = self._pixels.copy()
        for points, colour in shapes:
            _fill(drawn, self._places(points), colour)
        box = self._box(places, margin=2)
        weight = mask[box][..., None] / 255
        self._pixels[box] = np.rint((1 - weight) * self._pixels[box] + weight * drawn[box])

    def image(self):
        """The finished image: float32, shape `(height, width, 3)`, RGB from 0 to 255."""
        size = self._image_size[::-1]
        return cv2.resize(self._pixels, size, interpolation=cv2.INTER_AREA).astype(np.float32)

    def _project(self, points, lift=0.0, depth=None):
        """Places in the finished image, shape `(num_points,)`, complex."""
        if depth is None:
            inside = 1 - np.sum((points / self._radii[:2]) ** 2, axis=-1)
            depth = self._radii[2] * np.sqrt(np.maximum(inside, 0.0)) + lift
        return points @ self._across + depth * self._outwards + self._offset

    def _places(self, points, lift=0.0, depth=None):
        """Places on the canvas, in OpenCV's fixed-point form."""
        places = self._project(points, lift, depth).view(float).reshape(-1, 2)
        # (0, 0) is the middle of the first pixel, on the canvas as in the image.
        places = (places + 0.5) * _OVERSAMPLING - 0.5
        return np.rint(places * 2**_SUBPIXEL_BITS).astype(np.int32)

    def _box(self, places, margin):
        low = np.maximum((places.min(axis=0) >> _SUBPIXEL_BITS) - margin, 0)
        high = np.maximum((places.max(axis=0) >> _SUBPIXEL_BITS) + 1 + margin, 0)
        return slice(low[1], high[1]), slice(low[0], high[0])

    def _fade(self, box, before, opacity):
        """Mixes what was drawn in a box with what was there before."""
        if before is not None and before.size:
            self._pixels[box] = cv2.addWeighted(before, 1 - opacity, self._pixels[box], opacity, 0)


def _fill(pixels, places, colour):
    cv2.fillPoly(pixels, [places], colour.tolist(), cv2.LINE_AA, _SUBPIXEL_BITS)


def _fit_similarity(points, targets):
    """Least-squares `a`, `b` of `a * point + b` in complex numbers, where a similarity is linear."""
    centred = points - points.mean()
    a = np.vdot(centred, targets - targets.mean()) / np.vdot(centred, centred)
    return a, targets.mean() - a * points.mean()
