"""Writes a net that sees only colours, so portraits in different colours are different people."""

import json

RED, GREEN, BLUE = (1, 0.5, 0.5), (0.5, 1, 0.5), (0.5, 0.5, 1)


def write_onnx(path):
    """Writes a net whose embedding consists of the mean colours of a coarse grid."""
    from onnx import TensorProto, helper, save

    shape = ["batch", 3, 112, 112]
    nodes = [
        helper.make_node("AveragePool", ["faces"], ["coarse"], kernel_shape=[28, 28], strides=[28, 28]),
        helper.make_node("Flatten", ["coarse"], ["flat"]),
        helper.make_node("ReduceMean", ["flat"], ["mean"], axes=[1]),
        helper.make_node("Sub", ["flat", "mean"], ["embedding"]),
    ]
    inputs = [helper.make_tensor_value_info("faces", TensorProto.FLOAT, shape)]
    outputs = [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", 48])]
    graph = helper.make_graph(nodes, "colours", inputs, outputs)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    input_format = {"channels": "rgb", "layout": "nchw", "mean": [0, 0, 0], "scale": [255, 255, 255]}
    path.with_name(f"{path.name}.input.json").write_text(json.dumps(input_format))
