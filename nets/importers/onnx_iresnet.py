"""Reads the weights of an iresnet from an ONNX file by following its graph."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..iresnet import EPSILON
from .model_files import import_onnx, read_onnx
from .restricted_pickle import brief

_CENTRE = 127.5  # InsightFace's nets take (pixel - 127.5) / 127.5
_NORM_LEAVES = ("weight", "bias", "running_mean", "running_var")
_LONGEST_ATTRIBUTE = 64  # numbers of an attribute such as `strides`


def read_onnx_iresnet(path: str | Path) -> dict[str, np.ndarray]:
    """Reads the weights, float32, under the names of PyTorch's modules, such as `layer1.0.bn1.running_mean`.

    The names in the file do not matter. An exporter may have folded the batch norm after a conv into the
    conv; such a norm is returned as one that only adds the conv's bias. If the graph normalises pixels
    itself, as `(pixel - 127.5) * scale`, the scale is moved into the first kernel, so that the weights
    always take `(pixel - 127.5) / 127.5`.

    Raises:
        FileNotFoundError: the file, or another file that holds its tensors, does not exist.
        ModuleNotFoundError: the package `onnx` is not installed.
        ValueError: the file is damaged, or its graph is not an iresnet.
    """
    onnx = import_onnx(path)
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    model, _ = read_onnx(path)
    try:
        onnx.checker.check_model(str(path))
    except (onnx.checker.ValidationError, RuntimeError, ValueError) as error:
        raise ValueError(f"{path}: expected an ONNX file, received {str(error)[:500]}") from None
    try:
        return _Walk(model.graph, path.parent).state()
    except (ValueError, TypeError, LookupError, ArithmeticError, NotImplementedError, OSError) as error:
        reason = error if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise ValueError(f"{path}: not an iresnet: {str(reason)[:500]}") from None


class _Node(NamedTuple):
    kind: str
    inputs: list
    output: str
    attributes: dict


# The values that ONNX defines for missing attributes.
_DEFAULTS = {
    **{"strides": [1, 1], "pads": [0, 0, 0, 0], "dilations": [1, 1], "group": 1, "auto_pad": b"NOTSET"},
    **{"epsilon": 1e-5, "training_mode": 0, "alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0},
}


class _Walk:
    """Follows a graph from its input and takes the nodes of an iresnet; none may be left."""

    def __init__(self, graph, folder):
        self._folder = folder  # of the files with tensors
        self._state = {}
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._arrays = {}
        self._consumers = {}
        same = {}
        for node in graph.node:
            inputs = [same.get(name, name) for name in node.input]
            attributes = {item.name: item for item in node.attribute}
            if node.op_type == "Constant" and "value" in attributes:
                self._constants[node.output[0]] = attributes["value"].t
            elif node.op_type == "Unsqueeze" and inputs[0] in self._constants:
                self._constants[node.output[0]] = self._constants[inputs[0]]  # slopes: their axes are known
            elif node.op_type in ("Identity", "Dropout"):
                same[node.output[0]] = inputs[0]
            else:
                step = _Node(node.op_type, inputs, node.output[0], attributes)
                for name in set(inputs) - self._constants.keys():
                    self._consumers.setdefault(name, []).append(step)
        self._inputs = [value.name for value in graph.input if value.name not in self._constants]
        self._outputs = [same.get(value.name, value.name) for value in graph.output]

    def state(self):
        if len(self._inputs) != 1 or len(self._outputs) != 1:
            raise ValueError(f"expected one input and output, received {self._inputs} and {self._outputs}")
        x, scale = self._pixels(self._inputs[0])
        x = self._conv(x, "conv1", "bn1", 3)
        self._state["conv1.weight"] = self._state["conv1.weight"] * scale
        x = self._norm(self._stages(self._prelu(x, "prelu")), "bn2")
        x = self._take(x, "flatten", "Flatten", "Reshape").output
        x = self._dense(x, "fc")
        x = self._norm_or_bias(x, "features", num_channels=len(self._state["fc.weight"]))
        left = [node.kind for nodes in self._consumers.values() for node in nodes]
        if left or [x] != self._outputs:
            raise ValueError(f"expected the end after features, received {left or self._outputs}")
        # A file may use one tensor in many places: each array is converted once.
        arrays = {id(value): np.asarray(value, np.float32) for value in self._state.values()}
        return {name: arrays[id(value)] for name, value in self._state.items()}

    def _pixels(self, x):
        """Skips nodes that normalise pixels. Returns their scale too, relative to InsightFace's."""
        first, scale, offset = x, 1.0, 0.0
        while self._kinds(x) in (["Add"], ["Sub"], ["Mul"], ["Div"]):
            node = self._take(x, "the input", "Add", "Sub", "Mul", "Div")
            numbers = self._constant(node.inputs[1], "the input").astype(np.float64)
            if numbers.size != 1:
                raise ValueError(f"the input: expected one number to {node.kind}, received {numbers.shape}")
            number = numbers.item()
            if node.kind in ("Add", "Sub"):
                offset += number if node.kind == "Add" else -number
            else:
                factor = number if node.kind == "Mul" else 1 / number
                scale, offset = scale * factor, offset * factor
            x = node.output
        if x == first:
            return x, 1.0
        # With another centre, the zeros around the image would mean another grey.
        if not np.isclose(offset, -_CENTRE * scale, rtol=1e-5):
            raise ValueError(
                f"the input: expected (pixel - {_CENTRE}) * scale, received pixel * {scale:g} + {offset:g}"
            )
        return x, scale * _CENTRE

    def _stages(self, x):
        stage = unit = 0
        while len(kinds := self._kinds(x)) > 1:
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
            node = self._take(y, scope, "Add")
            if set(node.inputs) != {x, y}:
                raise ValueError(f"{scope}: expected the sum of unit and shortcut, received {node.inputs}")
            x = node.output
        return x

    def _conv(self, x, name, norm_name, kernel_size, stride=1):
        node = self._take(x, name, "Conv")
        kernel = self._constant(node.inputs[1], name)
        if kernel.shape[2:] != (kernel_size, kernel_size):
            raise ValueError(f"{name}: expected kernel size {kernel_size}, received shape {kernel.shape}")
        pads = [kernel_size // 2] * 4
        _check(node, name, strides=[stride] * 2, pads=pads, dilations=[1, 1], group=1, auto_pad=b"NOTSET")
        self._state[f"{name}.weight"] = kernel
        bias = self._vector(node.inputs[2], name) if len(node.inputs) > 2 else 0.0
        return self._norm_or_bias(node.output, norm_name, len(kernel), bias)

    def _norm_or_bias(self, x, name, num_channels, bias: Any = 0.0):
        """Takes a norm and subtracts the bias before it; replaces a folded norm by one that adds the bias."""
        if self._kinds(x) == ["BatchNormalization"]:
            x = self._norm(x, name)
            self._state[f"{name}.running_mean"] = self._state[f"{name}.running_mean"] - bias
            return x
        ones = np.ones(num_channels, np.float32)
        values = (ones, ones * bias, ones * 0, ones * (1 - EPSILON))
        self._state |= {f"{name}.{leaf}": value for leaf, value in zip(_NORM_LEAVES, values, strict=True)}
        return x

    def _norm(self, x, name):
        node = self._take(x, name, "BatchNormalization")
        _check(node, name, epsilon=EPSILON, training_mode=0)
        for leaf, tensor in zip(_NORM_LEAVES, node.inputs[1:], strict=True):
            self._state[f"{name}.{leaf}"] = self._vector(tensor, name)
        return node.output

    def _prelu(self, x, name):
        node = self._take(x, name, "PRelu")
        self._state[f"{name}.weight"] = self._constant(node.inputs[1], name).reshape(-1)
        return node.output

    def _dense(self, x, name):
        node = self._take(x, name, "Gemm", "MatMul")
        _check(node, name, alpha=1.0, beta=1.0, transA=0)
        kernel = self._constant(node.inputs[1], name)
        self._state[f"{name}.weight"] = kernel if _attribute(node, "transB") else kernel.T
        if node.kind == "MatMul":
            node = self._take(node.output, f"{name}.bias", "Add")
        bias = next((tensor for tensor in node.inputs[::-1] if tensor in self._constants), node.inputs[-1])
        self._state[f"{name}.bias"] = self._constant(bias, name)
        return node.output

    def _kinds(self, x):
        return sorted(node.kind for node in self._consumers.get(x, ()))

    def _take(self, x, place, *kinds):
        """Returns the node of one of these kinds that consumes `x`, and removes it from the graph."""
        nodes = [node for node in self._consumers.get(x, ()) if node.kind in kinds]
        if len(nodes) != 1 or (nodes[0].inputs[0] != x and nodes[0].kind != "Add"):
            received = self._kinds(x) or "the end of the graph"
            raise ValueError(f"{place}: expected {' or '.join(kinds)}, received {received}")
        for name in set(nodes[0].inputs):
            if name in self._consumers:
                self._consumers[name].remove(nodes[0])
        return nodes[0]

    def _constant(self, name, place):
        from onnx import numpy_helper

        if name not in self._constants:
            raise ValueError(f"{place}: expected a constant, received the computed {brief(name)}")
        tensor = self._constants[name]
        if id(tensor) not in self._arrays:  # which `_constants` keeps
            array = numpy_helper.to_array(tensor, str(self._folder))
            if array.dtype.kind not in "fiu" or not array.size:
                raise ValueError(f"{place}: expected numbers, received {array.dtype} of shape {array.shape}")
            self._arrays[id(tensor)] = array
        return self._arrays[id(tensor)]

    def _vector(self, name, place):
        array = self._constant(name, place)
        if array.ndim != 1:
            raise ValueError(f"{place}: expected a number per channel, received shape {array.shape}")
        return array


def _attribute(node, name):
    from onnx import helper

    if name not in node.attributes:
        return _DEFAULTS[name]
    item = node.attributes[name]
    if max(map(len, (item.ints, item.floats, item.strings, item.s))) > _LONGEST_ATTRIBUTE:
        raise ValueError(f"{name}: expected at most {_LONGEST_ATTRIBUTE} values, received more")
    return helper.get_attribute_value(item)


def _check(node, place, **expected):
    for name, value in expected.items():
        received = _attribute(node, name)
        same = np.isclose(received, value, rtol=1e-4) if isinstance(value, float) else received == value
        if not same:
            raise ValueError(f"{place}: expected {name} {value}, received {received}")
