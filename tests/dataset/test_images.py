import struct
import zlib

import cv2
import numpy as np
import pytest
import simplejpeg

from dataset.images import check_image, decode_image, decode_picture
from tests.dataset.samples import encoded_image, noise, with_orientation


def png_of_size(width, height):
    """Returns a small PNG whose header claims this size, with a correct checksum."""
    data = bytearray(encoded_image(0, suffix=".png"))
    data[16:24] = struct.pack(">2I", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def jpeg_of_size(width, height):
    """Returns a small JPEG whose header claims this size."""
    data = bytearray(encoded_image(0))
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = struct.pack(">2H", height, width)
    return bytes(data)


@pytest.mark.parametrize("verify", ["full", "header"])
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_valid_image_passes(suffix, verify):
    image = encoded_image(0, 112, 96, suffix)
    assert check_image(image, verify=verify) == (112, 96)
    assert check_image(image, (112, 96), verify) == (112, 96)
    assert check_image(image + bytes(3), (112, 96), verify) == (112, 96)


@pytest.mark.parametrize("verify", ["full", "header"])
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_wrong_size_is_an_error(suffix, verify):
    with pytest.raises(ValueError, match=r"112x112.*111x112"):
        check_image(encoded_image(0, 111, 112, suffix), (112, 112), verify)


@pytest.mark.parametrize("verify", ["full", "header"])
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_cut_off_image_is_an_error(suffix, verify):
    image = encoded_image(0, suffix=suffix)
    for end in (0, 1, 2, 9, 20, 40, 100, len(image) // 2, len(image) - 2, len(image) - 1):
        with pytest.raises(ValueError):
            check_image(image[:end], verify=verify)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_data_missing_before_the_end_marker_needs_a_full_check(suffix):
    image = encoded_image(0, suffix=suffix)
    damaged = image[: len(image) // 2] + image[-12:]
    assert check_image(damaged, verify="header") == (112, 112)
    with pytest.raises(ValueError):
        check_image(damaged, verify="full")


@pytest.mark.parametrize("image", [b"", b"GIF89a" + bytes(100), b"<html>404</html>"])
def test_other_files_are_errors(image):
    with pytest.raises(ValueError, match="JPEG or PNG"):
        check_image(image)


# Parameters of the JPEG encoder: none, a progressive file, and a file with restart markers.
ENCODINGS = [[], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1], [cv2.IMWRITE_JPEG_RST_INTERVAL, 5]]


def damaged(image, rng):
    start, length = rng.integers(200, len(image) - 2), rng.integers(1, 300)
    middle = image[start : start + length]
    others = [
        b"",
        bytes(len(middle)),
        rng.bytes(len(middle)),
        bytes([middle[0] ^ 1 << rng.integers(8)]) + middle[1:],
    ]
    return image[:start] + others[rng.integers(4)] + image[start + length :]


@pytest.mark.parametrize("encoding", ENCODINGS, ids=["baseline", "progressive", "restart markers"])
def test_a_full_check_finds_the_same_damage_as_decoding_all_pixels(encoding):
    pixels = cv2.imdecode(np.frombuffer(encoded_image(3, 112, 96), np.uint8), cv2.IMREAD_COLOR)
    image = cv2.imencode(".jpg", pixels, encoding)[1].tobytes()
    rng = np.random.default_rng(0)
    verdicts = []
    for _ in range(150):
        bad = damaged(image, rng) + b"\xff\xd9"
        try:
            simplejpeg.decode_jpeg(bad, "GRAY", strict=True)
            expected = None
        except ValueError as error:
            expected = str(error)
        try:
            check_image(bad)
            received = None
        except ValueError as error:
            received = str(error).removeprefix("expected a JPEG, received damaged data: ")
            received = received.removeprefix("expected a JPEG, received a damaged header: ")
        assert received == expected
        verdicts.append(received is None)
    assert 10 < sum(verdicts) < 140


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_picture_decodes_to_rgb(suffix):
    pixels = noise(30, 20, 3)
    image = cv2.imencode(suffix, pixels, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
    expected = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_array_equal(decode_picture(image), expected)


def test_exif_orientation_is_ignored_by_default():
    image = encoded_image(0, 30, 20)
    stored = decode_picture(image)
    np.testing.assert_array_equal(decode_picture(with_orientation(image)), stored)
    np.testing.assert_array_equal(decode_picture(with_orientation(image), upright=True), np.rot90(stored, -1))
    assert check_image(with_orientation(image), (30, 20)) == (30, 20)


@pytest.mark.parametrize("image", [b"", b"no image", encoded_image(0, suffix=".png")[:200]])
def test_a_picture_that_cannot_be_decoded_is_an_error(image):
    with pytest.raises(ValueError, match="expected"):
        decode_picture(image)


class TestPixelLimit:
    @pytest.mark.parametrize("side", [8001, 32_000, 60_000, 1 << 31])
    def test_a_png_is_refused_by_its_header(self, side):
        for call in (check_image, decode_picture):
            with pytest.raises(ValueError, match=f"64000000 pixels, received {side}x{side}"):
                call(png_of_size(side, side))

    def test_a_jpeg_is_refused_by_its_header(self):
        for call in (check_image, decode_picture):
            with pytest.raises(ValueError, match="60000x50000"):
                call(jpeg_of_size(50_000, 60_000))

    def test_the_caller_sets_the_limit(self):
        image = encoded_image(0, 30, 20, ".png")
        assert check_image(image, max_pixels=600) == (30, 20)
        assert decode_picture(image, max_pixels=600).shape == (30, 20, 3)
        for call in (check_image, decode_picture):
            with pytest.raises(ValueError, match="599 pixels, received 30x20"):
                call(image, max_pixels=599)

    @pytest.mark.parametrize("make", [png_of_size, jpeg_of_size])
    def test_a_training_image_of_another_size_is_not_decoded(self, make, monkeypatch):
        monkeypatch.setattr("dataset.images._by_tensorflow", None)
        with pytest.raises(ValueError, match="112x112, received 32000x32000"):
            decode_image(make(32_000, 32_000), np.empty((112, 112, 3), np.uint8), "RGB")
