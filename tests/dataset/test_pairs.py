import hashlib
import json
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest

from dataset.pairs.image_pairs import read_image_pairs, read_pairs
from dataset.pairs.lfw import read_lfw_pairs
from tests.dataset.samples import encoded_image, with_orientation

GOLDEN = Path(__file__).parent.parent / "golden" / "pairs"
FILES = ("pairs_py2.bin", "pairs_py3.bin", "pairs_py2.np", "pairs_py3.np")


def picture(seed, height=12, width=10):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def encoded(image):
    """Returns a PNG, because it is lossless."""
    return cv2.imencode(".png", image[..., ::-1])[1].tobytes()


@pytest.fixture
def write(tmp_path):
    def write(content):
        path = tmp_path / "pairs"
        path.write_bytes(pickle.dumps(content))
        return path

    return write


class TestGolden:
    @pytest.mark.parametrize("name", FILES)
    def test_every_format_has_the_same_pairs(self, name):
        expected = json.loads((GOLDEN / "pairs.json").read_text())
        pair_set = read_pairs(GOLDEN / name)
        assert len(pair_set) == expected["pairs"]
        assert pair_set.is_same.dtype == bool
        assert pair_set.is_same.sum() == expected["positive"]

        images = pair_set.batch(0, 2 * len(pair_set))
        assert images.shape == (80, 112, 112, 3)
        assert images.dtype == np.uint8
        by_pair = images.reshape(-1, 2, *images.shape[1:])
        first_positive = by_pair[pair_set.is_same][0, 0]
        assert hashlib.sha256(first_positive.tobytes()).hexdigest() == expected["first_positive_sha256_rgb"]

        with (GOLDEN / "pairs_py3.np").open("rb") as file:
            positives, negatives = pickle.load(file)
        np.testing.assert_array_equal(by_pair[pair_set.is_same], positives)
        np.testing.assert_array_equal(by_pair[~pair_set.is_same], negatives)

    def test_order_of_the_file_is_kept(self):
        np.testing.assert_array_equal(
            read_pairs(GOLDEN / "pairs_py2.bin").is_same, np.tile(np.repeat([True, False], 5), 4)
        )


class TestArrays:
    def test_bgr_arrays_become_rgb(self, write):
        images = [picture(seed) for seed in range(4)]
        path = write(([images[:2]], [images[2:]]))
        np.testing.assert_array_equal(read_pairs(path).batch(0, 4), images)
        np.testing.assert_array_equal(
            read_pairs(path, order="bgr").batch(0, 4), [image[..., ::-1] for image in images]
        )

    def test_pairs_may_be_stacked_in_arrays(self, write):
        images = np.stack([picture(seed) for seed in range(8)]).reshape(2, 2, 2, 12, 10, 3)
        pair_set = read_pairs(write((images[0], list(images[1]))))
        assert pair_set.is_same.tolist() == [True, True, False, False]
        np.testing.assert_array_equal(pair_set.batch(0, 8), images.reshape(-1, 12, 10, 3))

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (([], []), "received no pairs"),
            (([[picture(0)]], []), "pair 0: .*length 1"),
            (([[picture(0), picture(1)]], [None]), "pair 1: .*None"),
            (([[picture(0), picture(1).astype(float)]], []), "image 1: .*float64"),
            (([[picture(0), picture(1)[..., 0]]], []), r"image 1: .* shape \(12, 10\)"),
            (([[picture(0), picture(1, 9, 10)]], []), "image 1: .*12x10.*9x10"),
        ],
    )
    def test_bad_content_is_an_error(self, write, content, message):
        path = write(content)
        with pytest.raises(ValueError, match=message) as error:
            read_pairs(path)
        assert str(path) in str(error.value)


