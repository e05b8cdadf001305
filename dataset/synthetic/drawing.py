"""Draws stylised, aligned faces.

An image is a pure function of the seed, the identity and the number of the image or frame.
"""

from __future__ import annotations

import cv2
import numpy as np

from dataset.align import face_template
from dataset.synthetic.canvas import IMAGE_SIZE, FaceCanvas
from dataset.synthetic.parameters import Capture, Face

# Independent streams of random numbers from one seed.
FACE_STREAM, IMAGE_STREAM, VIDEO_STREAM, PLAN_STREAM = range(4)

_VIDEO_MOTION = 0.5  # A video moves this fraction of the way from one random picture to another.

_TEMPLATE = face_template(IMAGE_SIZE)

_SWEEP = np.linspace(-1.0, 1.0, 13)  # along a lid, a lip or a brow
_HALF_TURN = np.linspace(0.0, np.pi, 19)
_TURN = np.linspace(0.0, 2 * np.pi, 16, endpoint=False)
_CIRCLE = np.column_stack([np.cos(_TURN), np.sin(_TURN)])

# Palettes. Colours are interpolated between their entries. Lip colours are factors of the skin colour.
_SKIN = np.array([(247, 216, 198), (228, 182, 150), (190, 135, 100), (136, 88, 62), (82, 52, 40)], float)
_HAIR = np.array([(28, 22, 20), (62, 42, 30), (112, 72, 42), (150, 70, 36), (206, 168, 108)], float)
_IRIS = np.array([(50, 30, 18), (104, 66, 34), (96, 104, 62), (92, 124, 150), (126, 164, 198)], float)
_LIPS = np.array([(0.97, 0.80, 0.78), (0.88, 0.60, 0.60), (0.80, 0.42, 0.46)])
_WHITE = np.array([236.0, 232.0, 228.0])
_BLACK = np.array([26.0, 18.0, 18.0])
_GREY = np.array([176.0, 174.0, 172.0])


def draw_identity(seed: int, identity: int) -> Face:
    """Draws the parameters of an identity. Seed and identity are at least 0."""
    return Face.sample(np.random.default_rng((seed, FACE_STREAM, identity)))


def draw_image(seed: int, identity: int, number: int) -> bytes:
    """Draws one image of an identity, independently of its other images. Returns a JPEG of 112x112."""
    rng = np.random.default_rng((seed, IMAGE_STREAM, identity, number))
    return _draw_face(draw_identity(seed, identity), Capture.sample(rng), rng)


def draw_frame(seed: int, identity: int, video: int, frame: int, num_frames: int) -> bytes:
    """Draws frame `frame` of a video with `num_frames`, in which pose, light and expression change smoothly.

    Returns a JPEG of 112x112.
    """
    rng = np.random.default_rng((seed, VIDEO_STREAM, identity, video))
    first, last = Capture.sample(rng), Capture.sample(rng)
    capture = first.towards(last, _VIDEO_MOTION * frame / max(1, num_frames - 1))
    noise = np.random.default_rng((seed, VIDEO_STREAM, identity, video, frame))
    return _draw_face(draw_identity(seed, identity), capture, noise)


def _draw_face(face, capture, rng):
    canvas = _aligned_canvas(face, capture)
    _draw_behind(canvas, face, capture)
    _draw_head(canvas, face)
    _draw_marks(canvas, face)
    for side in (-1, 1):
        _draw_eye(canvas, face, capture, side)
        _draw_brow(canvas, face, capture, side)
    _draw_nose(canvas, face, capture)
    _draw_beard(canvas, face)
    _draw_mouth(canvas, face, capture)
    _draw_front_hair(canvas, face)
    _draw_accessories(canvas, face, capture)
    quality = [cv2.IMWRITE_JPEG_QUALITY, round(capture.jpeg_quality)]
    return cv2.imencode(".jpg", canvas.photograph(rng)[..., ::-1], quality)[1].tobytes()


