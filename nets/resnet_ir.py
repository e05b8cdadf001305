"""LResNet-E-IR: the residual net that the original trains."""

import math
import zlib

import keras

from nets.batch_norm import BatchNorm
from nets.dropout import Dropout
from nets.prelu import PReLU
from nets.variants import STAGES, UNIT_TYPES

# Keras divides by the standard deviation of a truncated normal; tf.contrib multiplied the variance by 1.3.
_KERAS_TRUNCATION = 0.87962566103423978
_CONTRIB_TRUNCATION = 1.3


def resnet_ir(
    depth=50,
    unit_type="ir",
    image_size=(112, 112),
    embedding_size=512,
    keep_prob=0.4,
    seed=0,
    dtype="float32",
):
    """Builds an LResNet-E-IR: normalised images to embeddings that are not normalised.

    Stem (3x3 conv, norm, PReLU), four stages of residual units, then norm, dropout,
    flatten, dense and norm. Layers carry the scopes of the original's variables
    with `.` for `/`, below `resnet_v1_{depth}/`, which is left out.

    References:
    - [ArcFace](https://arxiv.org/abs/1801.07698), section 3.2.2, "LResNet50E-IR"
    - margin-centre-face, `nets/L_Resnet_E_IR_fix_issue9.py::get_resnet`
    - Row 7 of docs/fidelity.md: `E_BN2`'s gamma is frozen at 1, not at a random draw.

    Args:
        depth: 32 (thin), 50, 100 or 152.
        unit_type: `"ir"` or `"se_ir"` (squeeze-and-excitation, ReLU after each unit).
        image_size: `(height, width)`, each at least 16.
        embedding_size: int > 0.
        keep_prob: float in `(0, 1]`: what dropout keeps before the dense layer. Defaults to
            `0.4`, the original's.
        seed: int; the initial weights and dropout masks follow from it and the layers' names.
        dtype: dtype policy of the layers, e.g. `"mixed_bfloat16"`. Weights, batch
            statistics and the embedding are float32 in any case.

    Returns:
        A `keras.Model` from `(batch, height, width, 3)` (float32, BGR,
        `(pixel - 127.5) / 128`) to float32 `(batch, embedding_size)`.

    Raises:
        ValueError: an unknown depth or unit type, or too small an image.

    Example:

    >>> resnet_ir(32, image_size=(112, 96)).output_shape
    (None, 512)
    """
    if depth not in STAGES:
        raise ValueError(f"depth: expected one of {tuple(STAGES)}, received {depth}")
    if unit_type not in UNIT_TYPES:
        raise ValueError(f"unit_type: expected one of {UNIT_TYPES}, received {unit_type!r}")
    if min(image_size) < 16:
        raise ValueError(f"image_size: expected at least (16, 16), received {tuple(image_size)}")

    net = _Builder(seed, dtype)
    images = keras.Input((*image_size, 3), name="images")
    x = net.conv(images, "conv1", 64, 3)
    x = net.norm(x, "bn0")
    x = net.prelu(x, "prelu0")
    for block, (filters, num_units) in enumerate(STAGES[depth], start=1):
        for unit in range(1, num_units + 1):
            scope = f"block{block}.unit_{unit}.bottleneck_v1"
            x = _unit(net, x, scope, filters, stride=2 if unit == 1 else 1, squeeze=unit_type == "se_ir")

    x = net.norm(x, "E_BN1")
    x = Dropout(keep_prob, seed=seed, dtype=dtype, name="E_Dropout")(x)
    x = keras.layers.Flatten(dtype=dtype, name="E_Flatten")(x)
    x = keras.layers.Dense(
        embedding_size, kernel_initializer=net.xavier("E_DenseLayer"), dtype=dtype, name="E_DenseLayer"
    )(x)
    embedding = BatchNorm(train_gamma=False, dtype="float32", name="E_BN2")(x)
    return keras.Model(images, embedding, name=f"resnet_v1_{depth}")


