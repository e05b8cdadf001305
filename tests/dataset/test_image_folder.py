import os
import pickle

import numpy as np
import pytest

from dataset.config import read_config
from dataset.convert.sources import convert_sources
from dataset.sampling.combine import CombinedSources
from dataset.sources import open_source, source_fingerprint
from dataset.sources.image_folder import ImageFolder
from tests.dataset.samples import encoded_image

NAMES = ("2.jpg", "10.PNG", os.fsdecode(b"\xff.jpg"), "Anna/1.jpg")  # in natural order


@pytest.fixture
def config(tmp_path):
    """A config with a folder that contains images and other files."""
    for name in (*NAMES, ".hidden.jpg", ".thumbs/1.jpg", "Anna/notes.txt"):
        path = tmp_path / "faces" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded_image(len(name), 32, 24))
    (tmp_path / "config.ini").write_text("[records]\ntfrecords = records\n[faces]\nfolder = faces\n")
    return read_config(tmp_path / "config.ini")


def test_all_images_below_a_folder_are_read(config):
    source = pickle.loads(pickle.dumps(open_source(config.source("faces"))))
    assert (source.num_images, source.num_identities, source.labels.tolist()) == (4, 1, [0] * 4)
    folder = config.source("faces").path
    for index, name in enumerate(NAMES):
        assert source.read(index) == ((folder / name).read_bytes(), None)
        assert source.describe(index) == str(folder / name)
    assert source.num_bytes == sum((folder / name).stat().st_size for name in NAMES)


def test_a_changed_folder_is_converted_again(config):
    (manifest,) = convert_sources(config, ["faces"])
    assert (manifest.num_images, manifest.image_size) == (4, (32, 24))
    assert not np.concatenate(CombinedSources([manifest]).labels).any()
    before = source_fingerprint(config.source("faces"))
    assert before == manifest.fingerprint
    (config.source("faces").path / "new.jpg").write_bytes(encoded_image(1, 32, 24))
    assert source_fingerprint(config.source("faces")) != before


def test_folders_that_cannot_be_used_are_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        ImageFolder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=str(tmp_path)):
        ImageFolder(tmp_path).num_images  # noqa: B018
