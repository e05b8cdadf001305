import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from common.options import parse_options
from dataset.pairs.image_pairs import read_pairs
from eval import test_lfw
from eval.embedding.embedder import load_embedder
from eval.embedding.engines import FILE_ENGINES, Engine, EngineOptions, load_engine
from eval.embedding.file_model import FileModel, NetInput
from eval.scoring.verification import evaluate_pairs
from nets.importers.model_files import find_model, model_sha256
from tests.eval.file_nets import FACES, SUFFIXES, describe, expected, write_net
from tests.eval.video_sets import precisions

ROOT = Path(__file__).parents[2]
PAIRS = ROOT / "tests" / "golden" / "pairs" / "pairs_py3.bin"
# Only TensorFlow can write a TFLite file.
TFLITE = pytest.param(".tflite", marks=pytest.mark.tensorflow)
KINDS = [pytest.param(suffix, marks=TFLITE.marks if suffix == ".tflite" else ()) for suffix in SUFFIXES]
COMBINATIONS = [
    *(
        (kind, batch, layout)
        for kind in (".onnx", ".xml")
        for batch in (None, 1, 2)
        for layout in ("nchw", "nhwc")
    ),
    *(
        pytest.param(".tflite", *rest, marks=TFLITE.marks)
        for rest in ((None, "nchw"), (1, "nhwc"), (2, "nhwc"))
    ),
]


def load(path, face_size=(12, 10)):
    engine = EngineOptions().chosen_for(path)
    assert engine.name == FILE_ENGINES[path.suffix].package
    return load_engine(engine, path, face_size, None, num_images=1)[0]


