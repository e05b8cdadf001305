import pytest

from dataset.image_check import LEVELS, check_image
from tests.dataset.samples import encoded_image


@pytest.mark.parametrize("verify", LEVELS)
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_sound_image(suffix, verify):
    image = encoded_image(0, 112, 96, suffix)
    assert check_image(image, verify=verify) == (112, 96)
    assert check_image(image, (112, 96), verify) == (112, 96)
    assert check_image(image + bytes(3), (112, 96), verify) == (112, 96)


@pytest.mark.parametrize("verify", LEVELS)
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_wrong_size(suffix, verify):
    with pytest.raises(ValueError, match="expected 112x112, received 111x112"):
        check_image(encoded_image(0, 111, 112, suffix), (112, 112), verify)


@pytest.mark.parametrize("verify", LEVELS)
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_cut_image(suffix, verify):
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
def test_other_files(image):
    with pytest.raises(ValueError, match="expected a JPEG or PNG"):
        check_image(image)
