import argparse
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from common.options import parse_options
from dataset.pairs.image_pairs import read_pairs
from eval import test_lfw
from eval.embedding.engines import Engine, EngineOptions
from eval.embedding.onnx_file import OnnxModel
from eval.scoring.verification import evaluate_pairs
from nets.importers.model_files import model_sha256
from tests.eval.video_sets import precisions

PAIRS = Path(__file__).parents[1] / "golden" / "pairs" / "pairs_py3.bin"
FACES = np.random.default_rng(0).integers(0, 256, (5, 12, 10, 3), np.uint8)
FORMAT = {"channels": "rgb", "layout": "nchw", "mean": [123.0, 117.0, 104.0], "scale": [58.0, 57.0, 56.0]}


def write_net(path, image_size=(12, 10), batch="batch", layout="nchw", **changes):
    """A net whose embedding is the mean of each quarter of the image and channel, with its description."""
    height, width = image_size
    nchw = (batch, 3, height, width)
    shape = nchw if layout == "nchw" else (batch, height, width, 3)
    nodes = [
        helper.make_node("Transpose", ["images"], ["first"], perm=[0, 3, 1, 2])
        if layout == "nhwc"
        else helper.make_node("Identity", ["images"], ["first"]),
        helper.make_node("AveragePool", ["first"], ["pooled"], kernel_shape=[6, 5], strides=[6, 5]),
        helper.make_node("Flatten", ["pooled"], ["embedding"]),
    ]
    inputs = [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)]
    outputs = [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "net", inputs, outputs)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), str(path))
    path.with_name(f"{path.name}.input.json").write_text(json.dumps({**FORMAT, "layout": layout, **changes}))
    return path


def expected(faces, channels="rgb"):
    pixels = faces if channels == "rgb" else faces[..., ::-1]
    images = (pixels - np.array(FORMAT["mean"])) / np.array(FORMAT["scale"])
    quarters = images.reshape(len(faces), 2, 6, 2, 5, 3).mean(axis=(2, 4))
    return quarters.transpose(0, 3, 1, 2).reshape(len(faces), 12)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("channels", ["rgb", "bgr"])
@pytest.mark.parametrize("batch", ["batch", 1, 2])
def test_embeddings(tmp_path, layout, channels, batch):
    path = write_net(tmp_path / "net.onnx", batch=batch, layout=layout, channels=channels)
    embeddings = OnnxModel(path, (12, 10)).embed(FACES)
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(embeddings, expected(FACES, channels), atol=1e-6)


def test_larger_faces_are_cropped(tmp_path):
    faces = np.zeros((2, 15, 11, 3), np.uint8)
    faces[:, 1:13, :10] = FACES[:2]  # The smaller margins are at the top and left.
    embeddings = OnnxModel(write_net(tmp_path / "net.onnx"), (15, 11)).embed(faces)
    np.testing.assert_allclose(embeddings, expected(FACES[:2]), atol=1e-6)


def test_smaller_faces_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"net\.onnx.*\(12, 10\).*\(12, 9\)"):
        OnnxModel(write_net(tmp_path / "net.onnx"), (12, 9))


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"channels": "rbg"}, "rbg"),
        ({"layout": "nhcw"}, "nhcw"),
        ({"scale": [1, 0, 1]}, "scale"),
        ({"mean": [1, 2]}, "mean"),
        ({"mean": None}, "mean"),
    ],
)
def test_wrong_description(tmp_path, changes, shown):
    path = write_net(tmp_path / "net.onnx")
    path.with_name("net.onnx.input.json").write_text(json.dumps({**FORMAT, **changes}))
    with pytest.raises(ValueError, match=rf"net\.onnx\.input\.json.*{shown}"):
        OnnxModel(path, (12, 10))


def test_damaged_files(tmp_path):
    path = write_net(tmp_path / "net.onnx")
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"net\.onnx: "):
        OnnxModel(path, (12, 10))
    path.with_name("net.onnx.input.json").write_text("{")
    with pytest.raises(ValueError, match=r"net\.onnx\.input\.json: "):
        OnnxModel(path, (12, 10))


def test_wrong_layout(tmp_path):
    path = write_net(tmp_path / "net.onnx")
    path.with_name("net.onnx.input.json").write_text(json.dumps({**FORMAT, "layout": "nhwc"}))
    with pytest.raises(ValueError, match=r"nhwc, received \[None, 3, 12, 10\]"):
        OnnxModel(path, (12, 10))


def test_the_description_is_part_of_the_digest(tmp_path):
    first = model_sha256(write_net(tmp_path / "net.onnx"))
    assert model_sha256(write_net(tmp_path / "net.onnx", channels="bgr")) != first


def test_chosen_engine(tmp_path):
    path = write_net(tmp_path / "net.onnx")

    def options(*flags):
        return parse_options(argparse.ArgumentParser(), EngineOptions, flags)

    assert options().chosen_for(path) == Engine("onnxruntime")
    other = write_net(tmp_path / "other.onnx")
    other.with_name("other.onnx.input.json").unlink()
    assert options().chosen_for(other) == Engine("tensorflow")
    with pytest.raises(ValueError, match="--engine"):
        options("--engine=openvino").chosen_for(path)


def test_lfw_scores_it(tmp_path, capsys):
    path = write_net(tmp_path / "net.onnx", image_size=(12, 10), channels="bgr")
    test_lfw.main([f"--data={PAIRS}", f"--model_path={path}", "--name=lfw", "--batch_size=7"])
    pairs = read_pairs(PAIRS)
    top, left = (pairs.image_size[0] - 12) // 2, (pairs.image_size[1] - 10) // 2
    faces = pairs.batch(0, 2 * len(pairs))[:, top : top + 12, left : left + 10]
    embeddings = expected(faces, "bgr")
    units = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    distances = 1 - (units[0::2] * units[1::2]).sum(axis=1)
    result = evaluate_pairs(distances, pairs.is_same)
    assert precisions(capsys.readouterr().out) == {"lfw": f"{result.accuracy:.5f}+-{result.std:.5f}"}
