import importlib.metadata
import logging

import numpy as np
import pytest
import tensorflow as tf

from dataset.preprocess import preprocess
from eval.embedding import engines as engine
from eval.embedding import engines as load_engine
from eval.embedding.engines import Engine, engines_for
from eval.embedding.face_model import FaceModel, load_face_model
from export.saved_model import export_saved_model
from nets.backbone import Backbone
from nets.importers.keras_file import save_keras_file

FACES = np.random.default_rng(0).integers(0, 256, (5, 40, 32, 3), np.uint8)
TENSORFLOW, OPENVINO = Engine("tensorflow"), Engine("openvino")


def pretend(monkeypatch, *installed):
    def version(name):
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.2"

    monkeypatch.setattr(engine.importlib.metadata, "version", version)


class TestEnginesFor:
    def test_with_openvino(self, monkeypatch):
        pretend(monkeypatch, "tensorflow", "openvino")
        assert engines_for("auto") == (OPENVINO, TENSORFLOW)
        assert engines_for("openvino") == (OPENVINO,)
        assert engines_for("tensorflow") == (TENSORFLOW,)
        assert engines_for("auto", "bfloat16") == (Engine("openvino", "bfloat16"),)
        assert str(OPENVINO) == "openvino 1.2, float32"

    def test_without(self, monkeypatch):
        pretend(monkeypatch, "tensorflow")
        assert engines_for("auto") == (TENSORFLOW,)
        with pytest.raises(ValueError, match="--engine openvino: expected the package openvino"):
            engines_for("openvino")
        with pytest.raises(ValueError, match="--precision bfloat16: expected the package openvino"):
            engines_for("auto", "bfloat16")
        with pytest.raises(ValueError, match="expected float32 with --engine tensorflow, received bfloat16"):
            engines_for("tensorflow", "bfloat16")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The same net as our SavedModel, as a Keras file, and as somebody else's SavedModel."""
    folder = tmp_path_factory.mktemp("models")
    backbone = Backbone("iresnet18", (32, 24), embedding_size=64, seed=2)
    backbone(preprocess(tf.constant(FACES), (32, 24)), training=True)
    for layer in backbone.layers:
        if hasattr(layer, "alphas"):
            layer.alphas.assign(np.linspace(-0.5, 0.9, layer.alphas.shape[0]))
    export_saved_model(backbone, folder / "ours", (40, 32))
    save_keras_file(backbone, folder / "net.keras")
    export_saved_model(backbone, folder / "theirs", (40, 32))
    (folder / "theirs" / "net.json").unlink()
    return folder


@pytest.mark.parametrize("name", ["ours", "net.keras", "theirs"])
def test_openvino_agrees(models, name):
    expected = load_face_model(models / name, (40, 32)).embed(FACES)
    model, used, rates = load_engine.load_engine(models / name, (40, 32), (OPENVINO,), FACES)
    assert used == OPENVINO and not rates and not isinstance(model, FaceModel) and model.face_size == (40, 32)
    received = model.embed(FACES[:, :, ::-1][:, :, ::-1])  # as `flip` gives it: not contiguous
    np.testing.assert_allclose(received, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    np.testing.assert_array_equal(model.embed(FACES), received)
    with pytest.raises(ValueError, match=r"faces: expected shape \(batch, \*\(40, 32\), 3\)"):
        model.embed(FACES[:, :30])


def test_bfloat16_is_for_who_asks(models):
    asked = Engine("openvino", "bfloat16")
    model, used, _ = load_engine.load_engine(models / "ours", (40, 32), (asked,), FACES)
    assert used == asked
    expected = load_face_model(models / "ours", (40, 32)).embed(FACES)
    cosines = (model.embed(FACES) * expected).sum(1) / np.linalg.norm(model.embed(FACES), axis=1)
    np.testing.assert_allclose(cosines / np.linalg.norm(expected, axis=1), 1, atol=1e-2)


@pytest.mark.parametrize(("rate", "fastest"), [(106, OPENVINO), (104, TENSORFLOW), (50, TENSORFLOW)])
def test_the_fastest_is_taken(models, monkeypatch, rate, fastest):
    def images_per_second(model, faces):
        assert faces is FACES
        return 100 if isinstance(model, FaceModel) else rate

    monkeypatch.setattr(load_engine, "_open_vino", lambda path, face_size, _: Same(path, face_size))
    monkeypatch.setattr(load_engine, "_images_per_second", images_per_second)
    path = models / "net.keras"
    model, used, rates = load_engine.load_engine(path, (40, 32), (OPENVINO, TENSORFLOW), FACES)
    assert used == fastest and isinstance(model, Same) == (fastest == OPENVINO)
    assert rates == {TENSORFLOW: 100, OPENVINO: rate}
    line = engine.describe_engine(used, rates)
    assert line.startswith(f"Engine : {fastest.name} ")
    assert line.endswith(f" (images/s: tensorflow 100.0, openvino {rate}.0)")


def test_images_per_second(monkeypatch):
    ticks = iter([0, 5, 10, 12])
    monkeypatch.setattr(load_engine.time, "perf_counter", lambda: next(ticks))
    assert load_engine._images_per_second(Wrong(), FACES) == len(FACES) / 2


class Same:
    """An engine that gives TensorFlow's embeddings."""

    def __init__(self, path, face_size):
        self._model = load_face_model(path, face_size)

    def embed(self, faces):
        return self._model.embed(faces)


class Wrong:
    """An engine whose embeddings are others."""

    def __init__(self, *_):
        pass

    def embed(self, faces):
        return np.random.default_rng(0).normal(size=(len(faces), 64)).astype(np.float32)


class Unable:
    def __init__(self, *_):
        raise RuntimeError("first line\nno such operation")


@pytest.mark.parametrize(("broken", "why"), [(Wrong, "a difference of"), (Unable, "no such operation")])
def test_an_engine_that_fails(models, monkeypatch, caplog, broken, why):
    monkeypatch.setattr(load_engine, "_open_vino", broken)
    path = models / "net.keras"
    with caplog.at_level(logging.WARNING):
        model, used, _ = load_engine.load_engine(path, (40, 32), (OPENVINO, TENSORFLOW), FACES)
    assert used == TENSORFLOW and isinstance(model, FaceModel)
    assert why in caplog.text and "TensorFlow is used" in caplog.text
    with pytest.raises(ValueError, match=f"net.keras: openvino .*, float32: .*{why}"):
        load_engine.load_engine(path, (40, 32), (OPENVINO,), FACES)


def test_a_gpu_is_used(models, monkeypatch):
    monkeypatch.setattr(load_engine, "_open_vino", Unable)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind])
    _, used, _ = load_engine.load_engine(models / "net.keras", (40, 32), (OPENVINO, TENSORFLOW), FACES)
    assert used == TENSORFLOW
    with pytest.raises(ValueError, match="no such operation"):
        load_engine.load_engine(models / "net.keras", (40, 32), (OPENVINO,), FACES)