class TestEncoded:
    def test_encoded_images_ignore_the_order(self, write):
        images = [picture(seed) for seed in range(4)]
        path = write(([encoded(image) for image in images], [False, True]))
        for order in ("rgb", "bgr"):
            pair_set = read_pairs(path, order)
            np.testing.assert_array_equal(pair_set.batch(0, 4), images)
            assert pair_set.is_same.tolist() == [False, True]

    @pytest.mark.parametrize(
        "answers", [(True, False), [1, 0], np.array([True, False]), [np.True_, np.False_], [np.int64(1), 0]]
    )
    def test_is_same_may_have_several_types(self, write, answers):
        pair_set = read_pairs(write(([encoded(picture(0))] * 4, answers)))
        assert pair_set.is_same.dtype == bool
        assert pair_set.is_same.tolist() == [True, False]

    def test_only_requested_images_are_decoded(self, write, monkeypatch):
        pair_set = read_pairs(write(([encoded(picture(seed)) for seed in range(6)], [True] * 3)))
        calls, decode = [], cv2.imdecode
        monkeypatch.setattr(cv2, "imdecode", lambda *args: calls.append(args) or decode(*args))
        pair_set.batch(2, 4)
        assert len(calls) == 2

    @pytest.mark.parametrize("damage", [b"", b"\xff\xd8 nothing", encoded(picture(0))[:200]])
    def test_an_undecodable_image_is_an_error(self, write, damage):
        path = write(([encoded(picture(0))] * 3 + [damage], [True, False]))
        pair_set = read_pairs(path)
        assert pair_set.batch(0, 3).shape == (3, 12, 10, 3)
        with pytest.raises(ValueError, match=f"^{path}: image 3: "):
            pair_set.batch(2, 4)

    def test_an_exif_orientation_is_ignored(self, write, tmp_path):
        image = encoded_image(0, 24, 20)
        turned = with_orientation(image)
        assert cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_COLOR).shape == (20, 24, 3)
        pair_set = read_pairs(write(([image, turned], [True])))
        np.testing.assert_array_equal(*pair_set.batch(0, 2))
        (tmp_path / "a.jpg").write_bytes(image)
        (tmp_path / "b.jpg").write_bytes(turned)
        (tmp_path / "list.txt").write_text("1,a.jpg,b.jpg\n")
        np.testing.assert_array_equal(
            read_image_pairs(tmp_path / "list.txt", tmp_path).batch(0, 2), pair_set.batch(0, 2)
        )

    def test_an_undecodable_first_image_is_an_error(self, write):
        with pytest.raises(ValueError, match="image 0: "):
            read_pairs(write(([b"?", encoded(picture(0))], [True])))

    def test_another_size_is_an_error(self, write):
        pair_set = read_pairs(write(([encoded(picture(0)), encoded(picture(1, 9, 10))], [True])))
        with pytest.raises(ValueError, match=r"image 1: .*12x10.*9x10"):
            pair_set.batch(0, 2)

    @pytest.mark.parametrize(
        ("images", "is_same", "message"),
        [
            (3, [True, False], "4 images for 2 pairs.* 3"),
            (4, [True, 2], "pair 1: .* 2"),
            (4, [True, b"1"], "pair 1: .*bytes"),
            (4, [[True], [False]], "pair 0: .*list"),
        ],
    )
    def test_bad_is_same_is_an_error(self, write, images, is_same, message):
        with pytest.raises(ValueError, match=message):
            read_pairs(write(([encoded(picture(0))] * images, is_same)))

    def test_mixed_types_of_images_are_an_error(self, write):
        with pytest.raises(ValueError, match=r"image 1: .*array"):
            read_pairs(write(([encoded(picture(0)), picture(1)], [True])))


class TestBatch:
    def test_the_last_batch_may_be_shorter(self, write):
        pair_set = read_pairs(write(([[picture(0), picture(1)]], [])))
        assert pair_set.batch(1, 65).shape == (1, 12, 10, 3)
        with pytest.raises(ValueError, match="2 to 66"):
            pair_set.batch(2, 66)


@pytest.mark.parametrize("content", [7, [1, 2, 3], (1, 2), ([1], 2), (np.array(1), [True]), ("ab", "cd")])
def test_another_layout_is_an_error(write, content):
    with pytest.raises(ValueError, match=r"\(images, is_same\)"):
        read_pairs(write(content))


def test_faces_that_are_too_large_are_not_decoded(write, monkeypatch):
    """A small file can hold images of millions of pixels, and a batch has many of them."""
    image = encoded(np.zeros((1024, 1025, 3), np.uint8))
    monkeypatch.setattr("cv2.imdecode", None)
    with pytest.raises(ValueError, match=r"image 0: .*1048576 pixels, received 1024x1025"):
        read_pairs(write(([image, image], [True])))


def test_arrays_without_pixels_take_no_memory(write):
    with pytest.raises(ValueError, match="at most 500000 pairs"):
        read_pairs(write((np.zeros((10**9, 0), np.uint8), [])))


def test_long_lines_are_cut(tmp_path):
    path = tmp_path / "pairs.txt"
    path.write_text("x" * 10**6)
    for read in (lambda: read_image_pairs(path, tmp_path), lambda: read_lfw_pairs(path)):
        with pytest.raises(ValueError, match="line 1: ") as error:
            read()
        assert len(str(error.value)) < 300 + len(str(path))
    path.write_text("9" * 10**4)
    with pytest.raises(ValueError, match="line 1: "):
        read_lfw_pairs(path)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"lfw\.bin"):
        read_pairs(tmp_path / "lfw.bin")
