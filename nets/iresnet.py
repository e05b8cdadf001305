"""iresnet: the residual net of InsightFace's PyTorch trainer."""

import keras

from .building import named_seed, padded_conv
from .layers.batch_norm import BatchNorm
from .layers.dropout import Dropout
from .layers.prelu import PReLU

# Units of the four stages.
UNITS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 14, 3),
    100: (3, 13, 30, 3),
    200: (6, 26, 60, 6),
}
WIDTHS = (64, 128, 256, 512)
EPSILON = 1e-5  # of every batch norm


def iresnet(depth, image_size=(112, 112), embedding_size=512, keep_prob=1.0, seed=0, dtype="float32"):
    """Builds an iresnet: normalised images to embeddings that are not normalised.

    Stem (3x3 conv, norm, PReLU), four stages of residual units, then norm, flatten,
    dropout, dense and norm. One unit, its 3x3 convs without bias and padded by one:

        x -> norm -> conv -> norm -> PReLU -> conv, stride -> norm -> + shortcut(x)

    The first unit of every stage has stride 2 and the shortcut conv 1x1 -> norm; the others have
    stride 1 and no layer on it. Unlike `nets.resnet_ir`: a conv shortcut in the first stage, too;
    PyTorch's batch norm (epsilon 1e-5, unbiased moving variance); dropout after flattening;
    a dense layer that is float32 under every policy. Layers carry the names of
    PyTorch's modules.

    References:
    - [ArcFace](https://arxiv.org/abs/1801.07698), section 3.2.2
    - InsightFace, `recognition/arcface_torch/backbones/iresnet.py`: layers, initial values

    Args:
        depth: 18, 34, 50, 100 or 200.
        image_size: `(height, width)`, each at least 16. Defaults to `(112, 112)`.
        embedding_size: int > 0. Defaults to `512`.
        keep_prob: float in `(0, 1]`: what dropout keeps before the dense layer. Defaults to
            `1.0`, InsightFace's.
        seed: int; the initial weights and dropout masks follow from it and the layers' names.
        dtype: dtype policy of the layers, e.g. `"mixed_bfloat16"`. Weights, batch
            statistics and the embedding are float32 in any case.

    Returns:
        A `keras.Model` from `(batch, height, width, 3)` (float32, BGR,
        `(pixel - 127.5) / 128`) to float32 `(batch, embedding_size)`.

    Raises:
        ValueError: an unknown depth, or too small an image.

    Example:

    >>> iresnet(18, image_size=(32, 32)).output_shape
    (None, 512)
    """
    if depth not in UNITS:
        raise ValueError(f"depth: expected one of {tuple(UNITS)}, received {depth}")
    if min(image_size) < 16:
        raise ValueError(f"image_size: expected at least (16, 16), received {tuple(image_size)}")

    net = _Builder(seed, dtype)
    images = keras.Input((*image_size, 3), name="images")
    x = net.conv(images, "conv1", WIDTHS[0], 3)
    x = net.norm(x, "bn1")
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
    shortcut = x
    if first:
        shortcut = net.conv(x, f"{scope}.downsample.0", filters, 1, stride)
        shortcut = net.norm(shortcut, f"{scope}.downsample.1")
    x = net.norm(x, f"{scope}.bn1")
    x = net.conv(x, f"{scope}.conv1", filters, 3)
    x = net.norm(x, f"{scope}.bn2")
    x = net.prelu(x, f"{scope}.prelu")
    x = net.conv(x, f"{scope}.conv2", filters, 3, stride)
    x = net.norm(x, f"{scope}.bn3")
    return keras.layers.Add(dtype=net.dtype, name=f"{scope}.add")([x, shortcut])


class _Builder:
    """The layers as InsightFace sets them up: initial values, names, dtype policy."""

    def __init__(self, seed, dtype):
        self.seed = seed
        self.dtype = dtype

    def conv(self, x, name, filters, kernel_size, stride=1):
        kernel = keras.initializers.RandomNormal(0.0, 0.1, seed=named_seed(name, self.seed))
        return padded_conv(x, name, filters, kernel_size, stride, kernel, self.dtype)

    def norm(self, x, name, **kwargs):
        return BatchNorm(epsilon=EPSILON, unbiased=True, name=name, **{"dtype": self.dtype, **kwargs})(x)

    def prelu(self, x, name):
        slope = keras.initializers.Constant(0.25)  # PyTorch's default
        return PReLU(initializer=slope, dtype=self.dtype, name=name)(x)

    def dense(self, x, name, units):
        """PyTorch's default: kernel and bias uniform in `+-1 / sqrt(inputs)`."""
        limit = x.shape[-1] ** -0.5
        kernel, bias = (
            keras.initializers.RandomUniform(-limit, limit, seed=named_seed(of, self.seed))
            for of in (name, f"{name}.bias")
        )
        return keras.layers.Dense(
            units, kernel_initializer=kernel, bias_initializer=bias, dtype="float32", name=name
        )(x)
