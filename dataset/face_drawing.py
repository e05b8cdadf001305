"""Draws a `Face` under a `Capture`: a stylised, aligned face, 112x112.

The features lie on an ellipsoid. It is turned, its five landmarks are projected and fitted to the
alignment template by a similarity, as a detector and an aligner would do with a photograph; so an
identity's proportions and the pose survive the alignment as far as they do in real crops. All is
drawn with anti-aliased polygons at twice the size, then reduced, lit and degraded.
"""

import cv2
import numpy as np

IMAGE_SIZE = (112, 112)
# Where the aligner puts eyes, nose and mouth corners (x, y): the usual five points at 112x112.
TEMPLATE = np.array(
    [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)]
)

_OVERSAMPLING = 2
_SUBPIXEL_BITS = 4
_HEAD_DEPTH = 42.0
_WAVE = np.linspace(-1.0, 1.0, 13)  # along a lid, a lip, a brow
_HALF_TURN = np.linspace(0.0, np.pi, 19)
_CIRCLE = np.exp(1j * np.linspace(0.0, 2 * np.pi, 17)[:-1])
_CIRCLE = np.stack([_CIRCLE.real, _CIRCLE.imag], axis=-1)

_SKIN = np.array([(247, 216, 198), (228, 182, 150), (190, 135, 100), (136, 88, 62), (82, 52, 40)], float)
_HAIR = np.array([(28, 22, 20), (62, 42, 30), (112, 72, 42), (150, 70, 36), (206, 168, 108)], float)
_IRIS = np.array([(50, 30, 18), (104, 66, 34), (96, 104, 62), (92, 124, 150), (126, 164, 198)], float)
_LIPS = np.array([(0.97, 0.80, 0.78), (0.88, 0.60, 0.60), (0.80, 0.42, 0.46)])  # relative to the skin
_WHITE = np.array([236.0, 232.0, 228.0])
_DARK = np.array([26.0, 18.0, 18.0])
_GREY = np.array([176.0, 174.0, 172.0])


def draw_face(face, capture, rng):
    """Draws one picture.

    Args:
        face: `Face`, the identity.
        capture: `Capture`, the circumstances.
        rng: `numpy.random.Generator`, for the sensor noise.

    Returns:
        uint8, shape `(112, 112, 3)`, RGB.
    """
    picture = _Picture(face, capture)
    _draw_behind(picture, face, capture)
    _draw_head(picture, face)
    _draw_marks(picture, face)
    for side in (-1, 1):
        _draw_eye(picture, face, capture, side)
        _draw_brow(picture, face, capture, side)
    _draw_nose(picture, face, capture)
    _draw_beard(picture, face)
    _draw_mouth(picture, face, capture)
    _draw_front_hair(picture, face, capture)
    _draw_occlusion(picture, face, capture)
    return _develop(picture, capture, rng)


