"""Tests that all decoders return exactly the same pixels for a training image."""

import io

import cv2
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from dataset import images as image_decoder
from dataset.images import decode_image, decode_tensor
from tests.dataset.samples import SAMPLING, encoded_image, noise, with_orientation


def assert_same_pixels(encoded):
    """Checks that TensorFlow, OpenCV and PIL decode the same pixels. Returns them."""
    decoded = decode_tensor(tf.constant(encoded)).numpy()
    bgr = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(decoded, bgr[..., ::-1])
    np.testing.assert_array_equal(decoded, PIL.Image.open(io.BytesIO(encoded)).convert("RGB"))
    return decoded


@pytest.mark.parametrize("sampling", SAMPLING)
@pytest.mark.parametrize("quality", [95, 50])
@pytest.mark.parametrize("progressive", [0, 1])
def test_a_jpeg_decodes_as_in_opencv_and_pil(sampling, quality, progressive):
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_PROGRESSIVE, progressive]
    options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, SAMPLING[sampling]]
    face = cv2.imdecode(np.frombuffer(encoded_image(1, suffix=".png"), np.uint8), cv2.IMREAD_COLOR)
    for image in (face, noise(112, 112, 3), noise(97, 113, 3)):
        encoded = cv2.imencode(".jpg", image, options)[1].tobytes()
        assert assert_same_pixels(encoded).shape == image.shape


def test_a_jpeg_of_pil_is_decoded():
    file = io.BytesIO()
    PIL.Image.fromarray(noise(112, 112, 3)).save(file, "JPEG", quality=95)
    assert_same_pixels(file.getvalue())


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_png_and_grey_images_are_decoded(suffix):
    images = {"colour": noise(112, 112, 3), "grey": noise(112, 112)}
    if suffix == ".png":
        images["alpha"] = noise(112, 112, 4)
    for name, image in images.items():
        decoded = assert_same_pixels(cv2.imencode(suffix, image)[1].tobytes())
        assert decoded.shape == (112, 112, 3), name
        if (suffix, name) == (".png", "colour"):
            np.testing.assert_array_equal(decoded, image[..., ::-1])


@pytest.mark.parametrize("encoded", [b"", b"no image", encoded_image(0)[:-200]])
def test_undecodable_images_are_errors(encoded):
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode_tensor(tf.constant(encoded))


def decoded(encoded, size=(112, 112), order="RGB"):
    out = np.empty((*size, 3), np.uint8)
    decode_image(encoded, out, order)
    return out


def no_tensorflow(encoded, order):
    raise AssertionError("simplejpeg has refused it")


@pytest.mark.parametrize("sampling", [*SAMPLING, "grey"])
@pytest.mark.parametrize("quality", [95, 50])
@pytest.mark.parametrize("progressive", [0, 1])
def test_a_jpeg_decodes_as_in_tensorflow(sampling, quality, progressive, monkeypatch):
    monkeypatch.setattr(image_decoder, "_by_tensorflow", no_tensorflow)
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_PROGRESSIVE, progressive]
    face = cv2.imdecode(np.frombuffer(encoded_image(1, suffix=".png"), np.uint8), cv2.IMREAD_COLOR)
    for image in (face, noise(112, 112, 3), noise(97, 113, 3)):
        if sampling == "grey":
            image = image[..., 0]
        else:
            options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, SAMPLING[sampling]]
        encoded = cv2.imencode(".jpg", image, options)[1].tobytes()
        expected = decode_tensor(tf.constant(encoded)).numpy()
        np.testing.assert_array_equal(decoded(encoded, image.shape[:2]), expected)
        np.testing.assert_array_equal(decoded(encoded, image.shape[:2], order="BGR"), expected[..., ::-1])


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


RGB = PIL.Image.fromarray(noise(112, 112, 3))
OTHERS = {
    "PNG": saved(RGB, "PNG"),
    "PNG with alpha": saved(PIL.Image.fromarray(noise(112, 112, 4)), "PNG"),
    "PNG with a palette": saved(RGB.quantize(16), "PNG"),
    "grey PNG of 16 bits": cv2.imencode(".png", noise(112, 112).astype(np.uint16) * 257)[1].tobytes(),
    "CMYK": saved(RGB.convert("CMYK"), "JPEG"),
    "progressive CMYK": saved(RGB.convert("CMYK"), "JPEG", progressive=True),
    "RGB inside": saved(RGB, "JPEG", keep_rgb=True),
    "bytes after the end": encoded_image(0) + b"more",
    "bytes between two markers": encoded_image(0)[:2] + b"\x00\x01" + encoded_image(0)[2:],
    "a flipped bit": encoded_image(0)[:1500] + bytes([encoded_image(0)[1500] ^ 8]) + encoded_image(0)[1501:],
    "bit map": cv2.imencode(".bmp", noise(112, 112, 3))[1].tobytes(),
    "cut off": encoded_image(0)[:-200],
    "its header": encoded_image(0)[:300],
    "nothing": b"",
    "no image": b"no image",
}


@pytest.mark.parametrize("encoded", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_other_images_decode_or_fail_as_in_tensorflow(encoded, order):
    try:
        expected = decode_tensor(tf.constant(encoded)).numpy()
    except tf.errors.InvalidArgumentError as error:
        with pytest.raises(ValueError, match=r"^expected an image") as raised:
            decoded(encoded, order=order)
        assert error.message.splitlines()[0] in str(raised.value) and "\n" not in str(raised.value)
    else:
        np.testing.assert_array_equal(
            decoded(encoded, order=order), expected if order == "RGB" else expected[..., ::-1]
        )


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("size", [(96, 112), (112, 113), (224, 56)])
def test_another_size_is_an_error(suffix, size):
    message = "112x112.*{}x{}".format(*size)
    with pytest.raises(ValueError, match=message):
        decoded(encoded_image(0, *size, suffix))


def test_an_exif_orientation_is_ignored():
    image = encoded_image(0, 30, 20)
    turned = with_orientation(image)
    np.testing.assert_array_equal(decoded(turned, (30, 20)), decoded(image, (30, 20)))
    np.testing.assert_array_equal(decode_tensor(tf.constant(turned)), decode_tensor(tf.constant(image)))
