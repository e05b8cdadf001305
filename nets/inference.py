"""A net that is only called: with fewer operations, and the same embeddings up to the last bits."""

import keras
import numpy as np

from .layers.batch_norm import BatchNorm
from .layers.prelu import PReLU


def in_float32(backbone):
    """A copy of a net that computes in float32 and lives on one device.

    Args:
        backbone: `nets.backbone.Backbone`.

    Returns:
        `Backbone`.
    """
    copy = type(backbone).from_config({**backbone.get_config(), "dtype": "float32"})
    # One by one: `get_weights` would hold a third copy of all of them.
    for variable, original in zip(copy.weights, backbone.weights, strict=True):
        variable.assign(np.asarray(original))
    return copy


def inference_net(backbone, rectified=False):
    """A net for inference alone.

    - The batch norm behind a conv becomes part of it: its scale goes into the kernel, the rest is a bias. The
      one *before* a conv stays: the zeros that pad its output do not go through it.
    - A PReLU becomes `max(x, slope * x)` where no slope is above 1, which is the same number and two
      operations in place of three; or, as OpenVINO recognises it and makes it part of the conv before it,
      `relu(x) - slope * relu(-x)`.

    Args:
        backbone: `nets.backbone.Backbone` that computes in float32. It is not changed, and the result shares
            the layers that stay.
        rectified: bool, the second form of the PReLU. Defaults to `False`.

    Returns:
        `keras.Model` with the same input and output.
    """
    convs = {}  # by the identity of what they put out: the conv, its input, and the output, to keep that one

    def call(layer, *args, **kwargs):
        inputs = args[0]
        if isinstance(layer, keras.layers.Conv2D):
            outputs = layer(*args, **kwargs)
            if layer.activation is keras.activations.linear:
                convs[id(outputs)] = layer, inputs, outputs
            return outputs
        if type(layer) is BatchNorm and id(inputs) in convs:
            return _with_norm(*convs[id(inputs)][:2], layer)
        if isinstance(layer, PReLU):
            slopes = keras.ops.convert_to_tensor(layer.alphas)
            if rectified:
                return keras.ops.relu(inputs) - keras.ops.relu(-inputs) * slopes
            if np.max(slopes) <= 1:
                return keras.ops.maximum(inputs, inputs * slopes)
        return layer(*args, **kwargs)

    return keras.models.clone_model(backbone, clone_function=lambda layer: layer, call_function=call)


def _with_norm(conv, inputs, norm):
    """What a conv puts out that has the norm behind it in its weights, which are computed in float64."""
    names = ("gamma", "beta", "moving_mean", "moving_variance")
    gamma, beta, mean, variance = (np.asarray(getattr(norm, name), np.float64) for name in names)
    scale = gamma / np.sqrt(variance + norm.epsilon)
    bias = np.asarray(conv.bias) if conv.use_bias else 0.0
    # Where the conv's output goes elsewhere as well, the net has both.
    config = {**conv.get_config(), "use_bias": True, "name": f"{conv.name}_{norm.name.rpartition('.')[2]}"}
    folded = keras.layers.Conv2D.from_config(config)
    outputs = folded(inputs)
    folded.set_weights([np.asarray(conv.kernel, np.float64) * scale, beta + scale * (bias - mean)])
    return outputs