class _Picture:
    """A canvas with the projection onto it: polygons are given on the head and land where seen."""

    def __init__(self, face, capture):
        self._axes = np.array([face.head_width + 3.0, 0.5 * (face.head_top + face.chin) + 5.0])
        cos, sin = np.cos([capture.yaw, capture.pitch]), np.sin([capture.yaw, capture.pitch])
        self._turn = np.array(
            [
                [cos[0], 0.0, sin[0]],
                [-sin[0] * sin[1], cos[1], cos[0] * sin[1]],
            ]
        )
        corner = _mouth_corner(face, capture)
        landmarks = np.array(
            [
                (-face.eye_spacing, face.eye_level),
                (face.eye_spacing, face.eye_level),
                (0.0, face.nose_level),
                (-corner[0], corner[1]),
                corner,
            ]
        )
        seen = self._seen(landmarks, lift=np.array([0.0, 0.0, face.nose_height, 0.0, 0.0]))
        self._similarity, self._offset = _fit_similarity(seen, TEMPLATE + capture.landmark_error)
        self._similarity *= (1 + capture.zoom) * np.exp(1j * capture.roll)
        centre = IMAGE_SIZE[0] / 2
        around = centre * (1 + 1j)
        spin = (1 + capture.zoom) * np.exp(1j * capture.roll)
        self._offset = (self._offset - around) * spin + around + complex(*capture.shift)
        self.head_centre = self._placed(np.zeros((1, 2)))[0]
        self.head_radius = abs(self._similarity) * self._axes
        self.canvas = cv2.resize(
            (0.35 * capture.background + 0.65 * capture.background.mean(axis=-1, keepdims=True)).astype(np.uint8),
            (IMAGE_SIZE[1] * _OVERSAMPLING, IMAGE_SIZE[0] * _OVERSAMPLING),
            interpolation=cv2.INTER_CUBIC,
        )

    def _seen(self, points, lift=0.0, depth=None):
        """The turned head's points, `(n, 2)`, before alignment."""
        if depth is None:
            inside = 1 - np.sum((points / self._axes) ** 2, axis=-1)
            depth = _HEAD_DEPTH * np.sqrt(np.maximum(inside, 0.0)) + lift
        depth = np.broadcast_to(depth, points.shape[:1])
        return np.column_stack([points, depth]) @ self._turn.T

    def _placed(self, seen):
        moved = self._similarity * (seen[:, 0] + 1j * seen[:, 1]) + self._offset
        return np.column_stack([moved.real, moved.imag])

    def pixels(self, points, lift=0.0, depth=None):
        """Where points of the head's surface are on the canvas, in OpenCV's fixed-point form."""
        placed = self._placed(self._seen(np.asarray(points, float), lift, depth))
        scaled = (placed + 0.5) * _OVERSAMPLING - 0.5
        return np.rint(scaled * 2**_SUBPIXEL_BITS).astype(np.int32)

    def fill(self, points, colour, opacity=1.0, **where):
        """Fills a polygon."""
        pixels = self.pixels(points, **where)
        self._blend(pixels, opacity, lambda canvas: _fill(canvas, pixels, colour), margin=2)

    def line(self, points, colour, width, opacity=1.0, **where):
        """Draws an open line; its width is in pixels of the finished image."""
        pixels = self.pixels(points, **where)
        thickness = max(1, round(width * _OVERSAMPLING))
        self._blend(
            pixels,
            opacity,
            lambda canvas: cv2.polylines(
                canvas, [pixels], False, colour.tolist(), thickness, cv2.LINE_AA, _SUBPIXEL_BITS
            ),
            margin=2 + thickness,
        )

    def fill_inside(self, outline, shapes):
        """Fills polygons as far as they lie inside the outline: an iris between the lids."""
        pixels = self.pixels(outline)
        box = self._box(pixels, margin=2)
        drawn = self.canvas.copy()
        for points, colour in shapes:
            _fill(drawn, self.pixels(points), colour)
        mask = np.zeros(self.canvas.shape[:2], np.uint8)
        _fill(mask, pixels, np.array([255.0]))
        weight = mask[box][..., None] / 255.0
        self.canvas[box] = self.canvas[box] * (1 - weight) + drawn[box] * weight

    def _blend(self, pixels, opacity, draw, margin):
        if opacity >= 1.0:
            draw(self.canvas)
            return
        box = self._box(pixels, margin)
        before = self.canvas[box].copy()
        draw(self.canvas)
        if before.size:
            self.canvas[box] = cv2.addWeighted(before, 1 - opacity, self.canvas[box], opacity, 0)

    def _box(self, pixels, margin):
        low = np.maximum((pixels.min(axis=0) >> _SUBPIXEL_BITS) - margin, 0)
        high = np.maximum((pixels.max(axis=0) >> _SUBPIXEL_BITS) + 1 + margin, 0)
        return slice(low[1], high[1]), slice(low[0], high[0])


def _fill(canvas, pixels, colour):
    cv2.fillPoly(canvas, [pixels], colour.tolist(), cv2.LINE_AA, _SUBPIXEL_BITS)


def _fit_similarity(points, target):
    """Least-squares `a`, `b` of `a * z + b`, points as complex numbers: a similarity has no mirror."""
    points, target = points @ (1, 1j), target @ (1, 1j)
    centred = points - points.mean()
    a = np.vdot(centred, target - target.mean()) / np.vdot(centred, centred)
    return a, target.mean() - a * points.mean()


def _tone(palette, position):
    place = position * (len(palette) - 1)
    low = min(int(place), len(palette) - 2)
    return palette[low] + (place - low) * (palette[low + 1] - palette[low])


def _skin(face):
    return np.clip(_tone(_SKIN, face.skin_tone) + face.skin_warmth * np.array([8.0, 0.0, -10.0]), 0, 255)


def _hair(face):
    grey = max(0.0, face.hair_grey)
    return (1 - grey) * _tone(_HAIR, face.hair_tone) + grey * _GREY