def _aligned_canvas(face, capture):
    corner_x, corner_y = _mouth_corner(face, capture)
    landmarks = np.array(
        [
            (-face.eye_spacing, face.eye_level, 0.0),
            (face.eye_spacing, face.eye_level, 0.0),
            (0.0, face.nose_level, face.nose_height),
            (-corner_x, corner_y, 0.0),
            (corner_x, corner_y, 0.0),
        ]
    )
    middle = _TEMPLATE.mean(axis=0)
    targets = (1 + capture.zoom) * _rotate(_TEMPLATE - middle, capture.roll) + middle + capture.shift
    radii = (face.head_width + 3.0, 0.5 * (face.head_top + face.chin) + 5.0, 42.0)
    return FaceCanvas(radii, capture, landmarks, targets + capture.landmark_error)


def _mouth_corner(face, capture):
    smile = max(0.0, capture.smile)
    return face.mouth_width + 2.2 * smile, face.mouth_level - face.mouth_curve - 1.8 * smile


def _skin(face):
    return np.clip(_tone(_SKIN, face.skin_tone) + face.skin_warmth * np.array([8.0, 0.0, -10.0]), 0, 255)


def _hair(face):
    grey = max(0.0, face.hair_grey)
    return (1 - grey) * _tone(_HAIR, face.hair_tone) + grey * _GREY


def _tone(palette, position):
    place = position * (len(palette) - 1)
    low = min(int(place), len(palette) - 2)
    return palette[low] + (place - low) * (palette[low + 1] - palette[low])


def _lighten(colour, factor):
    return np.minimum(factor * colour, 255.0)


def _rotate(points, angle):
    cos, sin = np.cos(angle), np.sin(angle)
    return points @ np.array([[cos, sin], [-sin, cos]])


def _bow(width, height, level):
    """A parabola over `_SWEEP` that rises by `height` above its ends."""
    return np.column_stack([width * _SWEEP, level - height * (1 - _SWEEP**2)])


def _half_ellipse(width, height):
    """The arc from left to right over the top, or over the bottom if `height` is negative."""
    return np.column_stack([-width * np.cos(_HALF_TURN), -height * np.sin(_HALF_TURN)])


def _band(upper, lower):
    """The polygon between two curves that run the same way."""
    return np.concatenate([upper, lower[::-1]])


def _rectangle(left, right, top, bottom):
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)])


def _jaw(face):
    """The line from the left temple around the chin to the right temple."""
    taper = 1 - face.jaw_taper * np.sin(_HALF_TURN) ** face.jaw_roundness
    return _half_ellipse(face.head_width, -face.chin) * np.column_stack([taper, np.ones_like(taper)])


def _draw_behind(canvas, face, capture):
    skin, width = _skin(face), face.head_width
    around = width + face.hair_volume
    if face.hairline > -58:
        ends = np.array([(-around, face.hair_length), (around, face.hair_length)])
        hair = _band(_half_ellipse(around, face.head_top + face.hair_volume), ends)
        canvas.fill(hair, 0.8 * _hair(face), depth=-12.0)
    canvas.fill(_rectangle(-0.65 * width, 0.65 * width, 20.0, 90.0), 0.78 * skin, depth=-6.0)
    collar = np.array([(-0.6 * width, 66.0), (0.6 * width, 66.0)])
    shoulders = np.array([(-110.0, 84.0), (-110.0, 140.0), (110.0, 140.0), (110.0, 84.0)])
    canvas.fill(_band(collar, shoulders), capture.clothes, depth=-6.0)
    for side in (-1, 1):
        middle = (side * (width + 1.0), 0.5 * face.eye_level + 2.0)
        ear = _CIRCLE * (0.45 * face.ear_size, face.ear_size)
        canvas.fill(middle + ear, 0.9 * skin, depth=2.0)
        canvas.fill(middle + 0.55 * ear, 0.72 * skin, depth=4.0)


