import argparse
import dataclasses
import importlib.metadata

import numpy as np
import pytest
import tensorflow as tf

from common.options import parse_options
from dataset.preprocess import preprocess
from eval.embedding import engines
from eval.embedding.embedder import load_embedder
from eval.embedding.engines import Engine, EngineOptions, load_engine
from eval.embedding.face_model import FaceModel, load_face_model
from export.saved_model import export_saved_model
from nets.backbone import Backbone
from nets.importers.keras_file import save_keras_file

FACES = np.random.default_rng(0).integers(0, 256, (5, 40, 32, 3), np.uint8)
FACE_SIZE = (40, 32)
MANY = engines._MIN_IMAGES_TO_MEASURE
TENSORFLOW, OPENVINO = Engine("tensorflow"), Engine("openvino")


def pretend(monkeypatch, *installed):
    def version(name):
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.2"

    monkeypatch.setattr(importlib.metadata, "version", version)


class TestOptions:
    @pytest.mark.parametrize(
        ("flags", "engine"),
        [
            ([], TENSORFLOW),
            (["--engine=openvino"], OPENVINO),
            (["--engine=openvino", "--precision=bfloat16"], Engine("openvino", "bfloat16")),
            (["--precision=bfloat16"], Engine("openvino", "bfloat16")),
        ],
    )
    def test_flags_choose_the_engine(self, monkeypatch, flags, engine):
        pretend(monkeypatch, "tensorflow", "openvino")
        assert parse_options(argparse.ArgumentParser(), EngineOptions, flags).chosen == engine
        assert str(engine) == f"{engine.name} 1.2, {engine.precision}"

    @pytest.mark.parametrize(
        ("flags", "shown"),
        [
            (["--engine=openvino"], "pip install openvino"),
            (["--precision=bfloat16"], "pip install openvino"),
            (["--engine=tensorflow", "--precision=bfloat16"], "Use float32"),
            (["--engine=auto"], "--engine is auto. Give one of"),
        ],
    )
    def test_impossible_engines_are_refused(self, monkeypatch, capsys, flags, shown):
        pretend(monkeypatch, "tensorflow")
        with pytest.raises(SystemExit):
            parse_options(argparse.ArgumentParser(), EngineOptions, flags)
        assert shown in capsys.readouterr().err


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The same net as our SavedModel, as a Keras file, and as a SavedModel of another project."""
    folder = tmp_path_factory.mktemp("models")
    backbone = Backbone("iresnet18", (32, 24), embedding_size=64, seed=2)
    backbone(preprocess(tf.constant(FACES), (32, 24)), training=True)
    for layer in backbone.layers:
        if hasattr(layer, "alphas"):
            layer.alphas.assign(np.linspace(-0.5, 0.9, layer.alphas.shape[0]))
    export_saved_model(backbone, folder / "ours", FACE_SIZE)
    save_keras_file(backbone, folder / "net.keras")
    export_saved_model(backbone, folder / "theirs", FACE_SIZE)
    (folder / "theirs" / "net.json").unlink()
    return folder


@pytest.mark.parametrize("name", ["ours", "net.keras", "theirs"])
def test_openvino_gives_the_same_embeddings(models, name):
    expected = load_face_model(models / name, FACE_SIZE).embed(FACES)
    model, description = load_engine(OPENVINO, models / name, FACE_SIZE, FACES, MANY)
    assert description == f"Engine : {OPENVINO}"
    assert not isinstance(model, FaceModel) and model.face_size == FACE_SIZE
    received = model.embed(FACES[:, :, ::-1][:, :, ::-1])  # like the faces of `flip`: not contiguous
    np.testing.assert_allclose(received, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    np.testing.assert_array_equal(model.embed(FACES), received)
    with pytest.raises(ValueError, match=r"\(batch, \*\(40, 32\), 3\)"):
        model.embed(FACES[:, :30])


@pytest.mark.parametrize(("name", "face_size"), [("ours", FACE_SIZE), ("net.keras", (32, 24))])
def test_an_embedder_has_the_face_size_of_its_model(models, name, face_size):
    """It takes faces of the size that the model takes, and crops larger ones."""
    embedder = load_embedder(models / name)
    assert (embedder.face_size, embedder.dim, embedder.engine) == (face_size, 64, TENSORFLOW)
    expected = load_face_model(models / "ours", FACE_SIZE).embed(FACES)
    received = embedder.embed(FACES)
    np.testing.assert_allclose(received, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_bfloat16_gives_nearly_the_same_embeddings(models):
    model, description = load_engine(Engine("openvino", "bfloat16"), models / "ours", FACE_SIZE, FACES, MANY)
    assert "bfloat16" in description
    expected = load_face_model(models / "ours", FACE_SIZE).embed(FACES)
    cosines = (model.embed(FACES) * expected).sum(1) / np.linalg.norm(model.embed(FACES), axis=1)
    np.testing.assert_allclose(cosines / np.linalg.norm(expected, axis=1), 1, atol=1e-2)


class Same:
    """An engine that gives TensorFlow's embeddings."""

    def __init__(self, path):
        self._model = load_face_model(path, FACE_SIZE)

    def embed(self, faces):
        return self._model.embed(faces)


