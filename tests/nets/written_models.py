"""Writes small models in every format on disk, without TensorFlow."""

import hashlib
import json

import onnx
from onnx import TensorProto, helper, numpy_helper


def write_checkpoint(folder, weights):
    folder.mkdir(parents=True)
    files = {"state.index": b"index", "state.data-00000-of-00001": weights}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    manifest = {"version": 1, "step": 3, "net": {"architecture": "ir32"}}
    manifest["sha256"] = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    (folder / "checkpoint.json").write_text(json.dumps(manifest))
    return folder


def write_saved_model(folder):
    (folder / "variables").mkdir(parents=True)
    for name in ("saved_model.pb", "net.json", "variables/variables.index", "variables/variables.data-00000"):
        (folder / name).write_bytes(name.encode())
    return folder


def write_tf1_checkpoint(folder):
    folder.mkdir()
    for name in ("iter_9.ckpt.index", "iter_9.ckpt.meta", "iter_9.ckpt.data-00000-of-00001"):
        (folder / name).write_bytes(name.encode())
    (folder / "iter_99.ckpt.index").write_bytes(b"another")
    (folder / "checkpoint").write_text('model_checkpoint_path: "/gone/iter_9.ckpt"\n')
    return folder / "iter_9.ckpt"


def write_onnx(folder, weights, **options):
    folder.mkdir()
    net_input = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, weights.shape[0]])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, weights.shape[1]])
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    graph = helper.make_graph(nodes, "net", [net_input], [output], [numpy_helper.from_array(weights, "w")])
    onnx.save(helper.make_model(graph), folder / "net.onnx", **options)
    return folder / "net.onnx"


def flip_bit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