def _mouth_corner(face, capture):
    smile = max(0.0, capture.smile)
    return np.array([face.mouth_width + 2.2 * smile, face.mouth_level - face.mouth_curve - 1.8 * smile])


def _arc(x, top, width):
    """A cap of that height over `x` in [-1, 1]."""
    return np.column_stack([width * x, -top * (1 - x**2)])


def _draw_behind(picture, face, capture):
    skin, hair = _skin(face), _hair(face)
    width, volume = face.head_width, face.hair_volume
    around = np.column_stack([(width + volume) * np.cos(_HALF_TURN), -(face.head_top + volume) * np.sin(_HALF_TURN)])
    bottom = face.hair_length
    tail = np.array([(-(width + volume), bottom), (width + volume, bottom)])
    neck = np.array([(-0.62 * width, 20.0), (0.62 * width, 20.0), (0.7 * width, 90.0), (-0.7 * width, 90.0)])
    shoulders = np.array([(-0.6 * width, 66.0), (0.6 * width, 66.0), (110.0, 84.0), (110.0, 140.0), (-110.0, 140.0), (-110.0, 84.0)])
    if face.hairline > -58:
        picture.fill(np.concatenate([around, tail]), 0.8 * hair, depth=-12.0)
    picture.fill(neck, 0.78 * skin, depth=-6.0)
    picture.fill(shoulders, capture.clothes, depth=-6.0)
    for side in (-1, 1):
        centre = np.array([side * (width + 1.0), 0.5 * face.eye_level + 2.0])
        ear = centre + _CIRCLE * (0.45 * face.ear_size, face.ear_size)
        picture.fill(ear, 0.9 * skin, depth=2.0)
        picture.fill(centre + 0.55 * (ear - centre), 0.72 * skin, depth=4.0)


def _outline(face):
    cos, sin = np.cos(_HALF_TURN), np.sin(_HALF_TURN)
    taper = 1 - face.jaw_taper * sin**face.jaw_roundness
    upper = np.column_stack([-face.head_width * cos, -face.head_top * sin])
    lower = np.column_stack([face.head_width * cos * taper, face.chin * sin])
    return np.concatenate([upper, lower])


def _draw_head(picture, face):
    skin = _skin(face)
    outline = _outline(face)
    picture.fill(outline, skin, depth=6.0)
    for side in (-1, 1):
        cheek = np.array([side * 0.66 * face.head_width, 18.0])
        hollow = cheek + _CIRCLE * (4.5, 13.0) @ np.array([[1.0, side * -0.35], [0.0, 1.0]])
        picture.fill(hollow, 0.8 * skin, opacity=0.5 * face.cheek_shadow)
    wrinkles = max(0.0, face.wrinkles)
    for level in (-34.0, -29.0, -24.0):
        line = _arc(_WAVE, 2.0, 15.0) + (0.0, level)
        picture.line(line, 0.7 * skin, 0.7, opacity=0.6 * wrinkles)
    for side in (-1, 1):
        fold = np.array([(side * (face.nose_width + 2), face.nose_level), (side * (face.mouth_width + 3), face.mouth_level - 2)])
        picture.line(fold, 0.7 * skin, 0.8, opacity=0.75 * wrinkles)


def _draw_marks(picture, face):
    skin = _skin(face)
    if face.freckles > 0:
        for x, y in face.freckle_spots:
            spot = np.array([26.0 * x, 4.0 + 11.0 * y]) + 0.7 * _CIRCLE
            picture.fill(spot, 0.72 * skin, opacity=0.85 * face.freckles)
    for x, y, size in face.moles:
        if size > 0:
            picture.fill(np.array([27.0 * x, 8.0 + 34.0 * y]) + (0.7 + 1.2 * size) * _CIRCLE, 0.35 * skin)
    strength, x, y, angle, length = face.scar
    if strength > 0.5:
        along = (5.0 + 3.0 * length) * np.array([np.cos(2 * angle), np.sin(2 * angle)])
        middle = np.array([24.0 * x, 6.0 + 28.0 * y])
        picture.line(np.array([middle - along, middle + along]), 0.65 * skin, 1.2, opacity=strength)


