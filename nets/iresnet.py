"""iresnet: the residual net of InsightFace's PyTorch trainer."""

from typing import Any

import keras
import tensorflow as tf

from .building import named_seed, padded_conv
from .layers.batch_norm import BatchNorm
from .layers.dropout import Dropout
from .layers.prelu import PReLU

# Number of units in each of the four stages.
UNITS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 14, 3),
    100: (3, 13, 30, 3),
    200: (6, 26, 60, 6),
}
WIDTHS = (64, 128, 256, 512)
EPSILON = 1e-5  # of every batch norm


def iresnet(
    depth: int,
    image_size: tuple[int, int] = (112, 112),
    embedding_size: int = 512,
    keep_prob: float = 1.0,
    seed: int = 0,
    dtype: Any = "float32",
) -> keras.Model:
    """Builds an iresnet.

    The stem (3x3 conv, norm, PReLU) is followed by four stages of residual units, then norm, flatten,
    dropout, dense and norm. A unit has 3x3 convs without a bias, padded by one:

        x -> norm -> conv -> norm -> PReLU -> conv, stride -> norm -> + shortcut(x)

    The first unit of every stage has stride 2, and its shortcut is a 1x1 conv and a norm. The others have
    stride 1 and an identity shortcut. Layers have the names of PyTorch's modules. Differences from
    `nets.resnet_ir`:

    - The first stage has a conv in its shortcut, too.
    - Batch norm is PyTorch's: epsilon 1e-5, unbiased moving variance.
    - Dropout comes after flattening.
    - The dense layer is float32 under every policy.

    References:
    - [ArcFace](https://arxiv.org/abs/1801.07698), section 3.2.2
    - InsightFace, `recognition/arcface_torch/backbones/iresnet.py`: layers, initial values

    Args:
        depth: 18, 34, 50, 100 or 200.
        image_size: `(height, width)`, each at least 16.
        keep_prob: share that dropout keeps before the dense layer. InsightFace has no dropout.
        embedding_size, seed, dtype: see `nets.backbone.Backbone`, also for inputs and outputs of the model.

    Raises:
        ValueError: the image is too small.
    """
    if min(image_size) < 16:
        raise ValueError(f"image_size: expected at least (16, 16), received {tuple(image_size)}")

    net = _Builder(seed, dtype)
    images = keras.Input((*image_size, 3), name="images")
    x = net.norm(net.conv(images, "conv1", WIDTHS[0], 3), "bn1")
    x = net.prelu(x, "prelu")
    for stage, (filters, num_units) in enumerate(zip(WIDTHS, UNITS[depth], strict=True), start=1):
        for unit in range(num_units):
            x = _unit(net, x, f"layer{stage}.{unit}", filters, first=unit == 0)
    x = net.norm(x, "bn2")
    x = keras.layers.Flatten(dtype=dtype, name="flatten")(x)
    x = Dropout(keep_prob, seed=seed, dtype=dtype, name="dropout")(x)
    x = net.dense(x, "fc", embedding_size)
    embedding = net.norm(x, "features", train_gamma=False, dtype="float32")
    return keras.Model(images, embedding, name=f"iresnet{depth}")


def _unit(net, x, scope, filters, first):
    stride = 2 if first else 1
    shortcut = net.conv(x, f"{scope}.downsample.0", filters, 1, stride) if first else x
    if first:
        shortcut = net.norm(shortcut, f"{scope}.downsample.1")
    x = net.norm(x, f"{scope}.bn1")
    x = net.conv(x, f"{scope}.conv1", filters, 3)
    x = net.norm(x, f"{scope}.bn2")
    x = net.prelu(x, f"{scope}.prelu")
    x = net.conv(x, f"{scope}.conv2", filters, 3, stride)
    x = net.norm(x, f"{scope}.bn3")
    return keras.layers.Add(dtype=net.dtype, name=f"{scope}.add")([x, shortcut])


class _Builder:
    """Makes layers with InsightFace's initial values, names and dtype policy."""

    def __init__(self, seed: int, dtype: Any) -> None:
        self.seed = seed
        self.dtype = dtype

    def conv(self, x: tf.Tensor, name: str, filters: int, kernel_size: int, stride: int = 1) -> tf.Tensor:
        kernel = keras.initializers.RandomNormal(0.0, 0.1, seed=named_seed(name, self.seed))
        return padded_conv(x, name, filters, kernel_size, stride, kernel, self.dtype)

    def norm(self, x: tf.Tensor, name: str, **kwargs: Any) -> tf.Tensor:
        return BatchNorm(epsilon=EPSILON, unbiased=True, name=name, **{"dtype": self.dtype, **kwargs})(x)

    def prelu(self, x: tf.Tensor, name: str) -> tf.Tensor:
        slope = keras.initializers.Constant(0.25)  # PyTorch's default
        return PReLU(initializer=slope, dtype=self.dtype, name=name)(x)

    def dense(self, x: tf.Tensor, name: str, units: int) -> tf.Tensor:
        """Applies a dense layer. As in PyTorch, kernel and bias start uniform in `+-1 / sqrt(inputs)`."""
        limit = x.shape[-1] ** -0.5
        arguments: dict[str, Any] = {
            f"{kind}_initializer": keras.initializers.RandomUniform(-limit, limit, named_seed(key, self.seed))
            for kind, key in (("kernel", name), ("bias", f"{name}.bias"))
        }
        return keras.layers.Dense(units, dtype="float32", name=name, **arguments)(x)
