"""MobileFaceNet: a small net of depthwise convolutions, made for faces."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from .building import named_seed, padded_conv, padded_depthwise_conv, rescaled_pixels
from .layers.batch_norm import BatchNorm
from .layers.dropout import Dropout
from .layers.grouped_conv import GroupedConv
from .layers.prelu import PReLU

EPSILON = 1e-5  # of every batch norm
NUM_FEATURES = 512  # channels of the last feature map
STEM_WIDTH = 64  # channels after the first conv, for a width of 1
# For each stage: channels after its blocks, for a width of 1; channels inside its first block, which has a
# stride of 2; channels inside the others.
_STAGES = ((64, 128, 128), (128, 256, 256), (128, 512, 256))
_FIRST_INNER = 128  # channels inside the blocks before the first stage
_ACTIVATIONS = {"relu": None, "relu6": 6.0}  # name and largest value


def mobilefacenet(
    width: int,
    blocks: Sequence[int],
    image_size: tuple[int, int] = (112, 112),
    embedding_size: int = 128,
    keep_prob: float = 1.0,
    seed: int = 0,
    dtype: Any = "float32",
    norm: str = "batch",
    activation: str = "prelu",
    separable_stem: bool = False,
    pixel_mean: Sequence[float] | None = None,
    pixel_scale: Sequence[float] | None = None,
) -> keras.Model:
    """Builds a MobileFaceNet.

    A 3x3 conv with stride 2 and a 3x3 conv in 64 groups (depthwise for a width of 1) are followed by three
    stages of bottlenecks:

        x -> 1x1 conv -> depthwise 3x3 conv, stride -> 1x1 conv (+ x)

    The first block of a stage has stride 2 and no sum. After the stages come a 1x1 conv to 512 channels, a
    depthwise conv over the whole feature map, which replaces average pooling, and the dense layer. Each conv
    and the dense layer are followed by a norm. The activation follows the norm, except after the last conv of
    each block, the conv over the whole map and the dense layer. The channels inside the blocks do not depend
    on the width.

    Layers have the names of arcface_torch's modules. Depthwise kernels start larger than in arcface_torch,
    by He's rule for the inputs of one channel. The dense layer is float32 under every policy.

    References:
    - [MobileFaceNets](https://arxiv.org/abs/1804.07573), table 1
    - InsightFace, `recognition/arcface_torch/backbones/mobilefacenet.py`: width, blocks, names

    Args:
        width: channels between the blocks, in multiples of the paper's.
        blocks: four numbers: the residual blocks before the stages and in each of them. A first number of 1
            stands for the conv in groups.
        image_size: `(height, width)`, each at least 16.
        keep_prob: share that dropout keeps before the dense layer. The paper has no dropout.
        embedding_size, seed, dtype: see `nets.backbone.Backbone`, also for inputs and outputs of the model.
        norm: `"batch"`, or `"none"` for a net with folded norms: convs and dense layer have a bias instead.
        activation: `"prelu"`, `"relu"` or `"relu6"`.
        separable_stem: whether a 1x1 conv follows the conv in groups, with ReLU after both.
        pixel_mean, pixel_scale: three numbers each, for blue, green and red, if the net was trained on
            `(pixel - mean) / scale` with other numbers than 127.5 and 128. The net converts its input, which
            stays that of all backbones.

    Raises:
        ValueError: the image is too small, or an argument is not one of those above.
    """
    if min(image_size) < 16:
        raise ValueError(f"image_size: expected at least (16, 16), received {tuple(image_size)}")
    for name, value, known in (
        ("norm", norm, ("batch", "none")),
        ("activation", activation, ("prelu", *_ACTIVATIONS)),
    ):
        if value not in known:
            raise ValueError(f"{name}: expected one of {', '.join(known)}, received {value!r}")

    net = _Builder(seed, dtype, norm)
    images = keras.Input((*image_size, 3), name="images")
    x = rescaled_pixels(images, pixel_mean, pixel_scale)
    stem_width, stem_activation = STEM_WIDTH * width, "relu" if separable_stem else activation
    x = net.block(x, "layers.0", stem_width, 3, 2, activation=activation)
    if blocks[0] == 1:
        x = net.block(x, "layers.1", stem_width, 3, groups=STEM_WIDTH, activation=stem_activation)
        if separable_stem:
            x = net.block(x, "layers.1.pointwise", stem_width, activation=stem_activation)
    else:
        for number in range(blocks[0]):
            x = net.bottleneck(x, f"layers.1.layers.{number}", _FIRST_INNER, stem_width, activation)
    for stage, ((filters, first, inner), num_blocks) in enumerate(zip(_STAGES, blocks[1:], strict=True), 1):
        x = net.bottleneck(x, f"layers.{2 * stage}", first, filters * width, activation, stride=2)
        for number in range(num_blocks):
            name = f"layers.{2 * stage + 1}.layers.{number}"
            x = net.bottleneck(x, name, inner, filters * width, activation)
    x = net.block(x, "conv_sep", NUM_FEATURES, activation=activation)
    x = net.block(x, "features.layers.0", NUM_FEATURES, x.shape[1:3], groups=NUM_FEATURES)
    x = keras.layers.Flatten(dtype=dtype, name="flatten")(x)
    x = Dropout(keep_prob, seed=seed, dtype=dtype, name="dropout")(x)
    embedding = net.dense(x, "features.layers.2", embedding_size)
    if norm == "batch":
        embedding = net.norm(embedding, "features.layers.3", dtype="float32")
    return keras.Model(images, embedding, name="mobilefacenet")


class _Builder:
    """Makes layers with their initial values, names and dtype policy."""

    def __init__(self, seed: int, dtype: Any, norm: str) -> None:
        self.seed = seed
        self.dtype = dtype
        self.has_norms = norm == "batch"

    def bottleneck(self, x, name, inner, filters, activation, stride=1):
        """Applies three convs, and adds their input unless they have a stride."""
        y = self.block(x, f"{name}.layers.0", inner, activation=activation)
        y = self.block(y, f"{name}.layers.1", inner, 3, stride, groups=inner, activation=activation)
        y = self.block(y, f"{name}.layers.2", filters)
        return y if stride > 1 else keras.layers.Add(dtype=self.dtype, name=f"{name}.add")([x, y])

    def block(self, x, name, filters, kernel_size: Any = 1, stride=1, groups=1, activation=None):
        """Applies a conv, its norm and its activation."""
        x = self._conv(x, f"{name}.layers.0", filters, kernel_size, stride, groups)
        if self.has_norms:
            x = self.norm(x, f"{name}.layers.1", dtype=self.dtype)
        if activation == "prelu":
            slope = keras.initializers.Constant(0.25)  # PyTorch's default
            return PReLU(initializer=slope, dtype=self.dtype, name=f"{name}.layers.2")(x)
        if activation is not None:
            x = keras.layers.ReLU(_ACTIVATIONS[activation], dtype=self.dtype, name=f"{name}.layers.2")(x)
        return x

    def _conv(self, x, name, filters, kernel_size, stride, groups):
        kernel: Any = keras.initializers.VarianceScaling(
            2.0, "fan_out", "untruncated_normal", named_seed(name, self.seed)
        )
        use_bias = not self.has_norms
        if groups == 1:
            return padded_conv(x, name, filters, kernel_size, stride, kernel, self.dtype, use_bias)
        arguments: dict[str, Any] = {"dtype": self.dtype, "name": name, "use_bias": use_bias}
        if not isinstance(kernel_size, int):  # the whole feature map
            return keras.layers.DepthwiseConv2D(kernel_size, depthwise_initializer=kernel, **arguments)(x)
        if groups == filters:
            return padded_depthwise_conv(x, name, kernel_size, stride, kernel, self.dtype, use_bias)
        return GroupedConv(kernel_size, groups, kernel_initializer=kernel, **arguments)(x)

    def norm(self, x: tf.Tensor, name: str, dtype: Any) -> tf.Tensor:
        return BatchNorm(epsilon=EPSILON, unbiased=True, dtype=dtype, name=name)(x)

    def dense(self, x: tf.Tensor, name: str, units: int) -> tf.Tensor:
        kernel: Any = keras.initializers.VarianceScaling(
            2.0, "fan_out", "untruncated_normal", named_seed(name, self.seed)
        )
        return keras.layers.Dense(
            units, use_bias=not self.has_norms, kernel_initializer=kernel, dtype="float32", name=name
        )(x)
