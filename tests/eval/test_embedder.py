import dataclasses
import doctest
import json

import numpy as np
import pytest

from eval.embedding import embedder as embedder_module
from eval.embedding.embedder import load_embedder
from eval.embedding.engines import Engine
from eval.embedding.extractor import NotFiniteError
from eval.scoring.templates import pool
from nets.importers.model_files import model_sha256
from tests.eval.file_nets import FACES, describe, expected, write_net
from tests.portrait import moving, scene, write_picture, write_video


@pytest.fixture
def embedder(tmp_path):
    return load_embedder(write_net(tmp_path / "net.onnx", ours=True))


def test_an_embedder_describes_its_model(embedder, tmp_path):
    path = tmp_path / "net.onnx"
    assert (embedder.path, embedder.sha256) == (path, model_sha256(path))
    assert (embedder.face_size, embedder.dim, embedder.engine) == ((12, 10), 12, Engine("onnxruntime"))


def test_embeddings_keep_their_length(embedder):
    np.testing.assert_allclose(embedder.embed(FACES), expected(FACES, plain=True), rtol=1e-5)
    assert embedder.embed(FACES[:0]).shape == (0, 12)


def test_larger_faces_are_cropped(embedder):
    larger = np.pad(FACES, ((0, 0), (1, 2), (3, 3), (0, 0)))
    np.testing.assert_array_equal(embedder.embed(larger), embedder.embed(FACES))


@pytest.mark.parametrize("faces", [FACES[:, :11], FACES[..., 0], FACES[0], FACES.astype(np.float32)])
def test_arrays_that_are_not_faces_are_refused(embedder, faces):
    with pytest.raises(ValueError, match=r"\(n, 12, 10, 3\)"):
        embedder.embed(faces)


def test_flip_adds_the_embedding_of_the_mirror_image(embedder):
    both = dataclasses.replace(embedder, flip=True).embed(FACES)
    np.testing.assert_allclose(
        both, embedder.embed(FACES) + embedder.embed(FACES[:, :, ::-1].copy()), rtol=1e-6
    )


def test_template_is_the_mean_of_the_embeddings(embedder):
    np.testing.assert_allclose(embedder.template(FACES), pool(expected(FACES, plain=True), "mean"), rtol=1e-5)


def test_face_size_can_be_larger_than_the_input(tmp_path):
    """A net that takes 12x10 embeds faces of 112x112 and sees their middle."""
    wide = load_embedder(write_net(tmp_path / "net.onnx", ours=True), (112, 112))
    assert wide.face_size == (112, 112)
    faces = np.zeros((1, 112, 112, 3), np.uint8)
    faces[:, 50:62, 51:61] = FACES[:1]
    np.testing.assert_allclose(wide.embed(faces), expected(FACES[:1], plain=True), rtol=1e-5)


def test_a_net_that_gives_nan_is_refused(tmp_path):
    path = write_net(tmp_path / "net.onnx", mean=[1e38] * 3, scale=[1e-30] * 3)
    with np.errstate(over="ignore"), pytest.raises(NotFiniteError, match=r"net\.onnx: "):
        load_embedder(path)


def test_a_missing_model_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing"):
        load_embedder(tmp_path / "nothing.onnx")


class TestPictures:
    @pytest.fixture
    def folder(self, tmp_path, monkeypatch):
        write_net(tmp_path / "face.onnx", (112, 112), ours=True)
        monkeypatch.chdir(tmp_path)
        return tmp_path

    def test_the_example_runs(self, folder):
        write_picture(folder / "first.jpg", scene())
        write_video(folder / "second.mp4", moving(6))
        example = doctest.DocTestFinder(recurse=False).find(load_embedder, globs=vars(embedder_module))
        assert doctest.DocTestRunner().run(example[0]).failed == 0 < len(example[0].examples)

    def test_a_picture_without_a_face_is_refused(self, folder):
        write_picture(folder / "wall.png", scene(hidden=True))
        with pytest.raises(ValueError, match=r"wall\.png: "):
            load_embedder(folder / "face.onnx").template(folder / "wall.png")


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", ["theirs.keras", "theirs"])
def test_models_of_other_projects_need_a_description(tmp_path, name):
    import keras

    images = keras.Input((12, 10, 3))
    x = keras.layers.Permute((3, 1, 2))(keras.layers.AveragePooling2D((6, 5))(images))
    net = keras.Model(images, keras.layers.Flatten()(x))
    net.save(tmp_path / name) if "." in name else net.export(tmp_path / name, verbose=False)
    with pytest.raises(ValueError, match=rf"{name}: .*{name}\.input\.json"):
        load_embedder(tmp_path / name)
    describe(tmp_path / name, layout="nhwc", channels="bgr")
    embedder = load_embedder(tmp_path / name)
    assert embedder.face_size == (12, 10) and embedder.engine == Engine("tensorflow")
    np.testing.assert_allclose(embedder.embed(FACES), expected(FACES, "bgr"), atol=1e-6)
    before = embedder.sha256
    description = tmp_path / f"{name}.input.json"
    description.write_text(json.dumps({**json.loads(description.read_text()), "channels": "rgb"}))
    assert model_sha256(tmp_path / name) != before
    content = tmp_path / name if "." in name else tmp_path / name / "saved_model.pb"
    damaged = bytearray(content.read_bytes())
    damaged[len(damaged) // 2 :: 5] = bytes(len(damaged[len(damaged) // 2 :: 5]))
    content.write_bytes(damaged)
    with pytest.raises(ValueError, match=rf"{name}: [^\n]+$"):
        load_embedder(tmp_path / name)