@pytest.mark.parametrize("channels", ["rgb", "bgr"])
@pytest.mark.parametrize(("kind", "batch", "layout"), COMBINATIONS)
def test_every_runtime_and_layout_gives_the_embeddings(tmp_path, kind, batch, layout, channels):
    path = write_net(tmp_path / f"net{kind}", batch=batch, layout=layout, channels=channels)
    embeddings = load(path).embed(FACES)
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(embeddings, expected(FACES, channels), atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_this_project_need_no_description(tmp_path, kind):
    """The length of an embedding is kept, too."""
    model = load(write_net(tmp_path / f"net{kind}", ours=True), face_size=None)
    assert model.face_size == (12, 10)
    for faces in (FACES, FACES[:2]):
        np.testing.assert_allclose(model.embed(faces), expected(faces, plain=True), rtol=1e-5)


@pytest.mark.tensorflow
def test_a_quantised_tflite_file_is_dequantised(tmp_path):
    import tensorflow as tf

    net = tf.keras.Sequential([tf.keras.Input((12, 10, 3)), tf.keras.layers.AveragePooling2D((6, 5))])
    convert = tf.lite.TFLiteConverter.from_keras_model(net)
    convert.optimizations = [tf.lite.Optimize.DEFAULT]
    images = ((FACES - 127.5) / 128).astype(np.float32)
    convert.representative_dataset = lambda: ([image[None]] for image in images)
    convert.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    convert.inference_input_type = convert.inference_output_type = tf.int8
    path = tmp_path / "net.tflite"
    path.write_bytes(convert.convert())
    describe(path, layout="nhwc", mean=[127.5] * 3, scale=[128] * 3)
    quarters = images.reshape(5, 2, 6, 2, 5, 3).mean(axis=(2, 4)).reshape(5, 12)
    np.testing.assert_allclose(load(path).embed(FACES), quarters, atol=0.01)


class TestSizes:
    def test_larger_faces_are_cropped(self, tmp_path):
        faces = np.zeros((2, 15, 11, 3), np.uint8)
        faces[:, 1:13, :10] = FACES[:2]  # The smaller margins are at the top and left.
        embeddings = load(write_net(tmp_path / "net.onnx"), (15, 11)).embed(faces)
        np.testing.assert_allclose(embeddings, expected(FACES[:2]), atol=1e-6)

    def test_smaller_faces_are_refused(self, tmp_path):
        with pytest.raises(ValueError, match=r"net\.onnx.*\(12, 10\).*\(12, 9\)"):
            load(write_net(tmp_path / "net.onnx"), (12, 9))

    @pytest.mark.parametrize("kind", [".onnx", ".xml"])
    def test_the_description_fills_what_the_file_leaves_open(self, tmp_path, kind):
        path = write_net(tmp_path / f"net{kind}", (None, None))
        assert load(path, None).face_size == (112, 112)
        describe(path, size=[12, 10], batch=2)
        model = load(path, None)
        assert model.face_size == (12, 10)
        np.testing.assert_allclose(model.embed(FACES), expected(FACES), atol=1e-6)

    @pytest.mark.parametrize(
        ("changes", "shown"), [({"size": [12, 11]}, "width is 11"), ({"batch": 3}, "batch is 3")]
    )
    def test_a_description_that_contradicts_the_file_is_refused(self, tmp_path, changes, shown):
        path = write_net(tmp_path / "net.onnx", batch=2)
        describe(path, **changes)
        with pytest.raises(ValueError, match=rf"net\.onnx\.input\.json: {shown}.*\[2, 3, 12, 10\]"):
            load(path, (12, 12))

    @pytest.mark.parametrize("changes", [{"batch": 10**7}, {"image_size": (12, 10**8)}])
    def test_giant_inputs_are_refused(self, tmp_path, changes):
        with pytest.raises(ValueError, match=r"net\.onnx: .*pixels"):
            load(write_net(tmp_path / "net.onnx", **changes), None)

    def test_an_error_names_a_size_that_the_net_cannot_take(self, tmp_path):
        model = load(write_net(tmp_path / "net.xml", (None, None), size=[4, 4]))
        with pytest.raises(ValueError, match=r"net\.xml: .*\[5, 3, 4, 4\]"):
            model.embed(FACES)


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"channels": "rbg"}, "rbg"),
        ({"layout": "nhcw"}, "nhcw"),
        ({"scale": [1, 0, 1]}, "scale"),
        ({"mean": [1, 2]}, "mean"),
        ({"mean": None}, "mean"),
        ({"size": [0, 10]}, "size"),
        ({"batch": 0}, "batch"),
    ],
)
def test_wrong_descriptions_are_refused(tmp_path, changes, shown):
    path = write_net(tmp_path / "net.onnx")
    describe(path, **changes)
    with pytest.raises(ValueError, match=rf"net\.onnx\.input\.json.*{shown}"):
        load(path)


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_refused(tmp_path, kind):
    path = write_net(tmp_path / f"net{kind}")
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match=rf"net\{kind}: [^\n]*$"):
        load(path)
    path.with_name(f"net{kind}.input.json").write_text("{")
    with pytest.raises(ValueError, match=rf"net\{kind}\.input\.json: [^\n]*$"):
        load(path)


ONNX_WEIGHTS = pytest.param(".onnx", marks=pytest.mark.tensorflow)  # Imported into TensorFlow.


@pytest.mark.parametrize("kind", [".xml", TFLITE, ONNX_WEIGHTS])
def test_files_without_a_description_are_refused(tmp_path, kind):
    with pytest.raises(ValueError, match=rf"net\{kind}\.input\.json"):
        load_embedder(write_net(tmp_path / f"net{kind}", described=False))


def test_normalised_pixels_are_refused_for_an_integer_input(tmp_path):
    """An integer input without quantisation cannot hold normalised pixels."""
    path = write_net(tmp_path / "net.xml", ours=True)
    describe(path, layout="nhwc")
    with pytest.raises(ValueError, match=r"net\.xml\.input\.json: .*uint8"):
        load(path)


@pytest.mark.parametrize("shapes", [((5, 4), (4,)), ((4, 4), (5,)), ((5, 0), (5,))])
def test_outputs_without_one_row_per_image_are_refused(shapes):
    class Net(FileModel):
        _runtime = "made up"

        def _errors(self):
            return ()

        def _open(self, path):
            inputs = [NetInput("images", (None, 12, 10, 3), np.dtype(np.uint8))]
            return inputs, ["embedding", "norm"]

        def _run(self, images, names):
            return [np.ones(shape, np.float32) for shape in shapes]

    with pytest.raises(ValueError, match=rf"net\.made: .*{shapes[0][0]}, {shapes[0][1]}"):
        Net(Path("net.made")).embed(FACES)


