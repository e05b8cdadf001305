"""Makes backbones faster for inference. Their embeddings stay the same up to rounding."""

from typing import Any

import keras
import numpy as np

from .backbone import CONVS, Backbone
from .layers.batch_norm import BatchNorm
from .layers.grouped_conv import GroupedConv
from .layers.prelu import PReLU


def in_float32(backbone: Backbone) -> Backbone:
    """Returns a copy of a backbone that computes in float32, on one device."""
    copy = type(backbone).from_config({**backbone.get_config(), "dtype": "float32"})
    copy_weights(backbone, copy)
    return copy


def copy_weights(backbone: Backbone, copy: Backbone) -> None:
    """Copies the weights of a backbone to another one of the same architecture, which is on one device."""
    # One by one, because `get_weights` would hold a third copy of all of them.
    for variable, original in zip(copy.weights, backbone.weights, strict=True):
        variable.assign(np.asarray(original))


def inference_net(backbone: keras.Model, rectified: bool = False) -> keras.Model:
    """Builds a model for inference with fewer operations.

    - A batch norm or batch renorm after a conv becomes part of the conv: it scales the kernel and adds a
      bias. A norm *before* a conv stays, because the conv pads with zeros after the norm.
    - A PReLU becomes `max(x, slope * x)` if no slope is above 1. That is the same number, in two operations
      instead of three.
    - With `rectified` a PReLU becomes `relu(x) + -slope * relu(-x)` instead, where the slopes have one axis
      less than the images. OpenVINO fuses this form with the conv before it, and the converter of TensorFlow
      Lite makes one operation of it.

    Args:
        backbone: model that computes in float32. It does not change. The result shares its other layers.
        rectified: whether to use the second form of the PReLU.
    """
    # Conv, input and output, by the `id` of the output. Keeping the output keeps its `id` unique.
    convs = {}

    def call(layer, *args, **kwargs):
        inputs = args[0]
        if isinstance(layer, CONVS):
            outputs = layer(*args, **kwargs)
            if getattr(layer, "activation", keras.activations.linear) is keras.activations.linear:
                convs[id(outputs)] = layer, inputs, outputs
            return outputs
        if isinstance(layer, BatchNorm) and id(inputs) in convs:
            conv, conv_inputs, _ = convs[id(inputs)]
            return _fold_norm(conv, conv_inputs, layer)
        if isinstance(layer, PReLU):
            slopes: Any = keras.ops.convert_to_tensor(layer.alphas)
            if rectified:
                slopes = keras.ops.reshape(slopes, (*[1] * (len(inputs.shape) - 2), -1))
                return keras.ops.relu(inputs) + -slopes * keras.ops.relu(-inputs)
            if np.max(slopes) <= 1:
                return keras.ops.maximum(inputs, inputs * slopes)
        return layer(*args, **kwargs)

    return keras.models.clone_model(backbone, clone_function=lambda layer: layer, call_function=call)


def _fold_norm(conv, inputs, norm):
    """Applies a conv whose weights, computed in float64, include the norm after it."""
    names = ("gamma", "beta", "moving_mean", "moving_variance")
    gamma, beta, mean, variance = (np.asarray(getattr(norm, name), np.float64) for name in names)
    scale = gamma / np.sqrt(variance + norm.epsilon)
    bias = np.asarray(conv.bias) if conv.use_bias else 0.0
    # A new name, because the net also keeps the original conv if other layers use its output.
    config = {**conv.get_config(), "use_bias": True, "name": f"{conv.name}_{norm.name.rpartition('.')[2]}"}
    folded = type(conv).from_config(config)
    outputs = folded(inputs)
    kernel = np.asarray(conv.kernel, np.float64)
    folded.set_weights([kernel * _kernel_scale(conv, scale), beta + scale * (bias - mean)])
    return outputs


def _kernel_scale(conv, scale):
    """Reshapes a factor per output channel so that it multiplies the conv's kernel."""
    if isinstance(conv, GroupedConv):
        inputs, outputs = conv.kernel.shape[2:]
        return np.repeat(scale.reshape(-1, outputs), inputs // conv.groups, axis=0)
    if isinstance(conv, keras.layers.DepthwiseConv2D):
        return scale.reshape(conv.kernel.shape[2:])
    return scale
