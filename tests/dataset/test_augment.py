import cv2
import numpy as np
import pytest
import tensorflow as tf

from dataset.augment import Augmentation
from tests.dataset.samples import encoded_image

KINDS = ("crop", "occlusion", "colour", "low_resolution", "jpeg")
SEED = (5, 3)


@pytest.fixture(scope="module")
def faces():
    return np.stack(
        [cv2.imdecode(np.frombuffer(encoded_image(i), np.uint8), cv2.IMREAD_COLOR) for i in range(12)]
    )


def change(faces, seed=SEED, **arguments):
    return Augmentation(**arguments)(tf.constant(faces), seed).numpy()


def is_changed(received, faces):
    return (np.asarray(received) != np.asarray(faces)).any(axis=(1, 2, 3))


def draws_of(kind, num, seed=SEED):
    """Returns the random numbers that determine how each image is changed."""
    own = tf.random.experimental.stateless_fold_in(tf.constant(seed, tf.int64), KINDS.index(kind))
    return tf.random.stateless_uniform((num, 5), own).numpy()


def test_defaults_change_nothing(faces):
    images = tf.constant(faces)
    assert Augmentation()(images, SEED) is images


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("probability", [1e-9, 1.0])
def test_the_same_seed_gives_the_same_images(faces, kind, probability, compiled):
    function = Augmentation(**{kind: probability})
    function = tf.function(function) if compiled else function
    images = tf.constant(faces)
    received = function(images, SEED)
    assert received.shape == images.shape and received.dtype == tf.uint8
    assert is_changed(received, faces).all() == (probability == 1)
    np.testing.assert_array_equal(function(images, SEED), received)
    if probability == 1:
        assert is_changed(function(images, (5, 4)), received).any()
        assert is_changed(function(images, (6, 3)), received).any()


@pytest.mark.parametrize("kind", KINDS)
def test_each_image_is_changed_differently(kind):
    image = cv2.imdecode(np.frombuffer(encoded_image(1), np.uint8), cv2.IMREAD_COLOR)[:32, :32]
    same = np.stack([image] * 16)
    assert len(np.unique(change(same, **{kind: 1.0}), axis=0)) >= 14


@pytest.mark.parametrize("kind", KINDS)
def test_the_given_fraction_of_images_is_changed(kind):
    image = cv2.imdecode(np.frombuffer(encoded_image(1), np.uint8), cv2.IMREAD_COLOR)[:16, :16]
    same = np.stack([image] * 800)
    share = is_changed(change(same, **{kind: 0.3}), same).mean()
    # The limits are 4 standard deviations. A few changes leave an image as it is, hence 0.02 less.
    assert 0.235 - 0.02 < share < 0.365


def test_kinds_have_independent_draws(faces):
    """If two kinds are on, an image that only one of them chose is the same as with that kind alone."""
    jpeg, colour = (is_changed(change(faces, **{kind: 0.5}), faces) for kind in ("jpeg", "colour"))
    only_jpeg = jpeg & ~colour
    assert only_jpeg.any() and (colour & ~jpeg).any()
    both = change(faces, jpeg=0.5, colour=0.5)
    np.testing.assert_array_equal(both[only_jpeg], change(faces, jpeg=0.5)[only_jpeg])
    np.testing.assert_array_equal(both[colour & ~jpeg], change(faces, colour=0.5)[colour & ~jpeg])