def _draw_eye(picture, face, capture, side):
    skin = _skin(face)
    openness = face.eye_opening * (1 - max(0.0, capture.blink)) * (1 - 0.2 * max(0.0, capture.smile))
    centre = np.array([side * face.eye_spacing, face.eye_level])
    cos, sin = np.cos(face.eye_tilt), np.sin(face.eye_tilt)
    tilt = np.array([[cos, -side * sin], [side * sin, cos]])
    lean = 1 + side * face.eye_peak * _WAVE
    upper = centre + _arc(_WAVE, 1.0, face.eye_width) * np.column_stack([np.ones(13), openness * lean]) @ tilt
    lower = centre + _arc(_WAVE, -0.55 * openness, face.eye_width) @ tilt
    picture.fill(centre + (0.0, 0.8) + _CIRCLE * (1.45 * face.eye_width, 6.2), 0.82 * skin, opacity=0.45)
    bag = centre + _arc(_WAVE, -0.55 * openness - 3.2, face.eye_width)
    picture.line(bag, 0.68 * skin, 0.8, opacity=0.7 * face.eye_bag)
    pupil = centre + capture.gaze * (1.8, 0.7) - (0.0, 0.25 * openness)
    iris = _tone(_IRIS, face.iris_tone)
    picture.fill_inside(
        np.concatenate([upper, lower[::-1]]),
        [
            (centre + 20.0 * _CIRCLE, _WHITE),
            (pupil + face.iris_size * _CIRCLE, iris),
            (pupil + 0.45 * face.iris_size * _CIRCLE, _DARK),
            (pupil + (0.9, -0.9) + 0.5 * _CIRCLE, _WHITE),
        ],
    )
    picture.line(upper, 0.25 * skin, 1.0)
    picture.line(lower, 0.6 * skin, 0.6)
    picture.line(upper - (0.0, 1.6 + 0.7 * face.lid_fold), 0.65 * skin, 0.7, opacity=face.lid_fold)


def _draw_brow(picture, face, capture, side):
    level = face.eye_level - face.brow_distance - 2.6 * max(0.0, capture.brow_raise)
    slope = side * face.brow_tilt
    x = face.brow_length * _WAVE
    middle = -face.brow_arch * (1 - _WAVE**2) + slope * x
    half = face.brow_thickness * np.clip(1.15 - 0.75 * side * _WAVE, 0.3, 1.4) * 0.7
    place = np.array([side * (face.eye_spacing + 0.5), level])
    upper = place + np.column_stack([x, middle - half])
    lower = place + np.column_stack([x, middle + half])
    colour = (0.35 + 0.55 * face.brow_tone) * _hair(face)
    picture.fill(np.concatenate([upper, lower[::-1]]), colour, opacity=0.92)


def _draw_nose(picture, face, capture):
    skin = _skin(face)
    width, level = face.nose_width, face.nose_level
    shade = 0.74 * skin
    top = face.eye_level - 1.0
    lit = 1 if capture.light_side > 0 else -1
    for side in (-1, 1):
        flank = np.array(
            [
                (side * face.nose_bridge, top),
                (side * face.nose_bridge * 0.8, level - 3.0),
                (side * width, level + 2.0),
                (side * (face.nose_bridge + 3.0), level - 8.0),
                (side * (face.nose_bridge + 2.2), top),
            ]
        )
        picture.fill(flank, shade, opacity=face.nose_shadow * (0.25 if side == lit else 0.75), lift=2.0)
    bridge = np.array([(-0.6 * face.nose_bridge, top), (0.6 * face.nose_bridge, top), (0.8 * face.nose_bridge, level), (-0.8 * face.nose_bridge, level)])
    picture.fill(bridge, np.minimum(1.13 * skin, 255.0), opacity=0.5, lift=np.array([2.0, 2.0, 1.0, 1.0]) * face.nose_height / 2)
    tip = np.array([0.0, level]) + _CIRCLE * (0.55 * width, 3.2)
    picture.fill(tip, np.minimum(1.08 * skin, 255.0), opacity=0.6, lift=face.nose_height)
    base = _arc(_WAVE, -2.0, width) + (0.0, level + 3.0)
    picture.line(base, 0.55 * skin, 1.0, opacity=0.8, lift=0.5 * face.nose_height)
    for side in (-1, 1):
        nostril = np.array([side * 0.5 * width, level + 4.0]) + _CIRCLE * (0.24 * width, 1.1)
        picture.fill(nostril, 0.3 * skin, opacity=0.9, lift=0.5 * face.nose_height)
        wing = np.array([(side * width, level - 1.5), (side * (width + 0.8), level + 1.5), (side * (width - 0.6), level + 4.0)])
        picture.line(wing, 0.6 * skin, 0.9, opacity=0.8, lift=0.3 * face.nose_height)


