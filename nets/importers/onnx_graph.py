"""Follows the graph of an ONNX file, node by node."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .model_files import import_onnx, read_onnx
from .restricted_pickle import brief

NORM_LEAVES = ("weight", "bias", "running_mean", "running_var")  # PyTorch's names of a norm's inputs
_LONGEST_ATTRIBUTE = 64  # numbers of an attribute such as `strides`


def open_graph(path: str | Path) -> "OnnxGraph":
    """Opens the graph of a file.

    Raises:
        FileNotFoundError: the file, or another file that contains its tensors, does not exist.
        ModuleNotFoundError: the package `onnx` is not installed.
        ValueError: the file is damaged.
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
    return OnnxGraph(model.graph, path)


@contextlib.contextmanager
def reading(graph: "OnnxGraph", kind: str) -> Iterator[None]:
    """Turns every error inside the block into a `ValueError` that names the file and the expected net.

    Args:
        graph: the graph that is read.
        kind: the expected net, such as `"an iresnet"`.
    """
    try:
        yield
    except (ValueError, TypeError, LookupError, ArithmeticError, NotImplementedError, OSError) as error:
        reason = error if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise ValueError(f"{graph.path}: not {kind}: {str(reason)[:500]}") from None


class Node(NamedTuple):
    """A node of a graph.

    Attributes:
        kind: ONNX's name of the operation, such as `"Conv"`.
        inputs: names of its inputs.
        output: name of its first output.
        attributes: ONNX's attributes, by name.
    """

    kind: str
    inputs: list
    output: str
    attributes: dict


