"""GhostFaceNet: a GhostNet for faces, which computes half of its channels cheaply from the other half."""

from typing import Any, NamedTuple

import keras
import tensorflow as tf

from .building import named_seed
from .layers.batch_norm import BatchNorm
from .layers.dropout import Dropout
from .layers.prelu import PReLU

EPSILON = 1e-5  # of every batch norm
LAST_WIDTH = 512  # channels of the last feature map, for a width of 1


class _Block(NamedTuple):
    """A row of GhostNet's table, with channels for a width of 1."""

    kernel_size: int
    inner: int  # channels between the two ghost modules
    filters: int
    has_se: bool = False
    stride: int = 1


_STEM_WIDTH = 16
_BLOCKS = (
    _Block(3, 16, 16),
    _Block(3, 48, 24, stride=2),
    _Block(3, 72, 24),
    _Block(5, 72, 40, has_se=True, stride=2),
    _Block(5, 120, 40, has_se=True),
    _Block(3, 240, 80, stride=2),
    _Block(3, 200, 80),
    _Block(3, 184, 80),
    _Block(3, 184, 80),
    _Block(3, 480, 112, has_se=True),
    _Block(3, 672, 112, has_se=True),
    _Block(5, 672, 160, has_se=True, stride=2),
    _Block(5, 960, 160),
    _Block(5, 960, 160, has_se=True),
    _Block(5, 960, 160),
    _Block(5, LAST_WIDTH, 160, has_se=True),
)


def ghostfacenet(
    width: float,
    stem_stride: int,
    image_size: tuple[int, int] = (112, 112),
    embedding_size: int = 512,
    keep_prob: float = 1.0,
    seed: int = 0,
    dtype: Any = "float32",
) -> keras.Model:
    """Builds a GhostFaceNetV1, which the paper calls `GhostFaceNetV1-{width}-{stem_stride}`.

    A 3x3 conv and 16 ghost bottlenecks are followed by a 1x1 conv, a depthwise conv over the whole feature
    map (GDC) and a dense layer, with a norm after each. A ghost module computes half of its channels by a 1x1
    conv, and the other half by a depthwise 3x3 conv of the first half. A bottleneck is

        x -> ghost module, PReLU -> depthwise conv, if there is a stride -> squeeze-and-excitation, in some
          -> ghost module -> + shortcut(x)

    The shortcut is the identity, or a depthwise conv and a 1x1 conv where stride or channels change. Convs
    pad like TensorFlow's "same", as in the authors' code.

    References:
    - [GhostNet](https://arxiv.org/abs/1911.11907), table 1 and figure 3
    - [GhostFaceNets](https://doi.org/10.1109/ACCESS.2023.3266068): GDC, PReLU, stride of the stem
    - `HamadYA/GhostFaceNets`, `backbones/ghost_model.py`: channels, initial values

    Args:
        width: factor of all channels.
        stem_stride: 1 or 2, the stride of the first conv.
        image_size: `(height, width)`, each at least 16.
        keep_prob: share that dropout keeps before the dense layer. The paper has no dropout.
        embedding_size, seed, dtype: see `nets.backbone.Backbone`, also for inputs and outputs of the model.

    Raises:
        ValueError: the image is too small.
    """
    if min(image_size) < 16:
        raise ValueError(f"image_size: expected at least (16, 16), received {tuple(image_size)}")

    net = _Builder(seed, dtype)
    images = keras.Input((*image_size, 3), name="images")
    x = net.conv(images, "stem", scaled(_STEM_WIDTH, width), 3, stem_stride, has_prelu=True)
    for number, block in enumerate(_BLOCKS, start=1):
        inner, filters = scaled(block.inner, width), scaled(block.filters, width)
        x = _bottleneck(net, x, f"block{number}", block, inner, filters)
    x = net.conv(x, "last", scaled(LAST_WIDTH, width), has_prelu=True)
    x = net.depthwise(x, "global", x.shape[1:3], padding="valid")
    x = keras.layers.Flatten(dtype=dtype, name="flatten")(x)
    x = Dropout(keep_prob, seed=seed, dtype=dtype, name="dropout")(x)
    kernel: Any = keras.initializers.GlorotNormal(named_seed("fc", seed))
    x = keras.layers.Dense(
        embedding_size, use_bias=False, kernel_initializer=kernel, dtype="float32", name="fc"
    )(x)
    embedding = BatchNorm(epsilon=EPSILON, dtype="float32", name="features")(x)
    return keras.Model(images, embedding, name="ghostfacenet")