def test_crop_agrees_with_opencv(faces, monkeypatch):
    monkeypatch.setattr(Augmentation, "MAX_SHIFT", 0.2)
    monkeypatch.setattr(Augmentation, "MAX_ZOOM", 0.3)
    received = change(faces, crop=1.0).astype(int)
    for image, result, draw in zip(faces, received, draws_of("crop", 12)[:, 1:], strict=True):
        centre = 111 * (0.5 + 0.2 * (2 * draw[:2] - 1))
        scale = 1 + 0.3 * (2 * draw[2] - 1)
        start = centre - 111 * scale / 2
        matrix = np.array([[scale, 0, start[1]], [0, scale, start[0]]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        expected = cv2.warpAffine(image, matrix, (112, 112), flags=flags).astype(int)
        rows, columns = (scale * np.arange(112) + start[axis] for axis in (0, 1))
        inside = np.ix_(*(np.flatnonzero((p >= 0) & (p <= 111)) for p in (rows, columns)))
        assert np.abs(result[inside] - expected[inside]).max() <= 8  # OpenCV interpolates in 1/32 of a pixel
        assert np.abs(result[inside] - expected[inside]).mean() < 0.8
        outside = np.ones((112, 112), bool)
        outside[inside] = False
        assert (result[outside] == 0).all()


def test_occlusion_keeps_a_box(faces):
    areas = []
    for seed in range(20):
        received = change(np.full_like(faces, 7), seed=(seed, 0), occlusion=1.0)
        for result in received:
            rows, columns = np.nonzero(result[..., 0])
            height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
            assert len(rows) == height * width and (result[rows, columns] == 7).all()
            assert 0.7 < width / height < 1.43
            areas.append(height * width / 112**2)
    assert 0.19 < min(areas) < 0.25 and 0.95 < max(areas) <= 1
    assert abs(np.mean(areas) - 0.6) < 0.06


def test_colour_agrees_with_numpy(faces):
    received = change(faces, colour=1.0)
    for image, result, draw in zip(faces, received, draws_of("colour", 12)[:, 1:], strict=True):
        brightness, contrast, saturation = 1 + 0.5 * (2 * draw[:3].astype(np.float64) - 1)
        luma = np.array([0.299, 0.587, 0.114])
        pixels = image * brightness
        mean = (pixels @ luma).mean()
        pixels = mean + contrast * (pixels - mean)
        grey = (pixels @ luma)[..., None]
        expected = np.clip(grey + saturation * (pixels - grey), 0, 255)
        assert np.abs(result - expected).max() < 0.51


def nearest(image, size):
    """Takes each pixel from the position of its centre."""
    places = [
        np.floor(np.arange(0.5, size, dtype=np.float32) * np.float32(have / size)).astype(int)
        for have in image.shape[:2]
    ]
    return image[np.ix_(*places)]


def by_area(image, size):
    """Takes the mean of each pixel's area. TensorFlow enlarges, because OpenCV would use another method."""
    if size > len(image):
        return np.round(tf.image.resize(image, (size, size), "area").numpy())
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)


RESIZES = {
    "nearest": nearest,
    "bilinear": lambda image, size: cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR),
    "area": by_area,
}


@pytest.mark.parametrize("name", RESIZES)
def test_low_resolution_agrees_with_other_implementations(faces, name, monkeypatch):
    monkeypatch.setattr("dataset.augment._INTERPOLATIONS", (name,))
    received = change(faces, low_resolution=1.0)
    for image, result, draw in zip(faces, received, draws_of("low_resolution", 12)[:, 1:], strict=True):
        expected = RESIZES[name](RESIZES[name](image, int((0.2 + 0.8 * draw[0]) * 112)), 112)
        assert np.abs(result.astype(float) - expected).max() <= {"nearest": 0, "bilinear": 2, "area": 2}[name]


def test_low_resolution_uses_all_interpolations(faces, monkeypatch):
    """There are 4 x 4 interpolations down and up, so one image has up to 16 results at one size."""
    same = np.stack([faces[0, :40, :40]] * 200)
    monkeypatch.setattr(Augmentation, "RESOLUTION", (0.4, 0.4))
    received = change(same, low_resolution=1.0)
    assert 14 <= len(np.unique(received, axis=0)) <= 16


def test_jpeg_agrees_with_opencv(faces):
    received = change(faces, jpeg=1.0)
    qualities = [20 + int(draw * 71) for draw in draws_of("jpeg", 12)[:, 1]]
    assert max(qualities) - min(qualities) > 40
    for image, result, quality in zip(faces, received, qualities, strict=True):
        encoded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        np.testing.assert_array_equal(result, cv2.imdecode(encoded, cv2.IMREAD_COLOR)[..., ::-1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"jpeg": 1.5}, r"--augment_jpeg: expected a probability in \[0, 1\], received 1.5"),
        ({"crop": -1}, r"--augment_crop: expected a probability"),
    ],
)
def test_probabilities_out_of_range_are_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**arguments)