# ONNX's default values of attributes.
_DEFAULTS = {
    **{"strides": [1, 1], "pads": [0, 0, 0, 0], "dilations": [1, 1], "group": 1, "auto_pad": b"NOTSET"},
    **{"epsilon": 1e-5, "training_mode": 0, "alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0},
}


class OnnxGraph:
    """The nodes of a graph. A reader takes them one by one, from the input to the output.

    Nodes that only pass on their input are skipped. A tensor that the file uses in several places becomes a
    single array.

    Args:
        graph: the `GraphProto`.
        path: the ONNX file. Other files with tensors are in its folder.

    Attributes:
        has_groups: bool, whether a conv has groups.
    """

    def __init__(self, graph: Any, path: Path) -> None:
        self.path = path
        self.has_groups = False
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._arrays = {}
        self._axis_orders = {}  # the order of the axes of each transposed tensor
        self._consumers = {}
        same = {}
        for node in graph.node:
            inputs = [same.get(name, name) for name in node.input]
            attributes = {item.name: item for item in node.attribute}
            if node.op_type == "Constant" and "value" in attributes:
                self._constants[node.output[0]] = attributes["value"].t
            elif node.op_type == "Unsqueeze" and inputs[0] in self._constants:
                # Only slopes of PReLUs are unsqueezed, and readers know their axes.
                self._constants[node.output[0]] = self._constants[inputs[0]]
            elif node.op_type == "Transpose" and inputs[0] in self._constants:
                self._constants[node.output[0]] = self._constants[inputs[0]]
                self._axis_orders[node.output[0]] = tuple(attributes["perm"].ints) if attributes else None
            elif node.op_type in ("Identity", "Dropout"):
                same[node.output[0]] = inputs[0]
            else:
                step = Node(node.op_type, inputs, node.output[0], attributes)
                self.has_groups |= node.op_type == "Conv" and attribute(step, "group") != 1
                for name in set(inputs) - self._constants.keys():
                    self._consumers.setdefault(name, []).append(step)
        self._inputs = [value.name for value in graph.input if value.name not in self._constants]
        self._outputs = [same.get(value.name, value.name) for value in graph.output]

    def start(self) -> tuple[str, float, float]:
        """Skips the nodes at the start that normalise pixels, as `pixel * scale + offset`.

        Returns:
            `(x, scale, offset)`: the name of the value after them, and two numbers, 1 and 0 if there are no
            such nodes.

        Raises:
            ValueError: the graph does not have one input and one output.
        """
        if len(self._inputs) != 1 or len(self._outputs) != 1:
            raise ValueError(f"expected one input and output, received {self._inputs} and {self._outputs}")
        x, scale, offset = self._inputs[0], 1.0, 0.0
        while self.kinds(x) in (["Add"], ["Sub"], ["Mul"], ["Div"]):
            node = self.take(x, "the input", "Add", "Sub", "Mul", "Div")
            numbers = self.constant(node.inputs[1], "the input").astype(np.float64)
            if numbers.size != 1:
                raise ValueError(f"the input: expected one number to {node.kind}, received {numbers.shape}")
            number = numbers.item()
            if node.kind in ("Add", "Sub"):
                offset += number if node.kind == "Add" else -number
            else:
                factor = number if node.kind == "Mul" else 1 / number
                scale, offset = scale * factor, offset * factor
            x = node.output
        return x, scale, offset

    def check_end(self, x: str, place: str) -> None:
        """Raises a `ValueError` unless `x` is the output and no node is left."""
        left = [node.kind for nodes in self._consumers.values() for node in nodes]
        if left or [x] != self._outputs:
            raise ValueError(f"expected the graph to end after {place}, received {left or self._outputs}")

    def kinds(self, x: str) -> list[str]:
        """Returns the sorted kinds of the nodes that take a value as input."""
        return sorted(node.kind for node in self._consumers.get(x, ()))

    def take(self, x: str, place: str, *kinds: str) -> Node:
        """Removes the node of one of these kinds that takes `x` as input, and returns it.

        Args:
            x: name of a value.
            place: name of the layer, for error messages.
            *kinds: such as `"Conv"`.

        Raises:
            ValueError: there is no such node, or more than one.
        """
        nodes = [node for node in self._consumers.get(x, ()) if node.kind in kinds]
        if len(nodes) != 1 or (nodes[0].inputs[0] != x and nodes[0].kind != "Add"):
            received = self.kinds(x) or "the end of the graph"
            raise ValueError(f"{place}: expected {' or '.join(kinds)}, received {received}")
        for name in set(nodes[0].inputs):
            if name in self._consumers:
                self._consumers[name].remove(nodes[0])
        return nodes[0]

    def constant(self, name: str, place: str) -> np.ndarray:
        """Returns a tensor of the file by its name. Raises a `ValueError` if it does not contain numbers."""
        from onnx import numpy_helper

        if name not in self._constants:
            raise ValueError(f"{place}: expected a constant, received the computed {brief(name)}")
        tensor = self._constants[name]
        if id(tensor) not in self._arrays:  # the `id` stays unique, because `_constants` keeps the tensor
            array = numpy_helper.to_array(tensor, str(self.path.parent))
            if array.dtype.kind not in "fiu" or not array.size:
                raise ValueError(f"{place}: expected numbers, received {array.dtype} of shape {array.shape}")
            self._arrays[id(tensor)] = array
        array = self._arrays[id(tensor)]
        return array.transpose(self._axis_orders[name]) if name in self._axis_orders else array

    def dense(self, x: str, name: str) -> tuple[np.ndarray, np.ndarray | None, str]:
        """Takes the dense layer after `x`.

        Returns:
            `(kernel, bias, output)`: kernel of shape `(outputs, inputs)`; bias, or `None` if there is none;
            and the name of the output.
        """
        node = self.take(x, name, "Gemm", "MatMul")
        check(node, name, alpha=1.0, beta=1.0, transA=0)
        kernel = self.constant(node.inputs[1], name)
        kernel = kernel if attribute(node, "transB") else kernel.T
        if node.kind == "Gemm":
            bias = self.constant(node.inputs[2], name) if len(node.inputs) > 2 else None
            return kernel, bias, node.output
        if self.kinds(node.output) != ["Add"]:
            return kernel, None, node.output
        node = self.take(node.output, f"{name}.bias", "Add")
        bias = next((tensor for tensor in node.inputs[::-1] if tensor in self._constants), node.inputs[-1])
        return kernel, self.constant(bias, name), node.output

    def vector(self, name: str, place: str) -> np.ndarray:
        """Returns a tensor of the file by its name. Raises a `ValueError` if it does not have one axis."""
        array = self.constant(name, place)
        if array.ndim != 1:
            raise ValueError(f"{place}: expected a number per channel, received shape {array.shape}")
        return array


def attribute(node: Node, name: str) -> Any:
    """Returns an attribute of a node, or ONNX's default."""
    from onnx import helper

    if name not in node.attributes:
        return _DEFAULTS[name]
    item = node.attributes[name]
    if max(map(len, (item.ints, item.floats, item.strings, item.s))) > _LONGEST_ATTRIBUTE:
        raise ValueError(f"{name}: expected at most {_LONGEST_ATTRIBUTE} values, received more")
    return helper.get_attribute_value(item)


def check(node: Node, place: str, **expected: Any) -> None:
    """Raises a `ValueError` if an attribute of a node has another value than expected."""
    for name, value in expected.items():
        received = attribute(node, name)
        same = np.isclose(received, value, rtol=1e-4) if isinstance(value, float) else received == value
        if not same:
            raise ValueError(f"{place}: expected {name} {value}, received {received}")