def scaled(channels: float, width: float) -> int:
    """Returns `channels * width`, rounded to a multiple of 4, but never down by more than 10 %."""
    exact = channels * width
    rounded = max(4, int(exact + 2) // 4 * 4)
    return rounded + 4 if rounded < 0.9 * exact else rounded


def _bottleneck(net, x, name, block, inner, filters):
    shortcut, size, stride = x, block.kernel_size, block.stride
    if stride > 1 or x.shape[-1] != filters:
        shortcut = net.depthwise(x, f"{name}.shortcut.depthwise", size, stride)
        shortcut = net.conv(shortcut, f"{name}.shortcut.pointwise", filters)
    x = _ghost_module(net, x, f"{name}.ghost1", inner, has_prelu=True)
    if stride > 1:
        x = net.depthwise(x, f"{name}.depthwise", size, stride)
    if block.has_se:
        x = _squeeze_and_excitation(net, x, f"{name}.se")
    x = _ghost_module(net, x, f"{name}.ghost2", filters, has_prelu=False)
    return keras.layers.Add(dtype=net.dtype, name=f"{name}.add")([shortcut, x])


def _ghost_module(net, x, name, filters, has_prelu):
    x = net.conv(x, f"{name}.primary", filters // 2, has_prelu=has_prelu)
    cheap = net.depthwise(x, f"{name}.cheap", 3, has_prelu=has_prelu)
    return keras.layers.Concatenate(dtype=net.dtype, name=f"{name}.concatenate")([x, cheap])


def _squeeze_and_excitation(net, x, name):
    channels = x.shape[-1]
    weights = keras.layers.GlobalAveragePooling2D(keepdims=True, dtype=net.dtype, name=f"{name}.squeeze")(x)
    arguments: dict[str, Any] = {"dtype": net.dtype}
    reduced = keras.layers.Conv2D(
        scaled(channels, 0.25),
        1,
        kernel_initializer=net.he(f"{name}.reduce"),
        name=f"{name}.reduce",
        **arguments,
    )(weights)
    reduced = net.prelu(reduced, f"{name}.prelu")
    arguments["activation"] = "hard_sigmoid"  # relu6(x + 3) / 6, as in GhostNet
    weights = keras.layers.Conv2D(
        channels, 1, kernel_initializer=net.he(f"{name}.expand"), name=f"{name}.expand", **arguments
    )(reduced)
    return keras.layers.Multiply(dtype=net.dtype, name=f"{name}.scale")([x, weights])


class _Builder:
    """Makes layers with their initial values, names and dtype policy."""

    def __init__(self, seed: int, dtype: Any) -> None:
        self.seed = seed
        self.dtype = dtype

    def conv(self, x, name, filters, kernel_size=1, stride=1, has_prelu=False):
        """Applies a conv, its norm and, if wanted, a PReLU."""
        x = keras.layers.Conv2D(
            filters,
            kernel_size,
            stride,
            padding="same",
            use_bias=False,
            kernel_initializer=self.he(f"{name}.conv"),
            dtype=self.dtype,
            name=f"{name}.conv",
        )(x)
        return self._finish(x, name, has_prelu)

    def depthwise(self, x, name, kernel_size, stride=1, padding="same", has_prelu=False):
        """Applies a depthwise conv, its norm and, if wanted, a PReLU."""
        x = keras.layers.DepthwiseConv2D(
            kernel_size,
            stride,
            padding=padding,
            use_bias=False,
            depthwise_initializer=self.he(f"{name}.conv"),
            dtype=self.dtype,
            name=f"{name}.conv",
        )(x)
        return self._finish(x, name, has_prelu)

    def prelu(self, x: tf.Tensor, name: str) -> tf.Tensor:
        slope = keras.initializers.Constant(0.25)
        return PReLU(initializer=slope, dtype=self.dtype, name=name)(x)

    def he(self, name: str) -> Any:
        return keras.initializers.VarianceScaling(
            2.0, "fan_out", "truncated_normal", named_seed(name, self.seed)
        )

    def _finish(self, x, name, has_prelu):
        x = BatchNorm(epsilon=EPSILON, dtype=self.dtype, name=f"{name}.norm")(x)
        return self.prelu(x, f"{name}.prelu") if has_prelu else x