def test_the_digest_covers_the_weights_of_an_openvino_file(tmp_path):
    path = write_net(tmp_path / "net.xml")
    weights = path.with_suffix(".bin")
    first = model_sha256(path)
    shutil.copytree(tmp_path, tmp_path / "copy")
    assert model_sha256(find_model(tmp_path / "copy" / "net.xml")) == first
    weights.write_bytes(weights.read_bytes() + b"0")
    assert model_sha256(path) != first
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"net\.bin"):
        model_sha256(path)


@pytest.mark.parametrize("kind", [".xml", ".onnx", TFLITE])
def test_missing_packages_are_named(tmp_path, monkeypatch, kind):
    path = write_net(tmp_path / f"net{kind}")
    monkeypatch.setattr(Engine, "version", None)
    with pytest.raises(ValueError, match=rf"{FILE_ENGINES[kind].package}.*requirements-export\.txt"):
        EngineOptions().chosen_for(path)


@pytest.mark.tensorflow
def test_file_models_run_without_tensorflow(tmp_path):
    paths = [write_net(tmp_path / f"net{kind}", ours=True) for kind in SUFFIXES]
    program = """
import sys
import numpy as np
from eval.embedding.embedder import load_embedder
for path in sys.argv[1:]:
    load_embedder(path).embed(np.zeros((2, 12, 10, 3), np.uint8))
raise SystemExit("loads TensorFlow" if "tensorflow" in sys.modules else 0)
"""
    command = [sys.executable, "-c", program, *map(str, paths)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr


def test_a_wrong_layout_is_refused(tmp_path):
    path = write_net(tmp_path / "net.onnx")
    describe(path, layout="nhwc")
    with pytest.raises(ValueError, match=r"nhwc, received \[None, 3, 12, 10\]"):
        load(path)


def test_the_description_is_part_of_the_digest(tmp_path):
    first = model_sha256(write_net(tmp_path / "net.onnx"))
    assert model_sha256(write_net(tmp_path / "net.onnx", channels="bgr")) != first


def test_the_suffix_chooses_the_engine(tmp_path):
    path = write_net(tmp_path / "net.onnx")

    def options(*flags):
        return parse_options(argparse.ArgumentParser(), EngineOptions, flags)

    assert options().chosen_for(path) == Engine("onnxruntime")
    other = write_net(tmp_path / "other.onnx")
    other.with_name("other.onnx.input.json").unlink()
    assert options().chosen_for(other) == Engine("tensorflow")
    for flag in ("--engine=openvino", "--engine=tensorflow", "--precision=bfloat16"):
        with pytest.raises(ValueError, match="--engine"):
            options(flag).chosen_for(path)
    net = write_net(tmp_path / "net.xml")
    assert options("--engine=openvino").chosen_for(net) == options().chosen_for(net) == Engine("openvino")


@pytest.mark.parametrize("kind", KINDS)
def test_test_lfw_scores_file_models(tmp_path, capsys, kind):
    path = write_net(tmp_path / f"net{kind}", channels="bgr")
    output = tmp_path / "scores.json"
    flags = [f"--data={PAIRS}", f"--model_path={path}", "--name=lfw", "--batch_size=7", f"--output={output}"]
    test_lfw.main(flags)
    pairs = read_pairs(PAIRS)
    top, left = (pairs.image_size[0] - 12) // 2, (pairs.image_size[1] - 10) // 2
    faces = pairs.batch(0, 2 * len(pairs))[:, top : top + 12, left : left + 10]
    embeddings = expected(faces, "bgr")
    units = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    distances = 1 - (units[0::2] * units[1::2]).sum(axis=1)
    result = evaluate_pairs(distances, pairs.is_same)
    assert precisions(capsys.readouterr().out) == {"lfw": f"{result.accuracy:.5f}+-{result.std:.5f}"}
    engine = json.loads(output.read_text())["sets"]["lfw"]["engine"]
    assert engine == {
        "name": FILE_ENGINES[kind].package,
        "precision": "float32",
        "version": Engine(engine["name"]).version,
    }
