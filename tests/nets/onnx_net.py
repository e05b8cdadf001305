"""Writes iresnets as ONNX graphs, as different exporters do."""

import itertools

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE, EMBEDDING_SIZE = 2, 32
IMAGE_SIZE = (32, 32)


class OnnxNet:
    """Writes iresnet18 as an ONNX graph.

    Args:
        state: dict from PyTorch's name to array.
        folded: bool, fold the batch norm after a conv into it, and name tensors by numbers.
        matmul: bool, write the dense layer as MatMul and Add, and the flattening as Reshape.
        pixels: list of `(kind, number)` before the first conv.
        changes: dict from the name of a layer to attributes that its node gets instead.
    """

    def __init__(self, state, folded=False, matmul=False, pixels=(), changes=None):
        self.state = state
        self.folded = folded
        self.changes = changes or {}
        self.nodes, self.tensors = [], []
        self.numbers = itertools.count(400)
        x = "data"
        for kind, number in pixels:
            x = self.node("", kind, x, self.tensor("", np.array(number, np.float32)))
        x = self.prelu(self.conv_norm(x, "conv1", "bn1"), "prelu")
        for stage, unit in itertools.product(range(1, 5), range(2)):
            scope = f"layer{stage}.{unit}"
            y = self.conv_norm(self.norm(x, f"{scope}.bn1"), f"{scope}.conv1", f"{scope}.bn2")
            y = self.prelu(y, f"{scope}.prelu")
            y = self.conv_norm(y, f"{scope}.conv2", f"{scope}.bn3", 2 - unit)
            if unit == 0:
                x = self.conv_norm(x, f"{scope}.downsample.0", f"{scope}.downsample.1", 2)
            x = self.node(scope, "Add", y, x)
        x = self.norm(x, "bn2")
        weight, bias = self.state["fc.weight"], self.tensor("fc.bias", self.state["fc.bias"])
        if matmul:
            x = self.node("flatten", "Reshape", x, self.tensor("", np.array([-1, weight.shape[1]])))
            x = self.node("fc", "MatMul", x, self.tensor("fc.weight", weight.T))
            x = self.node("fc", "Add", bias, x)
        else:
            x = self.node("flatten", "Flatten", x)
            x = self.node("fc", "Gemm", x, self.tensor("fc.weight", weight), bias, transB=1)
        self.output = self.norm(x, "features")

    def tensor(self, name, array):
        name = str(next(self.numbers)) if self.folded or not name else name
        self.tensors.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(self, name, kind, *inputs, **attributes):
        output = str(next(self.numbers))
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes | self.changes.get(name, {})))
        return output

    def conv_norm(self, x, name, norm_name, stride=1):
        kernel = self.state[f"{name}.weight"]
        size = kernel.shape[-1]
        attributes = {"kernel_shape": [size] * 2, "strides": [stride] * 2, "pads": [size // 2] * 4}
        if not self.folded:
            return self.norm(
                self.node(name, "Conv", x, self.tensor(f"{name}.weight", kernel), **attributes), norm_name
            )
        gamma, beta, mean, variance = (self.state[f"{norm_name}.{leaf}"] for leaf in self.leaves)
        factor = gamma / np.sqrt(variance + 1e-5)
        tensors = (kernel * factor[:, None, None, None], beta - mean * factor)
        return self.node(name, "Conv", x, *(self.tensor("", array) for array in tensors), **attributes)

    leaves = ("weight", "bias", "running_mean", "running_var")

    def norm(self, x, name):
        tensors = (self.tensor(f"{name}.{leaf}", self.state[f"{name}.{leaf}"]) for leaf in self.leaves)
        return self.node(name, "BatchNormalization", x, *tensors, epsilon=1e-5)

    def prelu(self, x, name):
        slopes = self.state[f"{name}.weight"].reshape(-1, 1, 1)
        return self.node(name, "PRelu", x, self.tensor(f"{name}.weight", slopes))

    def save(self, path):
        inputs = [helper.make_tensor_value_info("data", TensorProto.FLOAT, ["n", 3, *IMAGE_SIZE])]
        outputs = [helper.make_tensor_value_info(self.output, TensorProto.FLOAT, ["n", EMBEDDING_SIZE])]
        graph = helper.make_graph(self.nodes, "net", inputs, outputs, self.tensors)
        opset = helper.make_opsetid("", 15)
        onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), path)
        return path