def decayed_variables(backbone):
    """The variables that the original decays: conv kernels, the dense kernel, trainable gammas, slopes.

    Not decayed: biases, betas, the dense layers of squeeze-and-excitation. Row 5 of
    docs/fidelity.md: the dense kernel is decayed at every depth, the original's name filter
    found it at depth 50 only.

    Args:
        backbone: model of `resnet_ir`.

    Returns:
        List of Keras variables in the order of the layers.
    """
    variables = []
    for layer in backbone.layers:
        if isinstance(layer, keras.layers.Conv2D) or layer.name == "E_DenseLayer":
            variables.append(layer.kernel)
        elif isinstance(layer, BatchNorm) and layer.gamma.trainable:
            variables.append(layer.gamma)
        elif isinstance(layer, PReLU):
            variables.append(layer.alphas)
    return variables


def _unit(net, x, scope, filters, stride, squeeze):
    if x.shape[-1] != filters:
        shortcut = net.conv(x, f"{scope}.shortcut_conv", filters, 1, stride)
        shortcut = net.norm(shortcut, f"{scope}.shortcut_bn.BatchNorm")
    elif stride > 1:
        shortcut = keras.layers.MaxPooling2D(1, stride, dtype=net.dtype, name=f"{scope}.shortcut")(x)
    else:
        shortcut = x

    x = net.norm(x, f"{scope}.conv1_bn1")
    x = net.conv(x, f"{scope}.conv1", filters, 3)
    x = net.norm(x, f"{scope}.conv1_bn2")
    x = net.prelu(x, f"{scope}.prelu_layer")
    x = net.conv(x, f"{scope}.conv2", filters, 3, stride)
    x = net.norm(x, f"{scope}.conv2_bn.BatchNorm")
    if not squeeze:
        return keras.layers.Add(dtype=net.dtype, name=f"{scope}.add")([shortcut, x])

    weights = keras.layers.GlobalAveragePooling2D(keepdims=True, dtype=net.dtype, name=f"{scope}.squeeze")(x)
    weights = net.excitation(weights, f"{scope}.excitation_1", filters // 16, "relu")
    weights = net.excitation(weights, f"{scope}.excitation_2", filters, "sigmoid")
    x = keras.layers.Multiply(dtype=net.dtype, name=f"{scope}.scale")([x, weights])
    x = keras.layers.Add(dtype=net.dtype, name=f"{scope}.add")([shortcut, x])
    return keras.layers.ReLU(dtype=net.dtype, name=f"{scope}.relu")(x)


class _Builder:
    """The layers as the original sets them up: initial values, names, dtype policy."""

    def __init__(self, seed, dtype):
        self.seed = seed
        self.dtype = dtype

    def conv(self, x, name, filters, kernel_size, stride=1):
        if stride > 1 and kernel_size > 1:
            # The original pads both sides; SAME would pad the far one only.
            x = keras.layers.ZeroPadding2D(kernel_size // 2, dtype=self.dtype, name=f"{name}_pad")(x)
        return keras.layers.Conv2D(
            filters,
            kernel_size,
            stride,
            padding="same" if stride == 1 else "valid",
            use_bias=False,
            kernel_initializer=self.xavier(name),
            dtype=self.dtype,
            name=name,
        )(x)

    def norm(self, x, name):
        gamma = keras.initializers.RandomNormal(1.0, 0.002, seed=self._seed(name))
        return BatchNorm(gamma_initializer=gamma, dtype=self.dtype, name=name)(x)

    def prelu(self, x, name):
        return PReLU(dtype=self.dtype, name=name)(x)

    def excitation(self, x, name, units, activation):
        return keras.layers.Dense(
            units, activation, kernel_initializer=self.xavier(name), dtype=self.dtype, name=name
        )(x)

    def xavier(self, name):
        """`tf.contrib.layers.xavier_initializer(uniform=False)`, as upstream.md states it."""
        return keras.initializers.VarianceScaling(
            scale=_CONTRIB_TRUNCATION * math.pow(_KERAS_TRUNCATION, 2),
            mode="fan_avg",
            distribution="truncated_normal",
            seed=self._seed(name),
        )

    def _seed(self, name):
        # By name, so that a layer's start does not depend on what was built before it.
        return (zlib.crc32(name.encode()) + self.seed) % 2**31