def _draw_head(canvas, face):
    skin = _skin(face)
    canvas.fill(_band(_half_ellipse(face.head_width, face.head_top), _jaw(face)), skin, depth=6.0)
    for level in (-34.0, -29.0, -24.0):
        canvas.line(_bow(15.0, 2.0, level), 0.7 * skin, 0.7, opacity=0.6 * face.wrinkles)
    for side in (-1, 1):
        hollow = _rotate(_CIRCLE * (4.5, 13.0), side * 0.34) + (side * 0.66 * face.head_width, 18.0)
        canvas.fill(hollow, 0.8 * skin, opacity=0.5 * face.cheek_shadow)
        fold = [(face.nose_width + 2.0, face.nose_level), (face.mouth_width + 3.0, face.mouth_level - 2.0)]
        canvas.line(np.array(fold) * (side, 1), 0.7 * skin, 0.8, opacity=0.75 * face.wrinkles)


def _draw_marks(canvas, face):
    skin = _skin(face)
    if face.freckles > 0:
        for spot in face.freckle_spots * (26.0, 11.0) + (0.0, 4.0):
            canvas.fill(spot + 0.7 * _CIRCLE, 0.72 * skin, opacity=0.85 * face.freckles)
    for x, y, size in face.moles:
        if size > 0:
            middle = (27.0 * x, 8.0 + 34.0 * y)
            canvas.fill(middle + (0.7 + 1.2 * size) * _CIRCLE, 0.35 * skin)
    strength, x, y, angle, length = face.scar
    if strength > 0.5:
        middle = np.array([24.0 * x, 6.0 + 28.0 * y])
        half = (5.0 + 3.0 * length) * np.array([np.cos(2 * angle), np.sin(2 * angle)])
        canvas.line(np.array([middle - half, middle + half]), 0.65 * skin, 1.2, opacity=strength)


def _draw_eye(canvas, face, capture, side):
    skin, width = _skin(face), face.eye_width
    opening = face.eye_opening * (1 - max(0.0, capture.blink)) * (1 - 0.2 * max(0.0, capture.smile))
    middle = np.array([side * face.eye_spacing, face.eye_level])
    tilt = -side * face.eye_tilt
    upper = _bow(width, opening, 0.0) * np.column_stack([np.ones(13), 1 + side * face.eye_peak * _SWEEP])
    upper = middle + _rotate(upper, tilt)
    lower = middle + _rotate(_bow(width, -0.55 * opening, 0.0), tilt)
    canvas.fill(middle + (0.0, 0.8) + _CIRCLE * (1.45 * width, 6.2), 0.82 * skin, opacity=0.45)
    bag = middle + _rotate(_bow(width, -0.55 * opening - 3.2, 0.0), tilt)
    canvas.line(bag, 0.68 * skin, 0.8, opacity=0.7 * face.eye_bag)
    pupil = middle + capture.gaze * (1.8, 0.7) - (0.0, 0.25 * opening)
    canvas.fill_inside(
        _band(upper, lower),
        [
            (middle + 20.0 * _CIRCLE, _WHITE),
            (pupil + face.iris_size * _CIRCLE, _tone(_IRIS, face.iris_tone)),
            (pupil + 0.45 * face.iris_size * _CIRCLE, _BLACK),
            (pupil + (0.9, -0.9) + 0.5 * _CIRCLE, _WHITE),
        ],
    )
    canvas.line(upper, 0.25 * skin, 1.0)
    canvas.line(lower, 0.6 * skin, 0.6)
    canvas.line(upper - (0.0, 1.6 + 0.7 * face.lid_fold), 0.65 * skin, 0.7, opacity=face.lid_fold)