def _draw_beard(picture, face):
    hair, skin = _hair(face), _skin(face)
    colour = 0.7 * hair + 0.15 * skin
    if face.beard > 0:
        outer = _outline(face)[len(_HALF_TURN) :]
        rise = 4.0 + 14.0 * face.beard_rise
        outer = outer[outer[:, 1] > face.mouth_level - rise]
        inner = _arc(_WAVE, -(face.chin - face.mouth_level) * 0.45, -0.62 * face.head_width) + (0.0, face.mouth_level - rise + 4.0)
        picture.fill(np.concatenate([outer, inner[::-1]]), colour, opacity=0.35 + 0.6 * face.beard, depth=8.0)
    if face.moustache > 0:
        middle = 0.5 * (face.nose_level + 4.0 + face.mouth_level)
        upper = _arc(_WAVE, 2.0, face.mouth_width + 1.0) + (0.0, middle)
        lower = _arc(_WAVE, 1.0 - 2.0, face.mouth_width + 2.0) + (0.0, middle + 2.0)
        picture.fill(np.concatenate([upper, lower[::-1]]), colour, opacity=0.4 + 0.6 * face.moustache, lift=2.0)


def _draw_mouth(picture, face, capture):
    skin = _skin(face)
    lips = np.minimum(_tone(_LIPS, face.lip_tone) * skin, 255.0)
    corner = _mouth_corner(face, capture)
    gap = 5.0 * max(0.0, capture.mouth_open) + 1.8 * max(0.0, capture.smile - 0.4)
    round_ = 1 - _WAVE**2
    x = corner[0] * _WAVE
    sag = (face.mouth_level - corner[1]) * round_ + corner[1]
    dip = face.lip_bow * np.exp(-((_WAVE / 0.22) ** 2))
    upper_top = np.column_stack([x, sag - gap * 0.3 * round_ - face.lip_upper * np.sqrt(round_) + dip])
    upper_low = np.column_stack([x, sag - gap * 0.3 * round_])
    lower_top = np.column_stack([x, sag + gap * 0.7 * round_])
    lower_low = np.column_stack([x, sag + gap * 0.7 * round_ + face.lip_lower * np.sqrt(round_)])
    teeth = np.column_stack([x, sag - gap * 0.3 * round_ + 0.45 * gap * round_])
    picture.fill(np.concatenate([upper_low, lower_top[::-1]]), 0.3 * lips)
    picture.fill(np.concatenate([upper_low, teeth[::-1]]), _WHITE)
    picture.fill(np.concatenate([upper_top, upper_low[::-1]]), 0.88 * lips)
    picture.fill(np.concatenate([lower_top, lower_low[::-1]]), lips)
    picture.line(upper_low, 0.4 * lips, 0.7)
    under = _arc(_WAVE, -1.0, 0.6 * face.mouth_width) + (0.0, face.mouth_level + face.lip_lower + gap + 2.0)
    picture.line(under, 0.72 * skin, 1.2, opacity=0.5)


def _draw_front_hair(picture, face, capture):
    hair = _hair(face)
    reach = face.head_width + 0.4 * face.hair_volume
    outer = np.column_stack([-reach * np.cos(_HALF_TURN), -(face.head_top + 0.6 * face.hair_volume) * np.sin(_HALF_TURN)])
    x = np.linspace(1.0, -1.0, 25)
    parting = face.hair_part / face.head_width
    height = face.hairline + face.hairline_curve * np.cos(np.pi * (x - parting)) * (1 - x**4)
    line = np.column_stack([0.97 * reach * x, (1 - x**6) * height])
    picture.fill(np.concatenate([outer, line]), hair, depth=8.0)
    roots = line[4:-4:2]
    tips = np.column_stack([0.5 * roots[:, 0] + 0.5 * face.hair_part, np.full(len(roots), -face.head_top)])
    for root, tip in zip(roots, tips, strict=True):
        picture.line(np.array([root, tip]), np.minimum(1.2 * hair + 4.0, 255.0), 0.7, opacity=0.5, depth=8.0)
    if capture.hat > 0:
        brim = -24.0 - 12.0 * capture.hat
        dome = 1.1 * outer[np.abs(outer[:, 0]) < 0.97 * reach] * (1.0, 1.05)
        dome[:, 1] = np.minimum(dome[:, 1], brim)
        picture.fill(dome, capture.accessory_colour, depth=10.0)
        band = np.array([(-1.1 * reach, brim), (1.1 * reach, brim), (1.1 * reach, brim - 6.0), (-1.1 * reach, brim - 6.0)])
        picture.fill(band, 0.7 * capture.accessory_colour, depth=10.0)


