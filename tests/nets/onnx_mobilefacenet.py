"""Writes MobileFaceNets as ONNX graphs, with PyTorch's names or with folded norms."""

import itertools

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.torch_state import mobilefacenet_convs

_LEAVES = ("weight", "bias", "running_mean", "running_var")


class OnnxMobileFaceNet:
    """Writes a net as an ONNX graph, with a batch of any size.

    Args:
        state: dict from PyTorch's name to array.
        width, blocks: as for `tests.torch_state.mobilefacenet_state`.
        folded: bool, fold the batch norms into the convs.
        dense: bool, write a dense layer with its norm at the end, not a 1x1 conv and Reshape.
        activation: `"prelu"` or `"relu6"`.
        separable: bool, a 1x1 conv after the second conv, both with ReLU.
        changes: dict from the name of a conv to attributes that its node gets instead.
    """

    def __init__(
        self,
        state,
        width,
        blocks,
        folded=False,
        dense=True,
        activation="prelu",
        separable=False,
        changes=None,
    ):
        self.state, self.folded, self.changes = state, folded, changes or {}
        self.nodes, self.tensors, self.numbers = [], [], itertools.count(400)
        x, start = "data", ""
        for name, _, size, stride, groups, kind in mobilefacenet_convs(width, blocks, separable):
            start = x if kind == "start" else start
            x = self.norm(self.conv(x, name, size, stride, groups), f"{name}.layers.1")
            relu = separable and name.startswith("layers.1") and not name.startswith("layers.1.layers")
            if kind not in ("linear", "end"):
                x = self.activate(x, name, "relu" if relu else activation)
            if kind == "end":
                x = self.node("Add", start, x)
        self.size = len(state["features.layers.2.weight"])
        if not dense:
            kernel, bias = self.fold("features.layers.2.weight", "features.layers.3")
            x = self.node("Conv", x, self.tensor(kernel[..., None, None]), self.tensor(bias))
            self.output = self.node("Reshape", x, self.tensor(np.array([-1, self.size])))
        else:
            kernel = self.node("Transpose", self.tensor(state["features.layers.2.weight"]), perm=[1, 0])
            x = self.node("MatMul", self.node("Flatten", x), kernel)
            self.folded = False  # PyTorch's exporter folds norms into convs only
            self.output = self.norm(x, "features.layers.3")

    def tensor(self, array):
        name = f"t{next(self.numbers)}"
        self.tensors.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(self, kind, *inputs, **attributes):
        output = f"x{next(self.numbers)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def fold(self, name, norm):
        gamma, beta, mean, variance = (self.state[f"{norm}.{leaf}"] for leaf in _LEAVES)
        factor = gamma / np.sqrt(variance + 1e-5)
        kernel = self.state[name]
        return kernel * factor.reshape(-1, *[1] * (kernel.ndim - 1)), beta - mean * factor

    def conv(self, x, name, size, stride, groups):
        pads = [0 if size is None else size // 2] * 4
        attributes = {"strides": [stride] * 2, "pads": pads, "group": groups, **self.changes.get(name, {})}
        if self.folded:
            tensors = map(self.tensor, self.fold(f"{name}.layers.0.weight", f"{name}.layers.1"))
        else:
            tensors = [self.tensor(self.state[f"{name}.layers.0.weight"])]
        return self.node("Conv", x, *tensors, **attributes)

    def norm(self, x, name):
        if self.folded:
            return x
        return self.node(
            "BatchNormalization", x, *(self.tensor(self.state[f"{name}.{leaf}"]) for leaf in _LEAVES)
        )

    def activate(self, x, name, kind):
        if kind == "relu":
            return self.node("Relu", x)
        if kind == "relu6":
            return self.node("Clip", x, *(self.tensor(np.array(n, np.float32)) for n in (0, 6)))
        return self.node("PRelu", x, self.tensor(self.state[f"{name}.layers.2.weight"].reshape(-1, 1, 1)))

    def save(self, path, image_size):
        inputs = [helper.make_tensor_value_info("data", TensorProto.FLOAT, ["n", 3, *image_size])]
        outputs = [helper.make_tensor_value_info(self.output, TensorProto.FLOAT, ["n", self.size])]
        graph = helper.make_graph(self.nodes, "net", inputs, outputs, self.tensors)
        opset = helper.make_opsetid("", 15)
        onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), path)
        return path
