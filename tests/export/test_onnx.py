import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
import tensorflow as tf
import tf2onnx

from dataset.preprocess import preprocess
from eval import test_lfw
from eval.embedding.engines import EngineOptions
from eval.embedding.face_model import FaceModel
from eval.embedding.model_card import read_card
from eval.embedding.onnx_file import OnnxModel
from export import onnx as export_onnx
from export import openvino as export_openvino
from export import scoring
from export.onnx_graph import to_onnx
from nets.backbone import Backbone
from nets.importers.keras_file import save_keras_file
from tests.eval.video_sets import precisions

PAIRS = Path(__file__).parents[1] / "golden" / "pairs" / "pairs_py3.bin"


@pytest.fixture(scope="module")
def net():
    net = Backbone("ir8", (32, 24), embedding_size=64, seed=2)
    faces = np.random.default_rng(0).integers(0, 256, (5, 40, 32, 3), np.uint8)
    net(preprocess(tf.constant(faces), (32, 24)), training=True)
    for layer in net.layers:
        if hasattr(layer, "alphas"):
            layer.alphas.assign(np.linspace(-0.5, 0.9, layer.alphas.shape[0]))
    return net


@pytest.fixture(scope="module")
def exported(net, tmp_path_factory):
    """Returns a folder with a net as a Keras file and an ONNX file, and what the export printed."""
    folder = tmp_path_factory.mktemp("exported")
    save_keras_file(net, folder / "net.keras")
    with pytest.MonkeyPatch.context() as patch:
        printed = []
        patch.setattr(scoring, "_SECONDS", 0.01)
        patch.setattr(scoring, "_NUM_RESAMPLES", 20)
        patch.setattr("builtins.print", lambda *values, **_: printed.append(" ".join(map(str, values))))
        export_onnx.main([str(folder / "net.keras"), str(folder / "net.onnx"), f"--pairs={PAIRS}"])
    return folder, "\n".join(printed)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_embeddings_equal_those_of_the_net(net, exported, batch_size):
    faces = np.random.default_rng(batch_size).integers(0, 256, (batch_size, 112, 112, 3), np.uint8)
    model = OnnxModel(exported[0] / "net.onnx", (112, 112))
    expected = FaceModel.from_backbone(net, (112, 112)).embed(faces)
    np.testing.assert_allclose(model.embed(faces), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_inputs_and_outputs_have_the_documented_shapes(exported):
    session = OnnxModel(exported[0] / "net.onnx", (112, 112))._session
    shapes = {value.name: value.shape for value in (*session.get_inputs(), *session.get_outputs())}
    assert shapes == {"images": ["batch", 112, 112, 3], "embedding": ["batch", 64], "norm": ["batch"]}
    assert session.get_inputs()[0].type == "tensor(uint8)"
    faces = np.random.default_rng(0).integers(0, 256, (2, 112, 112, 3), np.uint8)
    embedding, _ = session.run(["embedding", "norm"], {"images": faces})
    np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), 1, atol=1e-6)


def test_every_prelu_is_one_operation_for_openvino_alone(net):
    graph = to_onnx(net, (40, 32)).graph
    assert "PRelu" not in {node.op_type for node in graph.node}
    export_openvino._fuse_prelu(graph)
    nodes = [node.op_type for node in graph.node]
    assert nodes.count("PRelu") == sum(hasattr(layer, "alphas") for layer in net.layers) > 0


def test_the_converter_never_holds_the_kernels(net, monkeypatch):
    def recorded(*args, **kwargs):
        model, storage = convert(*args, **kwargs)
        sizes.append(model.ByteSize())
        return model, storage

    convert, sizes = tf2onnx.convert.from_function, []
    monkeypatch.setattr(tf2onnx.convert, "from_function", recorded)
    graph = to_onnx(net, (40, 32)).graph
    kernels = sum(4 * np.prod(weight.shape) for weight in net.weights if len(weight.shape) > 1)
    assert sizes[0] < 0.05 * kernels < sum(len(tensor.raw_data) for tensor in graph.initializer)
    constants = {tensor.name for tensor in graph.initializer}
    assert [node.op_type for node in graph.node if constants.issuperset(node.input)] == []


