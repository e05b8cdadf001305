import logging
import pickle

import numpy as np
import pytest

from dataset.config import SourceConfig
from dataset.sources.image_list import ImageList, fingerprint


@pytest.fixture
def folder(tmp_path):
    for name in ("a.jpg", "b.jpg", "c d.jpg", "ä.jpg"):
        (tmp_path / name).write_bytes(name.encode() * 10)
    return tmp_path


def write(folder, text):
    (folder / "list.txt").write_bytes(text.encode())
    return folder / "list.txt"


def test_both_forms_of_lines_are_read(folder, caplog):
    path = write(folder, "a.jpg 0\nb.jpg\t2\r\n\nc d.jpg,1\nä.jpg , 1\nthree fields 7\nnone\n,3\n  b.jpg 0")
    source = ImageList(path)
    assert source.num_images == 5
    assert source.num_identities == 3
    assert source.labels.dtype == np.int64
    assert source.labels.tolist() == [0, 2, 1, 1, 0]
    assert source.image_size is None
    names = ["a.jpg", "b.jpg", "c d.jpg", "ä.jpg", "b.jpg"]
    assert [source.read(i) for i in range(5)] == [(name.encode() * 10, None) for name in names]
    assert [source.describe(i) for i in range(5)] == [str(folder / name) for name in names]
    assert source.num_bytes == 10 * len("".join(names).encode())
    assert "skipped 3 lines" in caplog.text and "line 6" in caplog.text


def test_a_name_with_a_zero_byte_is_skipped(folder, caplog):
    source = ImageList(write(folder, "a.jpg 0\nb\0.jpg 1\n"))
    assert (source.num_images, source.num_identities) == (1, 1)
    assert "line 2" in caplog.text


def test_paths_start_at_the_prefix(folder, tmp_path_factory):
    path = write(tmp_path_factory.mktemp("lists"), "a.jpg 0\n")
    assert ImageList(path, str(folder)).read(0)[0] == b"a.jpg" * 10
    with pytest.raises(ValueError, match="No such file"):
        ImageList(path).read(0)
    with pytest.raises(ValueError, match="Is a directory"):
        ImageList(write(folder, ". 0")).read(0)


@pytest.mark.parametrize("label", ["-1", "one", "1.0", "4294967296"])
def test_a_wrong_label_is_an_error(folder, label):
    source = ImageList(write(folder, f"a.jpg 0\nb.jpg {label}\n"))
    with pytest.raises(ValueError, match=f"list.txt: line 2: .* '{label}'"):
        source.labels  # noqa: B018


def test_a_list_without_images_is_an_error(folder):
    with pytest.raises(ValueError, match=r"list.txt: "):
        ImageList(write(folder, "")).num_identities  # noqa: B018
    with pytest.raises(FileNotFoundError, match=r"nowhere.txt: "):
        ImageList(folder / "nowhere.txt")


def test_missing_identities_are_logged(folder, caplog):
    assert ImageList(write(folder, "a.jpg 1\nb.jpg 4\n")).num_identities == 5
    assert "3 of 5 identities have no image" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert ImageList(write(folder, "a.jpg 1\nb.jpg 0\n")).num_identities == 2
    assert not caplog.records


def test_a_list_can_be_pickled(folder):
    source = ImageList(write(folder, "a.jpg 0\nb.jpg 1\n"))
    source.read(0)
    copy = pickle.loads(pickle.dumps(source))
    assert copy.labels.tolist() == [0, 1]
    assert copy.read(1) == source.read(1)


def test_the_fingerprint_depends_on_list_and_prefix(folder):
    def one(path, prefix=None):
        return fingerprint(SourceConfig("list", "train_list", path, prefix))

    path = write(folder, "a.jpg 0\n")
    first = one(path)
    assert one(path, folder) == first
    assert one(path, folder / "other") != first
    assert one(write(folder, "a.jpg 1\n")) != first


def test_size_of_a_long_list_is_estimated_upwards(folder, monkeypatch):
    monkeypatch.setattr("dataset.sources.image_list._LARGEST_EXACT_SIZE", 100)
    monkeypatch.setattr("dataset.sources.image_list._SIZE_SAMPLE", 50)
    source = ImageList(write(folder, "a.jpg 0\n" * 501 + "missing.jpg 0\n"))
    assert 501 * 50 <= source.num_bytes < 1.1 * 501 * 50
