"""Counts parameters and multiply-adds of a net, as papers do."""

import keras
import numpy as np

from nets.backbone import CONVS
from nets.layers.tokens import SelfAttention


def num_parameters(net):
    """Counts trainable numbers. Moving statistics do not count."""
    return sum(int(np.prod(variable.shape)) for variable in net.trainable_variables)


def multiply_adds(net):
    """Counts the multiply-adds of convs, dense layers and attention, for one image."""
    count = 0
    for layer in net.layers:
        if isinstance(layer, CONVS):
            count += int(np.prod(layer.output.shape[1:3])) * int(np.prod(layer.kernel.shape))
        elif isinstance(layer, keras.layers.Dense):
            count += int(np.prod(layer.output.shape[1:-1])) * int(np.prod(layer.kernel.shape))
        elif isinstance(layer, SelfAttention):
            _, num_tokens, channels = layer.output.shape
            count += 2 * num_tokens**2 * channels
    return count
