"""Simulates light, lens and sensor of a camera."""

from __future__ import annotations

import cv2
import numpy as np

from dataset.synthetic.parameters import Capture


def expose(
    image: np.ndarray,
    centre: np.ndarray,
    radii: np.ndarray,
    capture: Capture,
    rng: np.random.Generator,
) -> np.ndarray:
    """Lights an evenly lit image, then blurs it and adds noise that `rng` draws. Returns uint8.

    Args:
        image: float32 `(height, width, 3)`, RGB from 0 to 255.
        centre, radii: `(x, y)` of the head in the image, pixels.
        capture: the circumstances.
    """
    size = image.shape[1::-1]
    image = image * _illumination(size, centre, radii, capture)
    image = 255 * np.power(np.clip(image / 255, 0, 1), np.float32(2**capture.gamma))
    if capture.coarseness > 0:
        small = [round(side / (1 + 2 * capture.coarseness)) for side in size]
        image = cv2.resize(cv2.resize(image, small, interpolation=cv2.INTER_AREA), size)
    if capture.blur > 0.2:
        image = cv2.GaussianBlur(image, (0, 0), capture.blur)
    image += np.float32(capture.noise) * rng.standard_normal(image.shape, dtype=np.float32)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _illumination(size, centre, radii, capture):
    """Lambert's law on the head's ellipsoid. The background is lit as its rim."""
    x = ((np.arange(size[0]) - centre[0]) / radii[0]).astype(np.float32)
    y = ((np.arange(size[1]) - centre[1]) / radii[1]).astype(np.float32)[:, None]
    light = np.array([capture.light_side, capture.light_height, 0.8], np.float32)
    light /= np.linalg.norm(light)
    facing = np.sqrt(np.maximum(1 - x**2 - y**2, np.float32(0.02)))
    lambert = np.clip(x * light[0] + y * light[1] + facing * light[2], 0.0, 1.2)
    contrast = np.float32(capture.light_contrast)
    warmth = 0.18 * capture.temperature
    colour = 2**capture.exposure * np.array([1 + warmth, 1 + 0.05 * capture.tint, 1 - warmth])
    return (1 - contrast + 1.25 * contrast * lambert)[..., None] * colour.astype(np.float32)