def _draw_brow(canvas, face, capture, side):
    level = face.eye_level - face.brow_distance - 2.6 * max(0.0, capture.brow_raise)
    brow = _bow(face.brow_length, face.brow_arch, level) + (side * (face.eye_spacing + 0.5), 0.0)
    brow[:, 1] += side * face.brow_tilt * face.brow_length * _SWEEP
    half = 0.7 * face.brow_thickness * np.clip(1.15 - 0.75 * side * _SWEEP, 0.3, 1.4)
    half = np.column_stack([np.zeros_like(half), half])
    colour = (0.35 + 0.55 * face.brow_tone) * _hair(face)
    canvas.fill(_band(brow - half, brow + half), colour, opacity=0.92)


def _draw_nose(canvas, face, capture):
    skin = _skin(face)
    width, bridge, height = face.nose_width, face.nose_bridge, face.nose_height
    root, level = face.eye_level - 1.0, face.nose_level
    for side in (-1, 1):
        flank = [(bridge, root), (0.8 * bridge, level - 3.0), (width, level + 2.0)]
        flank += [(bridge + 3.0, level - 8.0), (bridge + 2.2, root)]
        shadow = 0.25 if side * capture.light_side > 0 else 0.75
        canvas.fill(np.array(flank) * (side, 1), 0.74 * skin, opacity=shadow * face.nose_shadow, lift=2.0)
    ridge = [(-0.6 * bridge, root), (0.6 * bridge, root), (0.8 * bridge, level), (-0.8 * bridge, level)]
    lift = height * np.array([1.0, 1.0, 0.5, 0.5])
    canvas.fill(np.array(ridge), _lighten(skin, 1.13), opacity=0.5, lift=lift)
    tip = _CIRCLE * (0.55 * width, 3.2) + (0.0, level)
    canvas.fill(tip, _lighten(skin, 1.08), opacity=0.6, lift=height)
    canvas.line(_bow(width, -2.0, level + 3.0), 0.55 * skin, 1.0, opacity=0.8, lift=0.5 * height)
    for side in (-1, 1):
        nostril = _CIRCLE * (0.24 * width, 1.1) + (side * 0.5 * width, level + 4.0)
        canvas.fill(nostril, 0.3 * skin, opacity=0.9, lift=0.5 * height)
        wing = [(width, level - 1.5), (width + 0.8, level + 1.5), (width - 0.6, level + 4.0)]
        canvas.line(np.array(wing) * (side, 1), 0.6 * skin, 0.9, opacity=0.8, lift=0.3 * height)


def _draw_beard(canvas, face):
    colour = 0.7 * _hair(face) + 0.15 * _skin(face)
    if face.beard > 0:
        top = face.mouth_level - 4.0 - 14.0 * face.beard_rise
        jaw = _jaw(face)
        inner = _bow(0.62 * face.head_width, 0.45 * (face.mouth_level - face.chin), top + 4.0)
        shape = _band(jaw[jaw[:, 1] > top], inner)
        canvas.fill(shape, colour, opacity=0.35 + 0.6 * face.beard, depth=8.0)
    if face.moustache > 0:
        level, width = 0.5 * (face.nose_level + 4.0 + face.mouth_level), face.mouth_width
        shape = _band(_bow(width + 1.0, 2.0, level), _bow(width + 2.0, -1.0, level + 2.0))
        canvas.fill(shape, colour, opacity=0.4 + 0.6 * face.moustache, lift=2.0)


def _draw_mouth(canvas, face, capture):
    skin = _skin(face)
    lips = _lighten(_tone(_LIPS, face.lip_tone) * skin, 1.0)
    corner_x, corner_y = _mouth_corner(face, capture)
    gap = 5.0 * max(0.0, capture.mouth_open) + 1.8 * max(0.0, capture.smile - 0.4)
    sag = corner_y - face.mouth_level
    full = np.column_stack([np.zeros(13), np.sqrt(1 - _SWEEP**2)])
    dip = np.column_stack([np.zeros(13), face.lip_bow * np.exp(-((_SWEEP / 0.22) ** 2))])
    upper = _bow(corner_x, sag + 0.3 * gap, corner_y)
    lower = _bow(corner_x, sag - 0.7 * gap, corner_y)
    canvas.fill(_band(upper, lower), 0.3 * lips)
    canvas.fill(_band(upper, _bow(corner_x, sag - 0.15 * gap, corner_y)), _WHITE)
    canvas.fill(_band(upper - face.lip_upper * full + dip, upper), 0.88 * lips)
    canvas.fill(_band(lower, lower + face.lip_lower * full), lips)
    canvas.line(upper, 0.4 * lips, 0.7)
    below = face.mouth_level + face.lip_lower + gap + 2.0
    canvas.line(_bow(0.6 * face.mouth_width, -1.0, below), 0.72 * skin, 1.2, opacity=0.5)