def test_the_card_holds_thresholds_of_the_file(exported):
    calibration = read_card(exported[0] / "net.onnx").calibration("single")
    assert (calibration.set, calibration.table[0].far) == (PAIRS.stem, 0.1)
    assert f"{calibration.table[0].threshold:.5f}" in exported[1]
    assert read_card(exported[0] / "net.onnx")["net"]["architecture"] == "ir8"


def test_float16_stores_kernels_in_16_bits(net, exported, tmp_path, monkeypatch):
    monkeypatch.setattr(export_onnx, "to_onnx", lambda *_: onnx.load(str(exported[0] / "net.onnx")))
    export_onnx.write_onnx(net, tmp_path / "net.onnx", (112, 112), "float16", None)
    assert (tmp_path / "net.onnx").stat().st_size < 0.6 * (exported[0] / "net.onnx").stat().st_size
    faces = np.random.default_rng(0).integers(0, 256, (2, 112, 112, 3), np.uint8)
    full, half = (
        OnnxModel(folder / "net.onnx", (112, 112)).embed(faces) for folder in (exported[0], tmp_path)
    )
    difference = np.abs(half - full).max() / np.abs(full).max()
    assert 1e-5 < difference < 1e-2


def test_lfw_gives_the_accuracy_that_the_export_printed(exported, capsys):
    folder, printed = exported
    for name in ("net.keras", "net.onnx"):
        test_lfw.main([f"--data={PAIRS}", f"--model_path={folder / name}", f"--name={name}"])
    scores = precisions(capsys.readouterr().out)
    assert scores["net.onnx"] == scores["net.keras"]
    accuracy = scores["net.keras"].partition("+-")[0]
    row = next(line for line in printed.splitlines() if line.startswith("accuracy "))
    assert row.split()[:4] == ["accuracy", accuracy, accuracy, "+0.00000"]


def test_a_file_that_scores_worse_is_not_written(exported, tmp_path, monkeypatch):
    def worse(*scores):
        comparison = compare(*scores)
        drop = dataclasses.replace(comparison.differences["accuracy"], value=-0.006)
        return dataclasses.replace(comparison, differences={"accuracy": drop})

    compare = scoring.compare
    monkeypatch.setattr(scoring, "_SECONDS", 0.01)
    monkeypatch.setattr(scoring, "_NUM_RESAMPLES", 20)
    monkeypatch.setattr(export_onnx, "to_onnx", lambda *_: onnx.load(str(exported[0] / "net.onnx")))
    monkeypatch.setattr(scoring, "compare", worse)
    command = [str(exported[0] / "net.keras"), str(tmp_path / "net.onnx"), f"--pairs={PAIRS}"]
    with pytest.raises(SystemExit, match=r"net\.onnx.* 0\.00600.*--max_drop 0\.005"):
        export_onnx.main(command)
    assert list(tmp_path.iterdir()) == []
    export_onnx.main([*command, "--max_drop=0.01"])
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


def test_an_existing_file_is_kept(exported, capsys):
    path = exported[0] / "net.onnx"
    content = path.read_bytes()
    with pytest.raises(SystemExit):
        export_onnx.main([str(exported[0] / "net.keras"), str(path), f"--pairs={PAIRS}"])
    assert str(path) in capsys.readouterr().err
    assert path.read_bytes() == content


def test_onnx_files_use_onnx_runtime(exported):
    assert EngineOptions().chosen_for(exported[0] / "net.onnx").name == "onnxruntime"


def test_missing_packages_are_named(exported, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(export_onnx.OnnxOptions, "packages", ("onnxruntime", "nowhere_to_be_found"))
    with pytest.raises(SystemExit):
        export_onnx.main([str(exported[0] / "net.keras"), str(tmp_path / "net.onnx"), f"--pairs={PAIRS}"])
    error = capsys.readouterr().err
    assert "nowhere_to_be_found" in error and "requirements-export.txt" in error
