"""Tests damaged and hostile `.keras` files. tests/nets/test_backbone.py reads good ones."""

import json
import zipfile

import h5py
import numpy as np
import pytest

from nets.backbone import Backbone, load_backbone
from nets.importers import keras_file


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    path = tmp_path_factory.mktemp("keras") / "net.keras"
    Backbone("ir32", (16, 16), embedding_size=8).save(path)
    return path


@pytest.fixture
def rewrite(good, tmp_path):
    """Writes the good file again with other entries."""

    def rewrite(compression=zipfile.ZIP_STORED, **changes):
        changes = {name.replace("__", "."): content for name, content in changes.items()}
        with zipfile.ZipFile(good) as old, zipfile.ZipFile(tmp_path / "net.keras", "w", compression) as new:
            for name in old.namelist():
                content = changes.get(name, old.read(name))
                if content is not None:
                    new.writestr(name, content)
        return tmp_path / "net.keras"

    return rewrite


@pytest.fixture
def no_net(monkeypatch):
    """Makes a test fail if a net is built. Bad files must be refused before that."""
    monkeypatch.setattr(keras_file, "Backbone", None)


def config_of(good, **changes):
    with zipfile.ZipFile(good) as file:
        config = json.loads(file.read("config.json"))
    config["config"] |= changes
    return json.dumps(config)


def refused(path):
    with pytest.raises(ValueError, match=r"net\.keras: ") as error:
        load_backbone(path)
    assert len(str(error.value)) < 1000
    return str(error.value)


@pytest.mark.usefixtures("no_net")
def test_compressed_zeros_are_refused(rewrite):
    path = rewrite(zipfile.ZIP_DEFLATED, model__weights__h5=bytes(10**7))
    assert path.stat().st_size < 10**5
    assert "compress" in refused(path)


@pytest.mark.usefixtures("no_net")
@pytest.mark.parametrize("options", [{"chunks": True, "compression": "gzip"}, {"chunks": (1 << 20,)}])
def test_arrays_that_take_more_memory_than_the_file_are_refused(rewrite, tmp_path, options):
    with h5py.File(tmp_path / "weights.h5", "w") as file:
        file.create_dataset("vars/0", (1 << 28,), "f4", **options)  # 1 GB of zeros
    assert (tmp_path / "weights.h5").stat().st_size < 10**6
    refused(rewrite(model__weights__h5=(tmp_path / "weights.h5").read_bytes()))


@pytest.mark.usefixtures("no_net")
@pytest.mark.parametrize(
    "changes",
    [
        {"embedding_size": 10**9},
        {"image_size": [10**6, 10**6]},
        {"image_size": [16, 16, 3]},
        {"image_size": 16},
        {"image_size": [True, 16]},
        {"embedding_size": "8"},
        {"architecture": "ir33"},
        {"architecture": ["ir32"]},
        {"seed": "1"},
    ],
)
def test_nets_that_the_file_cannot_hold_are_refused(good, rewrite, changes):
    refused(rewrite(config__json=config_of(good, **changes)))


@pytest.mark.usefixtures("no_net")
@pytest.mark.parametrize(
    "config", ["", "{", "[]", "[" * 10**5, " " * 2**21, '{"class_name": "Sequential"}', None]
)
def test_configurations_of_other_models_are_refused(rewrite, config):
    refused(rewrite(config__json=config))


@pytest.mark.usefixtures("no_net")
def test_damaged_files_are_refused(good, tmp_path):
    content, rng = good.read_bytes(), np.random.default_rng(0)
    path = tmp_path / "net.keras"
    for place in [0, 10, len(content) - 10, *rng.integers(0, len(content), 20)]:
        path.write_bytes(content[:place])
        refused(path)
    with zipfile.ZipFile(good) as file:
        directory = file.start_dir
    for place in rng.integers(directory, len(content), 40):  # the list of the entries
        damaged = bytearray(content)
        damaged[place] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        refused(path)  # even if the bit has no effect, because `no_net` keeps the net from being built


def test_a_dtype_policy_that_was_given_as_an_object_is_kept(good, rewrite):
    policy = {"module": "keras", "class_name": "DTypePolicy", "config": {"name": "mixed_bfloat16"}}
    backbone = load_backbone(rewrite(config__json=config_of(good, dtype=policy)))
    assert backbone.get_config()["dtype"] == "mixed_bfloat16"
    for one, two in zip(backbone.variables, load_backbone(good).variables, strict=True):
        np.testing.assert_array_equal(one, two)


def test_weights_of_another_net_are_refused(good, rewrite):
    refused(rewrite(config__json=config_of(good, architecture="se_ir32")))
