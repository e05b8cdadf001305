import pytest

from dataset.pairs.image_folders import list_images, natural_key


@pytest.mark.parametrize(
    "names",
    [
        ["0.9", "1", "2", "10", "a2b10", "a10b2", "a10b10"],
        ["0.1.jpeg", "0.2.PNG", "0.02.jpg", "0.10.jpg", "2.jpg", "10.1.jpg", "a.jpg"],
        ["video 9", "video 10", "video x"],
    ],
)
def test_numbers_in_names_sort_by_value(names):
    assert sorted(sorted(names, reverse=True), key=natural_key) == names


def test_images_are_listed_in_natural_order(tmp_path):
    for name in ("0.10.jpg", "0.2.PNG", "0.1.jpeg", "10.1.jpg", "2.jpg", "a.jpg", ".hidden.jpg", "x.gif"):
        (tmp_path / name).touch()
    (tmp_path / "folder.jpg").mkdir()
    assert list_images(tmp_path) == ["0.1.jpeg", "0.2.PNG", "0.10.jpg", "2.jpg", "10.1.jpg", "a.jpg"]
    assert list_images(tmp_path / "nothing") == []
