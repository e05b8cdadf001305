"""Converts a net to the form that ONNX Runtime runs fastest: channels first, each PReLU a single node."""

import keras
import numpy as np
from onnx import TensorProto, helper, numpy_helper

from nets.layers.batch_norm import BatchNorm
from nets.layers.prelu import PReLU

_OPSET = 17
_IR_VERSION = 10  # as old as the opset, so that any ONNX Runtime reads it


def onnx_net(net):
    """Converts a net with the layers of an LResNet-E-IR without squeeze-and-excitation.

    Norms after a conv are not folded into it, because ONNX Runtime does this itself.

    Args:
        net: `nets.backbone.Backbone`.

    Returns:
        `onnx.ModelProto` from float32 `images` `(n, 3, *image_size)` to float32 `embedding` `(n, dim)`.

    Raises:
        ValueError: the net has another kind of layer.
    """
    graph = _Graph()
    height, width = net.input_shape[1:3]
    inputs = keras.Input((height, width, 3))
    graph.name(inputs, "images")
    keras.models.clone_model(
        net, input_tensors=inputs, clone_function=lambda layer: layer, call_function=graph.call
    )
    graph.nodes[-1].output[0] = "embedding"
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, height, width])
    embedding = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", net.output_shape[1]])
    made = helper.make_graph(graph.nodes, "net", [images], [embedding], graph.constants)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)


class _Graph:
    """The nodes of the layers, in the order of their calls."""

    def __init__(self):
        self.nodes, self.constants = [], []
        # id of a tensor -> its name, and the tensor itself, so that its id is not used again
        self._names = {}
        # id of an output of ZeroPadding2D -> its padding, which the next conv takes over
        self._padding = {}

    def name(self, tensor, name):
        self._names[id(tensor)] = name, tensor

    def call(self, layer, *args, **kwargs):
        outputs = layer(*args, **kwargs)
        tensors = args[0] if isinstance(args[0], list) else [args[0]]
        inputs = [self._names[id(tensor)][0] for tensor in tensors]
        self.name(outputs, self._add(layer, inputs, tensors[0], outputs))
        return outputs

    def _add(self, layer, inputs, tensor, outputs):
        if isinstance(layer, keras.layers.ZeroPadding2D):
            self._padding[id(outputs)] = layer.padding[0][0]
            return inputs[0]
        if isinstance(layer, keras.layers.Conv2D):
            padding = (
                layer.kernel_size[0] // 2 if layer.padding == "same" else self._padding.get(id(tensor), 0)
            )
            kernel = self._constant(f"{layer.name}.kernel", np.transpose(layer.kernel, (3, 2, 0, 1)))
            return self._node("Conv", [*inputs, kernel], layer, strides=layer.strides, pads=[padding] * 4)
        if isinstance(layer, BatchNorm):
            names = ("gamma", "beta", "moving_mean", "moving_variance")
            values = [self._constant(f"{layer.name}.{name}", getattr(layer, name)) for name in names]
            return self._node("BatchNormalization", [*inputs, *values], layer, epsilon=layer.epsilon)
        if isinstance(layer, PReLU):
            slopes = self._constant(f"{layer.name}.slopes", np.reshape(layer.alphas, (-1, 1, 1)))
            return self._node("PRelu", [*inputs, slopes], layer)
        if isinstance(layer, keras.layers.Add):
            return self._node("Add", inputs, layer)
        if isinstance(layer, keras.layers.MaxPooling2D):
            return self._node("MaxPool", inputs, layer, kernel_shape=layer.pool_size, strides=layer.strides)
        if isinstance(layer, keras.layers.Flatten):
            self._flattened = tensor.shape[1:]
            return self._node("Flatten", inputs, layer)
        if isinstance(layer, keras.layers.Dense):
            # The ONNX model flattens its input with channels first, so the rows of the kernel are reordered.
            kernel = np.reshape(layer.kernel, (*self._flattened, -1)).transpose(2, 0, 1, 3)
            kernel = self._constant(f"{layer.name}.kernel", kernel.reshape(-1, layer.units))
            bias = self._constant(f"{layer.name}.bias", layer.bias)
            return self._node("Gemm", [*inputs, kernel, bias], layer)
        if type(layer).__name__ == "Dropout":
            return inputs[0]
        raise ValueError(f"expected a layer of LResNet-E-IR, received {type(layer).__name__}")

    def _constant(self, name, value):
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value, np.float32), name))
        return name

    def _node(self, kind, inputs, layer, **attributes):
        self.nodes.append(helper.make_node(kind, inputs, [layer.name], name=layer.name, **attributes))
        return layer.name