class Wrong:
    """An engine that gives other embeddings."""

    def __init__(self, *_):
        pass

    def embed(self, faces):
        return np.random.default_rng(0).normal(size=(len(faces), 64)).astype(np.float32)


class Unable:
    def __init__(self, *_):
        raise RuntimeError("first line\nno such operation")


@pytest.fixture
def replace_openvino(monkeypatch):
    """Replaces OpenVINO's model by another class."""
    load = engines._load

    def replace(model_class):
        def load_other(engine, path, face_size):
            return load(engine, path, face_size) if engine == TENSORFLOW else model_class(path)

        monkeypatch.setattr(engines, "_load", load_other)

    return replace


class TestHint:
    """TensorFlow is used, whatever the timing says. The description says if another engine is faster."""

    @pytest.mark.parametrize(("rate", "hint"), [(250, ["--engine", "openvino", "2.5"]), (104, []), (50, [])])
    def test_the_hint_says_how_much_faster_openvino_is(
        self, models, monkeypatch, replace_openvino, rate, hint
    ):
        def images_per_second(model, faces):
            assert faces is FACES
            return 100 if isinstance(model, FaceModel) else rate

        replace_openvino(Same)
        monkeypatch.setattr(engines, "_images_per_second", images_per_second)
        model, description = load_engine(TENSORFLOW, models / "net.keras", FACE_SIZE, FACES, MANY)
        assert isinstance(model, FaceModel)
        first, *others = description.splitlines()
        assert first == f"Engine : {TENSORFLOW}"
        assert len(others) == bool(hint) and all(word in description for word in hint)

    @pytest.mark.parametrize("broken", [Wrong, Unable])
    def test_an_engine_that_fails_is_not_recommended(self, models, replace_openvino, broken):
        replace_openvino(broken)
        _, description = load_engine(TENSORFLOW, models / "net.keras", FACE_SIZE, FACES, MANY)
        assert description == f"Engine : {TENSORFLOW}"

    @pytest.mark.parametrize("why_not", ["few images", "a GPU", "not installed"])
    def test_other_engines_are_not_timed(self, models, monkeypatch, replace_openvino, why_not):
        replace_openvino(Same)
        monkeypatch.setattr(engines, "_images_per_second", lambda *_: 1 / 0)
        num_images = MANY
        if why_not == "few images":
            num_images -= 1
        elif why_not == "a GPU":
            monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind])
        else:
            pretend(monkeypatch, "tensorflow")
        load_engine(TENSORFLOW, models / "net.keras", FACE_SIZE, FACES, num_images)


@pytest.mark.parametrize(("broken", "why"), [(Wrong, "differ"), (Unable, "no such operation")])
def test_a_chosen_engine_that_fails_is_an_error(models, replace_openvino, broken, why):
    replace_openvino(broken)
    with pytest.raises(ValueError, match=f"net.keras: .*openvino .*{why}"):
        load_engine(OPENVINO, models / "net.keras", FACE_SIZE, FACES, MANY)


def test_a_new_engine_needs_a_module_and_a_table_entry(models, monkeypatch, tmp_path):
    (tmp_path / "halved.py").write_text(
        "from eval.embedding.face_model import FaceModel, load_face_model\n"
        "def load_model(path, face_size, precision):\n"
        "    model = load_face_model(path, face_size)\n"
        "    return FaceModel(lambda faces: model.function(faces) / 2, face_size)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(engines.ENGINES, "halved", engines._Implementation("halved", ("float32",)))
    model, description = load_engine(Engine("halved"), models / "net.keras", FACE_SIZE, FACES, MANY)
    assert description.startswith("Engine : halved")
    expected = load_face_model(models / "net.keras", FACE_SIZE).embed(FACES) / 2
    np.testing.assert_allclose(model.embed(FACES), expected, rtol=1e-5)


def test_an_engine_is_stored_by_name_and_precision():
    assert dataclasses.asdict(OPENVINO) == {"name": "openvino", "precision": "float32"}
