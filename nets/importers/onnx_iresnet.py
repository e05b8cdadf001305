"""Reads the weights of an iresnet from an ONNX file by following its graph."""

from typing import Any

import numpy as np

from ..iresnet import EPSILON
from .onnx_graph import NORM_LEAVES, OnnxGraph, check, reading


def read_onnx_iresnet(graph: OnnxGraph) -> tuple[dict[str, np.ndarray], float, float]:
    """Reads the weights of an iresnet.

    The names in the file do not matter. If an exporter has folded a batch norm into the conv before it, the
    norm that is returned only adds the conv's bias.

    Returns:
        `(weights, scale, offset)`: float32 arrays by the names of PyTorch's tensors, such as
        `layer1.0.bn1.running_mean`; and the numbers of `OnnxGraph.start`.

    Raises:
        ValueError: the graph is not an iresnet.
    """
    with reading(graph, "an iresnet"):
        return _Reader(graph).read()


class _Reader:
    """Follows a graph from its input and takes the nodes of an iresnet."""

    def __init__(self, graph):
        self._graph = graph
        self._state = {}

    def read(self):
        x, scale, offset = self._graph.start()
        x = self._conv(x, "conv1", "bn1", 3)
        x = self._norm(self._stages(self._prelu(x, "prelu")), "bn2")
        x = self._graph.take(x, "flatten", "Flatten", "Reshape").output
        kernel, bias, x = self._graph.dense(x, "fc")
        self._state["fc.weight"] = kernel
        self._state["fc.bias"] = np.zeros(len(kernel)) if bias is None else bias
        x = self._norm_or_bias(x, "features", num_channels=len(kernel))
        self._graph.check_end(x, "features")
        # A file may use one tensor in many places, so each array is converted only once.
        arrays = {id(value): np.asarray(value, np.float32) for value in self._state.values()}
        return {name: arrays[id(value)] for name, value in self._state.items()}, scale, offset

    def _stages(self, x):
        stage = unit = 0
        while len(kinds := self._graph.kinds(x)) > 1:
            if kinds == ["BatchNormalization", "Conv"]:
                stage, unit = stage + 1, 0
            elif kinds == ["Add", "BatchNormalization"] and stage:
                unit += 1
            else:
                raise ValueError(f"expected a unit after layer{stage}.{unit}, received {kinds}")
            scope = f"layer{stage}.{unit}"
            stride = 1 if unit else 2
            y = self._norm(x, f"{scope}.bn1")
            y = self._conv(y, f"{scope}.conv1", f"{scope}.bn2", 3)
            y = self._prelu(y, f"{scope}.prelu")
            y = self._conv(y, f"{scope}.conv2", f"{scope}.bn3", 3, stride)
            if not unit:
                x = self._conv(x, f"{scope}.downsample.0", f"{scope}.downsample.1", 1, stride)
            node = self._graph.take(y, scope, "Add")
            if set(node.inputs) != {x, y}:
                raise ValueError(f"{scope}: expected the sum of unit and shortcut, received {node.inputs}")
            x = node.output
        return x

    def _conv(self, x, name, norm_name, kernel_size, stride=1):
        node = self._graph.take(x, name, "Conv")
        kernel = self._graph.constant(node.inputs[1], name)
        if kernel.shape[2:] != (kernel_size, kernel_size):
            raise ValueError(f"{name}: expected kernel size {kernel_size}, received shape {kernel.shape}")
        pads = [kernel_size // 2] * 4
        check(node, name, strides=[stride] * 2, pads=pads, dilations=[1, 1], group=1, auto_pad=b"NOTSET")
        self._state[f"{name}.weight"] = kernel
        bias = self._graph.vector(node.inputs[2], name) if len(node.inputs) > 2 else 0.0
        return self._norm_or_bias(node.output, norm_name, len(kernel), bias)

    def _norm_or_bias(self, x, name, num_channels, bias: Any = 0.0):
        """Takes the norm after a conv and moves the conv's bias into it. A folded norm only adds the bias."""
        if self._graph.kinds(x) == ["BatchNormalization"]:
            x = self._norm(x, name)
            self._state[f"{name}.running_mean"] = self._state[f"{name}.running_mean"] - bias
            return x
        ones = np.ones(num_channels, np.float32)
        values = (ones, ones * bias, ones * 0, ones * (1 - EPSILON))
        self._state |= {f"{name}.{leaf}": value for leaf, value in zip(NORM_LEAVES, values, strict=True)}
        return x

    def _norm(self, x, name):
        node = self._graph.take(x, name, "BatchNormalization")
        check(node, name, epsilon=EPSILON, training_mode=0)
        for leaf, tensor in zip(NORM_LEAVES, node.inputs[1:], strict=True):
            self._state[f"{name}.{leaf}"] = self._graph.vector(tensor, name)
        return node.output

    def _prelu(self, x, name):
        node = self._graph.take(x, name, "PRelu")
        self._state[f"{name}.weight"] = self._graph.constant(node.inputs[1], name).reshape(-1)
        return node.output
