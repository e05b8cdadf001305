"""Canvas to draw a face on, and the camera that photographs it."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from dataset.align import similarity_transform
from dataset.synthetic.parameters import Capture

IMAGE_SIZE = (112, 112)

_SIZE = IMAGE_SIZE[::-1]  # OpenCV's order: width, height
_OVERSAMPLING = 2
_SUBPIXEL_BITS = 4


class FaceCanvas:
    """A canvas with a head pose: you give shapes on the face, and it draws them where a camera sees them.

    The face is the front of an ellipsoid. A point on it is `(x, y)` in the frontal view, with `x` to the
    right and `y` down from the centre of the head. The ellipsoid adds the depth. The head is turned and
    projected in parallel. Then a similarity transform fits its landmarks to their targets, as an aligner
    does with a photograph. So proportions and pose are as visible as in real aligned crops.

    Shapes are drawn anti-aliased, at twice the size of the finished image.

    Args:
        radii: `(x, y, depth)` of the ellipsoid.
        capture: pose, background, light and camera.
        landmarks: float `(num_landmarks, 3)`: x, y and the height above the ellipsoid.
        targets: float `(num_landmarks, 2)`, positions of the landmarks in the finished image, in pixels.
    """

    def __init__(
        self, radii: tuple[float, float, float], capture: Capture, landmarks: np.ndarray, targets: np.ndarray
    ):
        self._capture = capture
        self._radii = np.asarray(radii, float)
        yaw, pitch = capture.yaw, capture.pitch
        # Positions are complex numbers. Then a similarity is linear, and so is the whole projection.
        self._across = np.array([np.cos(yaw) - 1j * np.sin(yaw) * np.sin(pitch), 1j * np.cos(pitch)])
        self._outwards = np.sin(yaw) + 1j * np.cos(yaw) * np.sin(pitch)
        self._offset = 0.0
        seen = self._project(landmarks[:, :2], lift=landmarks[:, 2])
        transform = similarity_transform(seen.view(float).reshape(-1, 2), targets)
        factor, self._offset = transform[0, [0, 2]] + 1j * transform[1, [0, 2]]
        self._across *= factor
        self._outwards *= factor
        self._scale = abs(factor)  # pixels of the finished image per unit of length on the head
        grey = capture.background.mean(axis=-1, keepdims=True)
        background = (grey + 0.35 * (capture.background - grey)).astype(np.uint8)
        large = [side * _OVERSAMPLING for side in _SIZE]
        self._pixels = cv2.resize(background, large, interpolation=cv2.INTER_CUBIC)

    def fill(self, points: np.ndarray, colour: np.ndarray, opacity: float = 1.0, **place: Any) -> None:
        """Fills a polygon.

        Args:
            points: float `(num_points, 2)`, on the face.
            colour: float `(3,)`, RGB from 0 to 255.
            opacity: at most 1. At 0 and below, nothing is drawn. Defaults to `1.0`.
            **place: `lift` is the height above the ellipsoid, one number or one per point. `depth` replaces
                the depth of the ellipsoid, for shapes that are not on the face.
        """
        self._draw(lambda places: _fill(self._pixels, places, colour), 2, opacity, points, place)

    def line(
        self, points: np.ndarray, colour: np.ndarray, width: float, opacity: float = 1.0, **place: Any
    ) -> None:
        """Draws an open line. `width` is in pixels of the finished image, the rest is as in `fill`."""
        thickness = max(1, round(width * _OVERSAMPLING))
        style = False, colour.tolist(), thickness, cv2.LINE_AA, _SUBPIXEL_BITS

        def draw(places):
            cv2.polylines(self._pixels, [places], *style)

        self._draw(draw, 2 + thickness, opacity, points, place)

    def _draw(self, draw, margin, opacity, points, place):
        """Calls `draw` with positions on the canvas, and blends the result with the pixels before it."""
        if opacity <= 0:
            return
        places = self._places(points, **place)
        box = self._box(places, margin)
        before = self._pixels[box].copy()
        draw(places)
        if opacity < 1 and before.size:
            self._pixels[box] = cv2.addWeighted(before, 1 - opacity, self._pixels[box], opacity, 0)

    def fill_inside(self, outline: np.ndarray, shapes: list[tuple[np.ndarray, np.ndarray]]) -> None:
        """Fills polygons `(points, colour)`, but only inside an outline, such as an iris between the lids."""
        places = self._places(outline)
        mask = np.zeros(self._pixels.shape[:2], np.uint8)
        _fill(mask, places, np.array([255.0]))
        drawn = self._pixels.copy()
        for points, colour in shapes:
            _fill(drawn, self._places(points), colour)
        box = self._box(places, margin=2)
        weight = mask[box][..., None] / 255
        self._pixels[box] = np.rint((1 - weight) * self._pixels[box] + weight * drawn[box])

    def photograph(self, rng: np.random.Generator) -> np.ndarray:
        """Lights and blurs the drawing, and adds noise from `rng`. Returns uint8 `(112, 112, 3)`, RGB."""
        capture = self._capture
        image = cv2.resize(self._pixels, _SIZE, interpolation=cv2.INTER_AREA).astype(np.float32)
        image *= self._illumination(capture)
        image = 255 * np.power(np.clip(image / 255, 0, 1), np.float32(2**capture.gamma))
        if capture.coarseness > 0:
            small = [round(side / (1 + 2 * capture.coarseness)) for side in _SIZE]
            image = cv2.resize(cv2.resize(image, small, interpolation=cv2.INTER_AREA), _SIZE)
        if capture.blur > 0.2:
            image = cv2.GaussianBlur(image, (0, 0), capture.blur)
        image += np.float32(capture.noise) * rng.standard_normal(image.shape, dtype=np.float32)
        return np.clip(np.rint(image), 0, 255).astype(np.uint8)

    def _illumination(self, capture):
        """Returns factors for all pixels by Lambert's law. The background is lit like the head's rim."""
        radii = self._scale * self._radii
        x = ((np.arange(_SIZE[0]) - self._offset.real) / radii[0]).astype(np.float32)
        y = ((np.arange(_SIZE[1]) - self._offset.imag) / radii[1]).astype(np.float32)[:, None]
        light = np.array([capture.light_side, capture.light_height, 0.8], np.float32)
        light /= np.linalg.norm(light)
        facing = np.sqrt(np.maximum(1 - x**2 - y**2, np.float32(0.02)))
        lambert = np.clip(x * light[0] + y * light[1] + facing * light[2], 0.0, 1.2)
        contrast = np.float32(capture.light_contrast)
        warmth = 0.18 * capture.temperature
        colour = 2**capture.exposure * np.array([1 + warmth, 1 + 0.05 * capture.tint, 1 - warmth])
        return (1 - contrast + 1.25 * contrast * lambert)[..., None] * colour.astype(np.float32)

    def _project(self, points, lift: Any = 0.0, depth=None):
        """Returns positions in the finished image, complex `(num_points,)`."""
        if depth is None:
            inside = 1 - np.sum((points / self._radii[:2]) ** 2, axis=-1)
            depth = self._radii[2] * np.sqrt(np.maximum(inside, 0.0)) + lift
        return points @ self._across + depth * self._outwards + self._offset

    def _places(self, points, **place):
        """Returns positions on the canvas, in OpenCV's fixed-point form."""
        places = self._project(points, **place).view(float).reshape(-1, 2)
        # (0, 0) is the centre of the first pixel, on the canvas and in the image.
        places = (places + 0.5) * _OVERSAMPLING - 0.5
        return np.rint(places * 2**_SUBPIXEL_BITS).astype(np.int32)

    def _box(self, places, margin):
        low = np.maximum((places.min(axis=0) >> _SUBPIXEL_BITS) - margin, 0)
        high = np.maximum((places.max(axis=0) >> _SUBPIXEL_BITS) + 1 + margin, 0)
        return slice(low[1], high[1]), slice(low[0], high[0])


def _fill(pixels, places, colour):
    cv2.fillPoly(pixels, [places], colour.tolist(), cv2.LINE_AA, _SUBPIXEL_BITS)
