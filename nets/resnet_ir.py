"""LResNet-E-IR: the residual net that the original trains."""

from typing import Any

import keras
import tensorflow as tf

from .building import named_seed, padded_conv
from .layers.batch_norm import BatchNorm
from .layers.batch_renorm import BatchRenorm
from .layers.dropout import Dropout
from .layers.group_norm import GroupNorm
from .layers.prelu import PReLU
from .variants import KEEP_PROB, STAGES

# To make up for the truncation, Keras divides by the standard deviation of a truncated normal, while
# tf.contrib multiplied the variance by 1.3.
_XAVIER_SCALE = 1.3 * 0.87962566103423978**2


def resnet_ir(
    depth: int = 50,
    unit_type: str = "ir",
    image_size: tuple[int, int] = (112, 112),
    embedding_size: int = 512,
    keep_prob: float = KEEP_PROB,
    seed: int = 0,
    dtype: Any = "float32",
    expansion: int = 1,
    norm: str = "batch",
    random_final_gamma: bool = False,
) -> keras.Model:
    """Builds an LResNet-E-IR.

    The stem (3x3 conv, norm, PReLU) is followed by four stages of residual units, then norm, dropout,
    flatten, dense and norm. Layers have the names of the original's variable scopes, with `.` instead of `/`
    and without the prefix `resnet_v1_{depth}/`.

    References:
    - [ArcFace](https://arxiv.org/abs/1801.07698), section 3.2.2, "LResNet50E-IR"
    - margin-centre-face, `nets/L_Resnet_E_IR_fix_issue9.py::get_resnet`; with an expansion of 4
      `nets/L_Resnet_E_IR.py`, `nets/L_Resnet_E_IR_GBN.py` and `nets/L_Resnet_E_IR_RBN.py`
    - Row 7 of docs/fidelity.md: `E_BN2`'s gamma is frozen at 1, not at a random draw.

    Args:
        depth: 32 (thin), 50, 100, 101 (the units of 100, under the name of the wide nets) or 152.
        unit_type: `"ir"`, or `"se_ir"` for squeeze-and-excitation and ReLU after each unit.
        image_size: `(height, width)`, each at least 16.
        embedding_size, keep_prob, seed, dtype: see `nets.backbone.Backbone`, also for inputs and outputs of
            the model.
        expansion: output channels of a unit, in multiples of its base filters.
        norm: `"batch"`, `"group"` (without a norm after the dense layer) or `"renorm"`.
        random_final_gamma: whether to freeze the gamma of `E_BN2` at a draw from N(1, 0.002), as in the
            original, instead of at 1.

    Raises:
        ValueError: the image is too small.
    """
    if min(image_size) < 16:
        raise ValueError(f"image_size: expected at least (16, 16), received {tuple(image_size)}")

    net = _Builder(seed, dtype, norm)
    is_squeezed = unit_type == "se_ir"
    images = keras.Input((*image_size, 3), name="images")
    x = net.conv(images, "conv1", 64, 3)
    x = net.norm(x, "bn0", group_name="group_norm_0")
    x = net.prelu(x, "prelu0")
    for block, (filters, num_units) in enumerate(STAGES[depth], start=1):
        for unit in range(1, num_units + 1):
            scope = f"block{block}.unit_{unit}.bottleneck_v1"
            x = _unit(net, x, scope, filters, filters * expansion, 2 if unit == 1 else 1, is_squeezed)
    x = net.norm(x, "E_BN1", group_name="E_GN_0")
    x = Dropout(keep_prob, seed=seed, dtype=dtype, name="E_Dropout")(x)
    x = keras.layers.Flatten(dtype=dtype, name="E_Flatten")(x)
    embedding = net.dense(x, "E_DenseLayer", embedding_size)
    if norm == "group":
        embedding = keras.layers.Activation("linear", dtype="float32", name="E_Float32")(embedding)
    else:
        gamma = {} if random_final_gamma else {"gamma_initializer": "ones"}
        embedding = net.norm(embedding, "E_BN2", train_gamma=False, dtype="float32", **gamma)
    return keras.Model(images, embedding, name=f"resnet_v1_{depth}")


def _unit(net, x, scope, filters, filters_out, stride, is_squeezed):
    if x.shape[-1] != filters_out:
        shortcut = net.conv(x, f"{scope}.shortcut_conv", filters_out, 1, stride)
        shortcut = net.norm(shortcut, f"{scope}.shortcut_bn.BatchNorm")
    elif stride > 1:
        shortcut = keras.layers.MaxPooling2D(1, stride, dtype=net.dtype, name=f"{scope}.shortcut")(x)
    else:
        shortcut = x

    x = net.norm(x, f"{scope}.conv1_bn1")
    x = net.conv(x, f"{scope}.conv1", filters, 3)
    x = net.norm(x, f"{scope}.conv1_bn2")
    x = net.prelu(x, f"{scope}.prelu_layer")
    x = net.conv(x, f"{scope}.conv2", filters_out, 3, stride)
    x = net.norm(x, f"{scope}.conv2_bn.BatchNorm", group_name=f"{scope}.conv2_bn.GroupNorm")
    if not is_squeezed:
        return keras.layers.Add(dtype=net.dtype, name=f"{scope}.add")([shortcut, x])

    weights = keras.layers.GlobalAveragePooling2D(keepdims=True, dtype=net.dtype, name=f"{scope}.squeeze")(x)
    weights = net.dense(weights, f"{scope}.excitation_1", filters_out // 16, "relu")
    weights = net.dense(weights, f"{scope}.excitation_2", filters_out, "sigmoid")
    x = keras.layers.Multiply(dtype=net.dtype, name=f"{scope}.scale")([x, weights])
    x = keras.layers.Add(dtype=net.dtype, name=f"{scope}.add")([shortcut, x])
    return keras.layers.ReLU(dtype=net.dtype, name=f"{scope}.relu")(x)


class _Builder:
    """Makes layers with the original's initial values, names and dtype policy."""

    def __init__(self, seed: int, dtype: Any, norm: str) -> None:
        self.seed = seed
        self.dtype = dtype
        self._norm = norm

    def conv(self, x: tf.Tensor, name: str, filters: int, kernel_size: int, stride: int = 1) -> tf.Tensor:
        return padded_conv(x, name, filters, kernel_size, stride, self.xavier(name), self.dtype)

    def norm(self, x: tf.Tensor, name: str, group_name: str | None = None, **arguments: Any) -> tf.Tensor:
        if self._norm == "group":
            return GroupNorm(dtype=self.dtype, name=group_name or name)(x)
        layer = BatchRenorm if self._norm == "renorm" else BatchNorm
        gamma = keras.initializers.RandomNormal(1.0, 0.002, seed=named_seed(name, self.seed))
        return layer(name=name, **{"gamma_initializer": gamma, "dtype": self.dtype, **arguments})(x)

    def prelu(self, x: tf.Tensor, name: str) -> tf.Tensor:
        return PReLU(dtype=self.dtype, name=name)(x)

    def dense(self, x: tf.Tensor, name: str, units: int, activation: str | None = None) -> tf.Tensor:
        arguments: dict[str, Any] = {"kernel_initializer": self.xavier(name), "dtype": self.dtype}
        return keras.layers.Dense(units, activation, name=name, **arguments)(x)

    def xavier(self, name: str) -> keras.initializers.Initializer:
        """Returns `tf.contrib.layers.xavier_initializer(uniform=False)`."""
        seed = named_seed(name, self.seed)
        return keras.initializers.VarianceScaling(_XAVIER_SCALE, "fan_avg", "truncated_normal", seed)
