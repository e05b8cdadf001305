"""Reads the weights of a MobileFaceNet from an ONNX file by following its graph."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..mobilefacenet import EPSILON, STEM_WIDTH
from .onnx_graph import NORM_LEAVES, Node, OnnxGraph, attribute, check, reading

_DENSE, _LAST_NORM, _GLOBAL = "features.layers.2", "features.layers.3", "features.layers.0"
_MOST_CONVS = 200


class OnnxMobileFaceNet(NamedTuple):
    """The tensors of a MobileFaceNet, under the names that they have in arcface_torch.

    Attributes:
        shapes: shapes of the tensors, by name.
        read: function that takes the name of a tensor and returns its values.
        arguments: further arguments of `nets.mobilefacenet.mobilefacenet`.
        scale, offset: see `OnnxGraph.start`.
    """

    shapes: dict[str, tuple[int, ...]]
    read: Callable[[str], np.ndarray]
    arguments: dict[str, Any]
    scale: float
    offset: float


def read_onnx_mobilefacenet(graph: OnnxGraph) -> OnnxMobileFaceNet:
    """Reads a MobileFaceNet, with its norms or with norms that an exporter has folded into the convs.

    The names in the file do not matter. If not every conv has a norm, the remaining norms are folded, too.

    Raises:
        ValueError: the graph is not a MobileFaceNet.
    """
    with reading(graph, "a MobileFaceNet"):
        return _Reader(graph).read()


@dataclass
class _Conv:
    """A conv or the dense layer, with what follows it."""

    node: Node | None
    kernel: np.ndarray
    bias: np.ndarray | None
    norm: tuple[np.ndarray, ...] | None
    epsilon: float = EPSILON
    activation: str | None = None
    slopes: np.ndarray | None = None
    is_residual: bool = False  # whether it is the first conv of a block with a sum

    @property
    def groups(self):
        return attribute(self.node, "group") if self.node else 1

    @property
    def is_pointwise(self):
        return self.groups == 1 and self.kernel.shape[2:] == (1, 1)

    def factors(self):
        """Returns the factor by which the norm multiplies each channel."""
        gamma, _, _, variance = (np.asarray(values, np.float64) for values in self.norm or ())
        return gamma / np.sqrt(variance + self.epsilon)

    def folded_kernel(self):
        if self.norm is None:
            return self.kernel
        return self.kernel * self.factors().reshape(-1, *[1] * (self.kernel.ndim - 1))

    def folded_bias(self):
        bias = np.zeros(len(self.kernel)) if self.bias is None else np.asarray(self.bias, np.float64)
        if self.norm is None:
            return bias
        return self.norm[1] + self.factors() * (bias - self.norm[2])


class _Reader:
    """Follows a graph from its input and takes the nodes of a MobileFaceNet."""

    def __init__(self, graph):
        self._graph = graph
        self._convs = []

    def read(self):
        x, scale, offset = self._graph.start()
        while "Conv" in (kinds := self._graph.kinds(x)):
            if kinds != ["Add", "Conv"]:
                x = self._conv(x)
                continue
            y, first = x, len(self._convs)
            for _ in range(3):
                y = self._conv(y)
            node = self._graph.take(y, f"conv {first + 2}", "Add")
            if set(node.inputs) != {x, y}:
                raise ValueError(f"conv {first + 2}: expected the sum of a block and its input")
            self._convs[first].is_residual = True
            x = node.output
        x = self._graph.take(x, "flatten", "Flatten", "Reshape").output
        *convs, dense, x = self._tail(x)
        self._graph.check_end(x, _DENSE)
        if len(convs) < 4:
            raise ValueError(f"expected at least 4 convs before the dense layer, received {len(convs)}")
        names = self._names(convs)
        activation, stem_activation = convs[0].activation, None
        is_separable = "layers.1.pointwise" in names
        stem_activation = "relu" if is_separable else activation
        linear = {_GLOBAL, *(name for name in names if name.endswith(".layers.2"))}
        for name, conv in zip(names, convs, strict=True):
            expected = stem_activation if name in ("layers.1", "layers.1.pointwise") else activation
            expected = None if name in linear else expected
            if conv.activation != expected:
                raise ValueError(f"{name}: expected the activation {expected}, received {conv.activation}")
        has_norms = all(conv.norm is not None for conv in (*convs, dense))
        has_norms = has_norms and {conv.epsilon for conv in (*convs, dense)} == {EPSILON}
        arguments = {
            "norm": "batch" if has_norms else "none",
            "activation": activation,
            "separable_stem": is_separable,
        }
        tensors = {}
        for name, conv in zip(names, convs, strict=True):
            tensors |= _tensors(conv, f"{name}.layers.0", f"{name}.layers.1", has_norms)
            if conv.slopes is not None:
                tensors[f"{name}.layers.2.weight"] = conv.slopes.shape, lambda conv=conv: conv.slopes
        tensors |= _tensors(dense, _DENSE, _LAST_NORM, has_norms)
        shapes = {name: shape for name, (shape, _) in tensors.items()}
        return OnnxMobileFaceNet(shapes, lambda name: tensors[name][1](), arguments, scale, offset)

    def _tail(self, x):
        """Returns the convs, then the dense layer (which may be a 1x1 conv), then the name of the output."""
        convs = self._convs
        if convs and convs[-1].is_pointwise:
            dense = convs.pop()
            dense.kernel, dense.node = dense.kernel.reshape(dense.kernel.shape[:2]), None
        else:
            kernel, bias, x = self._graph.dense(x, _DENSE)
            if kernel.ndim != 2:
                raise ValueError(f"{_DENSE}: expected two axes, received shape {kernel.shape}")
            dense = _Conv(None, kernel, bias, None)
            x = self._norm(x, dense)
        return *convs, dense, x

    def _names(self, convs):
        """Names each conv by its place in the net, and checks its kernel size, stride, padding and groups."""
        names = [("layers.0", 3, 2)]
        if convs[1].groups > 1:
            names.append(("layers.1", 3, 1))
            if convs[2].is_pointwise and convs[3].is_pointwise:
                names.append(("layers.1.pointwise", 1, 1))
        blocks = convs[len(names) : -2]
        if len(blocks) % 3:
            raise ValueError(f"expected blocks of three convs, received {len(blocks)} convs")
        stage = number = 0
        for conv in blocks[::3]:
            if conv.is_residual:
                name, stride = f"layers.{2 * stage + 1}.layers.{number}", 1
                number += 1
            else:
                stage, number, stride = stage + 1, 0, 2
                name = f"layers.{2 * stage}"
            names += [(f"{name}.layers.0", 1, 1), (f"{name}.layers.1", 3, stride), (f"{name}.layers.2", 1, 1)]
        names += [("conv_sep", 1, 1), (_GLOBAL, None, 1)]
        for (name, size, stride), conv in zip(names, convs, strict=True):
            if size is not None and conv.kernel.shape[2:] != (size, size):
                raise ValueError(f"{name}: expected kernel size {size}, received shape {conv.kernel.shape}")
            pads = [0 if size is None else size // 2] * 4
            check(conv.node, name, strides=[stride] * 2, pads=pads, dilations=[1, 1], auto_pad=b"NOTSET")
            # The number of groups does not follow from the shape of the kernel.
            is_depthwise = name == _GLOBAL or name.endswith(".layers.1")
            if is_depthwise:
                check(conv.node, name, group=len(conv.kernel))
            elif name == "layers.1":
                check(conv.node, name, group=STEM_WIDTH)
            else:
                check(conv.node, name, group=1)
        return [name for name, *_ in names]

    def _conv(self, x):
        place = f"conv {len(self._convs)}"
        if len(self._convs) > _MOST_CONVS:
            raise ValueError(f"expected at most {_MOST_CONVS} convs")
        node = self._graph.take(x, place, "Conv")
        kernel = self._graph.constant(node.inputs[1], place)
        if kernel.ndim != 4:
            raise ValueError(f"{place}: expected a kernel of four axes, received shape {kernel.shape}")
        bias = self._graph.vector(node.inputs[2], place) if len(node.inputs) > 2 else None
        conv = _Conv(node, kernel, bias, None)
        self._convs.append(conv)
        x = self._norm(node.output, conv)
        kinds = self._graph.kinds(x)
        if kinds == ["PRelu"]:
            node = self._graph.take(x, place, "PRelu")
            conv.slopes = self._graph.constant(node.inputs[1], place).reshape(-1)
            conv.activation = "prelu"
        elif kinds == ["Relu"]:
            node = self._graph.take(x, place, "Relu")
            conv.activation = "relu"
        elif kinds == ["Clip"]:
            node = self._graph.take(x, place, "Clip")
            limits = [self._graph.constant(name, place).item() for name in node.inputs[1:]]
            limits = limits or [attribute(node, name) for name in ("min", "max")]
            if limits != [0, 6]:
                raise ValueError(f"{place}: expected limits of 0 and 6, received {limits}")
            conv.activation = "relu6"
        else:
            return x
        return node.output

    def _norm(self, x, conv):
        if self._graph.kinds(x) != ["BatchNormalization"]:
            return x
        node = self._graph.take(x, "norm", "BatchNormalization")
        check(node, "norm", training_mode=0)
        conv.norm = tuple(self._graph.vector(name, "norm") for name in node.inputs[1:])
        epsilon = attribute(node, "epsilon")
        conv.epsilon = EPSILON if np.isclose(epsilon, EPSILON, rtol=1e-4) else epsilon
        if {values.shape for values in conv.norm} != {(len(conv.kernel),)}:
            raise ValueError(f"norm: expected {len(conv.kernel)} channels")
        return node.output


def _tensors(conv, name, norm_name, has_norms):
    """Returns the shape of each tensor of a conv and a function that reads it, by name."""
    shape = conv.kernel.shape
    if not has_norms:
        return {
            f"{name}.weight": (shape, conv.folded_kernel),
            f"{name}.bias": ((len(conv.kernel),), conv.folded_bias),
        }
    norm = list(conv.norm)
    tensors = {f"{name}.weight": (shape, lambda: conv.kernel)}
    if conv.bias is not None:  # the norm subtracts its mean from the biased values
        norm[2] = norm[2] - conv.bias
    leaves = zip(NORM_LEAVES, norm, strict=True)
    return tensors | {f"{norm_name}.{leaf}": (v.shape, lambda v=v: v) for leaf, v in leaves}