def _draw_occlusion(picture, face, capture):
    if capture.strand > 0:
        swing = np.sign(face.hair_part) * np.sin(0.5 * _HALF_TURN)
        fall = -0.85 * face.head_top + (20.0 + 60.0 * capture.strand) * np.linspace(0.0, 1.0, len(_HALF_TURN))
        for shift in (0.0, 2.0, 4.0):
            lock = np.column_stack([0.5 * face.hair_part + (20.0 + shift) * swing, fall])
            picture.line(lock, 0.85 * _hair(face), 2.2 - 0.3 * shift, lift=4.0)
    if capture.glasses > 0:
        half = np.array([10.5, 6.5 + 4.0 * capture.glasses_size])
        for side in (-1, 1):
            centre = np.array([side * 17.5, face.eye_level + 1.0])
            rim = centre + half * np.sign(_CIRCLE) * np.abs(_CIRCLE) ** (0.5 + 0.5 * capture.glasses_size)
            picture.fill(rim, 0.5 * capture.accessory_colour, opacity=0.5 * capture.glasses**2, lift=4.0)
            picture.line(np.concatenate([rim, rim[:1]]), 0.6 * capture.accessory_colour, 1.3, lift=4.0)
            temple = np.array([(side * 28.0, face.eye_level), (side * (face.head_width + 1), face.eye_level - 1)])
            picture.line(temple, 0.6 * capture.accessory_colour, 1.3, lift=3.0)
        bridge = np.array([(-7.0, face.eye_level), (7.0, face.eye_level)])
        picture.line(bridge, 0.6 * capture.accessory_colour, 1.3, lift=6.0)
    if capture.occluder > 0:
        angle = np.pi * capture.occluder_place[0]
        normal = np.array([np.cos(angle), np.sin(angle)])
        along = np.array([-normal[1], normal[0]])
        near = (30.0 + 14.0 * capture.occluder_place[1]) * normal
        bar = np.array([near - 120 * along, near + 120 * along, near + 24 * normal + 120 * along, near + 24 * normal - 120 * along])
        picture.fill(bar, capture.accessory_colour, depth=40.0)


def _develop(picture, capture, rng):
    """Light, lens and sensor: from the canvas to the finished image."""
    image = cv2.resize(picture.canvas, IMAGE_SIZE[::-1], interpolation=cv2.INTER_AREA).astype(np.float32)
    y, x = np.mgrid[: IMAGE_SIZE[0], : IMAGE_SIZE[1]].astype(np.float32)
    across = (x - picture.head_centre[0]) / picture.head_radius[0]
    down = (y - picture.head_centre[1]) / picture.head_radius[1]
    front = np.sqrt(np.maximum(1 - across**2 - down**2, 0.02))
    light = np.array([capture.light_side, capture.light_height, 0.8])
    light /= np.linalg.norm(light)
    lambert = np.clip(across * light[0] + down * light[1] + front * light[2], 0.0, 1.2)
    shade = 2**capture.exposure * (1 - capture.light_contrast + 1.25 * capture.light_contrast * lambert)
    colour = np.array([1 + 0.18 * capture.temperature, 1 + 0.05 * capture.tint, 1 - 0.18 * capture.temperature])
    image *= shade[..., None].astype(np.float32) * colour.astype(np.float32)
    image = 255 * np.power(np.clip(image / 255, 0, 1), np.float32(2**capture.gamma))
    if capture.coarseness > 0:
        small = [round(side / (1 + 2 * capture.coarseness)) for side in IMAGE_SIZE[::-1]]
        image = cv2.resize(cv2.resize(image, small, interpolation=cv2.INTER_AREA), IMAGE_SIZE[::-1])
    if capture.blur > 0.2:
        image = cv2.GaussianBlur(image, (0, 0), capture.blur)
    image += np.float32(capture.noise) * rng.standard_normal(image.shape, dtype=np.float32)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)
