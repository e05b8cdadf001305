"""Parameters of a drawn face (`Face`), and of one picture of it (`Capture`)."""

from __future__ import annotations

import dataclasses
from typing import Any, Self

import numpy as np


# ruff: noqa: RUF009 -- `_between` makes a `dataclasses.field`
def _between(low, high, shape=None, steady=False) -> Any:
    return dataclasses.field(metadata={"range": (low, high, shape), "steady": steady})


@dataclasses.dataclass(frozen=True, eq=False)
class _Parameters:
    @classmethod
    def sample(cls, rng: np.random.Generator) -> Self:
        """Draws every parameter uniformly from its range."""
        return cls(**{field.name: rng.uniform(*field.metadata["range"]) for field in dataclasses.fields(cls)})


@dataclasses.dataclass(frozen=True, eq=False)
class Face(_Parameters):
    """Parameters of an identity, the same in all of its pictures.

    Lengths are in pixels of the aligned 112x112 crop of a frontal view. Positions are relative to the centre
    of the head, with y pointing down. Angles are in radians. Tones range from 0 to 1. Wrinkles, grey hair,
    beard, moustache, freckles, moles and scar have a strength. If it is negative, the identity has none.
    """

    head_width: float = _between(36.0, 46.0)  # All widths are half widths.
    head_top: float = _between(54.0, 64.0)
    chin: float = _between(47.0, 57.0)
    jaw_taper: float = _between(0.05, 0.42)
    jaw_roundness: float = _between(1.0, 3.5)
    cheek_shadow: float = _between(0.0, 1.0)
    ear_size: float = _between(5.0, 11.0)

    eye_spacing: float = _between(15.5, 19.7)
    eye_level: float = _between(-13.0, -8.0)
    eye_width: float = _between(5.6, 9.2)
    eye_opening: float = _between(1.8, 4.6)
    eye_tilt: float = _between(-0.22, 0.25)
    eye_peak: float = _between(-0.4, 0.4)
    lid_fold: float = _between(0.0, 1.0)
    eye_bag: float = _between(0.0, 1.0)
    iris_size: float = _between(2.3, 3.4)
    iris_tone: float = _between(0.0, 1.0)

    brow_distance: float = _between(5.5, 11.5)
    brow_length: float = _between(7.0, 12.5)
    brow_thickness: float = _between(0.7, 2.9)
    brow_arch: float = _between(-1.0, 4.0)
    brow_tilt: float = _between(-0.28, 0.22)
    brow_tone: float = _between(0.0, 1.0)

    nose_level: float = _between(5.5, 13.5)
    nose_width: float = _between(4.2, 9.6)
    nose_bridge: float = _between(1.4, 3.8)
    nose_height: float = _between(5.0, 13.0)
    nose_shadow: float = _between(0.3, 1.0)

    mouth_level: float = _between(26.5, 34.0)
    mouth_width: float = _between(10.5, 17.5)
    mouth_curve: float = _between(-1.6, 1.6)
    lip_upper: float = _between(0.9, 4.2)
    lip_lower: float = _between(1.4, 5.2)
    lip_bow: float = _between(0.0, 1.5)
    lip_tone: float = _between(0.0, 1.0)

    skin_tone: float = _between(0.0, 1.0)
    skin_warmth: float = _between(-1.0, 1.0)
    wrinkles: float = _between(-0.7, 1.0)

    hair_tone: float = _between(0.0, 1.0)
    hair_grey: float = _between(-1.2, 1.0)
    hairline: float = _between(-64.0, -33.0)
    hairline_curve: float = _between(-9.0, 10.0)
    hair_part: float = _between(-24.0, 24.0)
    hair_volume: float = _between(1.0, 10.0)
    hair_length: float = _between(-25.0, 60.0)

    beard: float = _between(-1.5, 1.0)
    beard_rise: float = _between(0.0, 1.0)
    moustache: float = _between(-1.8, 1.0)

    moles: np.ndarray = _between(-1.0, 1.0, shape=(4, 3))  # x, y, size
    freckles: float = _between(-1.0, 1.0)
    freckle_spots: np.ndarray = _between(-1.0, 1.0, shape=(30, 2))
    scar: np.ndarray = _between(-1.0, 1.0, shape=(5,))  # strength, x, y, angle, length


@dataclasses.dataclass(frozen=True, eq=False)
class Capture(_Parameters):
    """Parameters that differ between pictures of one identity. Steady ones stay the same within a video.

    Angles are in radians. If the strength of an expression, accessory, occluder, blur or coarseness is
    negative, the picture has none.
    """

    yaw: float = _between(-0.5, 0.5)
    pitch: float = _between(-0.25, 0.25)
    landmark_error: np.ndarray = _between(-1.8, 1.8, shape=(5, 2))  # error of the detector, before alignment
    shift: np.ndarray = _between(-2.5, 2.5, shape=(2,))
    zoom: float = _between(-0.06, 0.06)
    roll: float = _between(-0.09, 0.09)

    smile: float = _between(-0.6, 1.0)
    mouth_open: float = _between(-1.2, 1.0)
    brow_raise: float = _between(-0.8, 1.0)
    blink: float = _between(-2.0, 1.0)
    gaze: np.ndarray = _between(-1.0, 1.0, shape=(2,))

    light_side: float = _between(-1.0, 1.0)
    light_height: float = _between(-1.0, 0.4)
    light_contrast: float = _between(0.1, 0.85)
    exposure: float = _between(-0.7, 0.45)
    gamma: float = _between(-0.35, 0.35)
    temperature: float = _between(-1.0, 1.0)
    tint: float = _between(-1.0, 1.0)

    background: np.ndarray = _between(0.0, 255.0, shape=(5, 5, 3), steady=True)
    clothes: np.ndarray = _between(10.0, 240.0, shape=(3,), steady=True)
    hat: float = _between(-6.0, 1.0, steady=True)
    accessory_colour: np.ndarray = _between(0.0, 255.0, shape=(3,), steady=True)
    glasses: float = _between(-3.0, 1.0, steady=True)
    glasses_size: float = _between(0.0, 1.0, steady=True)
    strand: float = _between(-4.0, 1.0, steady=True)
    occluder: float = _between(-7.0, 1.0)
    occluder_place: np.ndarray = _between(-1.0, 1.0, shape=(2,))

    blur: float = _between(-0.6, 1.2)
    coarseness: float = _between(-2.0, 1.0)
    noise: float = _between(0.0, 9.0)
    jpeg_quality: float = _between(30.0, 95.0)

    def towards(self, other: Capture, fraction: float) -> Capture:
        """Returns the parameters moved towards `other` by a fraction of the way. Steady ones stay the same.

        Args:
            other: parameters at the end of the way.
            fraction: 0 returns these parameters, 1 those of `other`.
        """
        moving = [field.name for field in dataclasses.fields(self) if not field.metadata["steady"]]
        values = {
            name: (1 - fraction) * getattr(self, name) + fraction * getattr(other, name) for name in moving
        }
        return dataclasses.replace(self, **values)
