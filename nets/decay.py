"""Which variables of a net are decayed."""

import keras

from .layers.batch_norm import BatchNorm
from .layers.prelu import PReLU

_DENSE_NAMES = ("E_DenseLayer", "fc")  # of the original, of InsightFace


def decayed_variables(backbone, dense=True):
    """The variables that the original decays: conv kernels, the dense kernel, trainable gammas, slopes.

    Not decayed: biases, betas, the dense layers of squeeze-and-excitation, the scales of group
    normalisation.

    References:
    - margin-centre-face, `train_centre.py`: filters by the variables' names

    Args:
        backbone: `nets.backbone.Backbone`, or what one of the builders returns.
        dense: bool, whether the dense kernel before the embedding is decayed (row 5 of
            docs/fidelity.md: the original's filter found it at depth 50 only).

    Returns:
        List of Keras variables in the order of the layers.
    """
    variables = []
    for layer in backbone.layers:
        if isinstance(layer, keras.layers.Conv2D) or (dense and layer.name in _DENSE_NAMES):
            variables.append(layer.kernel)
        elif isinstance(layer, BatchNorm) and layer.gamma.trainable:
            variables.append(layer.gamma)
        elif isinstance(layer, PReLU):
            variables.append(layer.alphas)
    return variables