def _hair_reach(face):
    return np.array([face.head_width + 0.4 * face.hair_volume, face.head_top + 0.6 * face.hair_volume])


def _draw_front_hair(canvas, face):
    hair, reach = _hair(face), _hair_reach(face)
    x = np.linspace(-1.0, 1.0, 25)
    wave = np.cos(np.pi * (x - face.hair_part / face.head_width)) * (1 - x**4)
    # Near the temples, the hairline runs down to the ears. On a bald head, it is the outline of the head.
    height = (1 - x**6) * (face.hairline + face.hairline_curve * wave)
    line = np.column_stack([0.97 * reach[0] * x, np.maximum(height, -face.head_top * np.sqrt(1 - x**2))])
    canvas.fill(_band(_half_ellipse(*reach), line), hair, depth=8.0)
    for root in line[4:-4:2]:
        tip = (0.5 * (root[0] + face.hair_part), -face.head_top)
        canvas.line(np.array([root, tip]), _lighten(hair, 1.25), 0.7, opacity=0.5, depth=8.0)


def _draw_accessories(canvas, face, capture):
    colour = capture.accessory_colour
    if capture.strand > 0:
        swing = np.sign(face.hair_part) * np.sin(0.5 * _HALF_TURN)
        fall = -0.85 * face.head_top + (20.0 + 60.0 * capture.strand) * np.linspace(0.0, 1.0, len(swing))
        for shift in (0.0, 2.0, 4.0):
            lock = np.column_stack([0.5 * face.hair_part + (20.0 + shift) * swing, fall])
            canvas.line(lock, 0.85 * _hair(face), 2.2 - 0.3 * shift, lift=4.0)
    if capture.hat > 0:
        brim = -24.0 - 12.0 * capture.hat
        width, height = 1.1 * _hair_reach(face)
        dome = _half_ellipse(0.97 * width, 1.05 * height)
        dome[:, 1] = np.minimum(dome[:, 1], brim)
        canvas.fill(dome, colour, depth=10.0)
        canvas.fill(_rectangle(-width, width, brim - 6.0, brim), 0.7 * colour, depth=10.0)
    if capture.glasses > 0:
        frame, level = 0.6 * colour, face.eye_level
        # From nearly a rectangle to an ellipse.
        lens = np.sign(_CIRCLE) * np.abs(_CIRCLE) ** (0.5 + 0.5 * capture.glasses_size)
        for side in (-1, 1):
            rim = lens * (10.5, 6.5 + 4.0 * capture.glasses_size) + (side * 17.5, level + 1.0)
            canvas.fill(rim, 0.5 * colour, opacity=0.5 * capture.glasses**2, lift=4.0)
            canvas.line(np.concatenate([rim, rim[:1]]), frame, 1.3, lift=4.0)
            temple = np.array([(side * 28.0, level), (side * (face.head_width + 1.0), level - 1.0)])
            canvas.line(temple, frame, 1.3, lift=3.0)
        canvas.line(np.array([(-7.0, level), (7.0, level)]), frame, 1.3, lift=6.0)
    if capture.occluder > 0:
        angle = np.pi * capture.occluder_place[0]
        near = 30.0 + 14.0 * capture.occluder_place[1]
        bar = _rotate(_rectangle(near, near + 24.0, -120.0, 120.0), angle)
        canvas.fill(bar, colour, depth=40.0)
