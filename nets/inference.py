"""Faster forms of a backbone for inference, with the same embeddings up to rounding."""

from typing import Any

import keras
import numpy as np

from .backbone import CONVS, Backbone
from .layers.batch_norm import BatchNorm
from .layers.grouped_conv import GroupedConv
from .layers.prelu import PReLU


def in_float32(backbone: Backbone) -> Backbone:
    """Copies a backbone to one that computes in float32 and is on one device."""
    copy = type(backbone).from_config({**backbone.get_config(), "dtype": "float32"})
    copy_weights(backbone, copy)
    return copy


def copy_weights(backbone: Backbone, copy: Backbone) -> None:
    """Gives a net on one device the weights of another one of the same architecture."""
    # One by one: `get_weights` would hold a third copy of all of them.
    for variable, original in zip(copy.weights, backbone.weights, strict=True):
        variable.assign(np.asarray(original))


def inference_net(backbone: keras.Model, rectified: bool = False) -> keras.Model:
    """Builds a model for inference with fewer operations.

    - The batch norm after a conv becomes part of it: the kernel is scaled, and a bias is added. A norm
      *before* a conv stays, because the zeros that pad its output do not pass through it.
    - A PReLU becomes `max(x, slope * x)` where no slope is above 1: the same number with two operations
      instead of three. With `rectified` it becomes `relu(x) + -slope * relu(-x)`, where the slopes have one
      axis less than the images. OpenVINO recognises it and fuses it with the conv before it, and the
      converter of TensorFlow Lite makes one operation of it.

    Args:
        backbone: model that computes in float32. It is not changed. The result shares the other layers.
        rectified: whether to use the second form of the PReLU.
    """
    convs = {}  # by the identity of the output: conv, input and output (kept, so that the identity is unique)

    def call(layer, *args, **kwargs):
        inputs = args[0]
        if isinstance(layer, CONVS):
            outputs = layer(*args, **kwargs)
            if getattr(layer, "activation", keras.activations.linear) is keras.activations.linear:
                convs[id(outputs)] = layer, inputs, outputs
            return outputs
        if type(layer) is BatchNorm and id(inputs) in convs:
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
    """Applies a conv with the norm after it folded into its weights, which are computed in float64."""
    names = ("gamma", "beta", "moving_mean", "moving_variance")
    gamma, beta, mean, variance = (np.asarray(getattr(norm, name), np.float64) for name in names)
    scale = gamma / np.sqrt(variance + norm.epsilon)
    bias = np.asarray(conv.bias) if conv.use_bias else 0.0
    # The net keeps the original conv too if other layers use its output.
    config = {**conv.get_config(), "use_bias": True, "name": f"{conv.name}_{norm.name.rpartition('.')[2]}"}
    folded = type(conv).from_config(config)
    outputs = folded(inputs)
    kernel = np.asarray(conv.kernel, np.float64)
    folded.set_weights([kernel * _kernel_scale(conv, scale), beta + scale * (bias - mean)])
    return outputs


def _kernel_scale(conv, scale):
    """Turns one number for each output channel into factors of the conv's kernel."""
    if isinstance(conv, GroupedConv):
        inputs, outputs = conv.kernel.shape[2:]
        return np.repeat(scale.reshape(-1, outputs), inputs // conv.groups, axis=0)
    if isinstance(conv, keras.layers.DepthwiseConv2D):
        return scale.reshape(conv.kernel.shape[2:])
    return scale
