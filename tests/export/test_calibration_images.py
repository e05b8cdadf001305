import numpy as np
import pytest
import simplejpeg

from export.calibration_images import read_calibration_images
from tests.dataset.samples import write_converted
from tests.export.test_onnx import PAIRS


def jpeg(grey, size=(16, 12)):
    return simplejpeg.encode_jpeg(np.full((*size, 3), grey, np.uint8))


def greys(images):
    return [int(image.mean().round()) for image in images]


def test_images_come_from_a_folder_and_its_subfolders(tmp_path):
    for number in range(12):
        path = tmp_path / f"person{number % 2}" / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(jpeg(20 * number))
    (tmp_path / "person0" / ".hidden.jpg").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("no image")
    every = read_calibration_images(tmp_path, (16, 12))
    assert every.dtype == np.uint8 and every.shape == (12, 16, 12, 3)
    np.testing.assert_allclose(greys(every), [*range(0, 240, 40), *range(20, 240, 40)], atol=1)
    drawn, again, other = (
        greys(read_calibration_images(tmp_path, (16, 12), num_images=5, seed=seed)) for seed in (0, 0, 1)
    )
    assert drawn == again != other
    assert len(set(drawn)) == 5


def test_images_of_converted_records_are_rgb(tmp_path):
    red = simplejpeg.encode_jpeg(np.full((16, 12, 3), (200, 0, 0), np.uint8))
    write_converted(tmp_path, [(red, 0)] * 3, image_size=(16, 12))
    images = read_calibration_images(tmp_path, (16, 12))
    assert images.shape == (3, 16, 12, 3)
    np.testing.assert_allclose(images[0, 0, 0], (200, 0, 0), atol=3)


def test_images_come_from_a_file_of_pairs():
    assert read_calibration_images(PAIRS, (112, 112), num_images=7).shape == (7, 112, 112, 3)


def test_unusable_folders_and_images_are_named(tmp_path):
    with pytest.raises(ValueError, match=str(tmp_path)):
        read_calibration_images(tmp_path, (16, 12))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_calibration_images(tmp_path / "nowhere", (16, 12))
    (tmp_path / "1.jpg").write_bytes(jpeg(9))
    with pytest.raises(ValueError, match=r"16x12.*112 112"):
        read_calibration_images(tmp_path, (112, 112))
    (tmp_path / "2.jpg").write_bytes(jpeg(9, (20, 20)))
    with pytest.raises(ValueError, match=r"2\.jpg.*16x12.*20x20"):
        read_calibration_images(tmp_path, (16, 12))
    (tmp_path / "2.jpg").write_bytes(b"\xff\xd8broken")
    with pytest.raises(ValueError, match=r"2\.jpg: "):
        read_calibration_images(tmp_path, (16, 12))
