"""The vision transformers of InsightFace's PyTorch trainer."""

from typing import Any

import keras
import tensorflow as tf

from .building import named_seed
from .layers.batch_norm import BatchNorm
from .layers.dropout import Dropout, DropPath
from .layers.tokens import DropTokens, PositionEmbedding, RestoreTokens, SelfAttention

PATCH = 9  # pixels of a side
_NUM_HEADS = 8
_MLP_RATIO = 4
_NORM_EPSILON, _BATCH_NORM_EPSILON = 1e-5, 2e-5


def vit(
    width: int,
    depth: int,
    image_size: tuple[int, int] = (112, 112),
    embedding_size: int = 512,
    keep_prob: float = 1.0,
    seed: int = 0,
    dtype: Any = "float32",
    drop_path: float = 0.1,
    mask_ratio: float = 0.1,
) -> keras.Model:
    """Builds a vision transformer.

    A conv turns patches of 9x9 pixels into tokens, to which trained positions are added. Each block is

        x -> + attention(layer norm(x)) -> + dense(ReLU6(dense(layer norm(x))))

    with 8 heads and 4 times the channels between the dense layers. The last block is followed by layer norm,
    flatten, dense, norm, dense and norm. Pixels at the right and bottom edges that do not fill a patch are
    ignored. For 112 pixels these are 4.

    During training, blocks are left out for some images; the later a block, the more often. Some tokens are
    removed before the first block, and a trained token takes their places after the last.

    Layers have the names of arcface_torch's modules. The layers after the last block are float32 under every
    policy.

    References:
    - [An Image is Worth 16x16 Words](https://arxiv.org/abs/2010.11929)
    - InsightFace, `recognition/arcface_torch/backbones/vit.py`: head, sizes, initial values, names

    Args:
        width: channels of a token.
        depth: number of blocks.
        image_size: `(height, width)`, each at least 9.
        keep_prob: share that dropout keeps before the first dense layer of the head. InsightFace has no
            dropout there.
        embedding_size, seed, dtype: see `nets.backbone.Backbone`, also for inputs and outputs of the model.
        drop_path: share of the images for which the last block is left out, in `[0, 1)`.
        mask_ratio: share of the tokens to remove, in `[0, 1)`.

    Raises:
        ValueError: the image is too small.
    """
    if min(image_size) < PATCH:
        raise ValueError(f"image_size: expected at least ({PATCH}, {PATCH}), received {tuple(image_size)}")

    net = _Builder(seed, dtype)
    images = keras.Input((*image_size, 3), name="images")
    x = net.patches(images, "patch_embed.proj", width)
    x = keras.layers.Reshape((-1, width), dtype=dtype, name="patch_embed")(x)
    x = PositionEmbedding(net.normal("pos_embed"), dtype=dtype, name="pos_embed")(x)
    x, places = DropTokens(mask_ratio, named_seed("mask", seed), dtype=dtype, name="mask")(x)
    for number in range(depth):
        name, keep = f"blocks.{number}", 1 - drop_path * number / max(depth - 1, 1)
        y = net.dense(net.norm(x, f"{name}.norm1"), f"{name}.attn.qkv", 3 * width, use_bias=False)
        y = SelfAttention(_NUM_HEADS, dtype=dtype, name=f"{name}.attn")(y)
        x = net.add(x, net.dense(y, f"{name}.attn.proj", width), f"{name}.add1", keep)
        y = net.dense(net.norm(x, f"{name}.norm2"), f"{name}.mlp.fc1", _MLP_RATIO * width)
        y = keras.layers.ReLU(6.0, dtype=dtype, name=f"{name}.mlp.act")(y)
        x = net.add(x, net.dense(y, f"{name}.mlp.fc2", width), f"{name}.add2", keep)
    x = net.norm(x, "norm", dtype="float32")
    restore = RestoreTokens(mask_ratio, net.normal("mask_token"), dtype="float32", name="mask_token")
    x = keras.layers.Flatten(dtype="float32", name="flatten")(restore([x, places]))
    x = Dropout(keep_prob, seed=seed, dtype="float32", name="dropout")(x)
    x = net.dense(x, "feature.0", width, use_bias=False, dtype="float32")
    x = net.dense(
        net.batch_norm(x, "feature.1"), "feature.2", embedding_size, use_bias=False, dtype="float32"
    )
    return keras.Model(images, net.batch_norm(x, "feature.3"), name="vit")


class _Builder:
    """Makes layers with InsightFace's initial values, names and dtype policy."""

    def __init__(self, seed: int, dtype: Any) -> None:
        self.seed = seed
        self.dtype = dtype

    def patches(self, x: tf.Tensor, name: str, width: int) -> tf.Tensor:
        limit = (PATCH * PATCH * x.shape[-1]) ** -0.5  # PyTorch's default
        arguments: dict[str, Any] = {
            f"{kind}_initializer": keras.initializers.RandomUniform(-limit, limit, named_seed(key, self.seed))
            for kind, key in (("kernel", name), ("bias", f"{name}.bias"))
        }
        return keras.layers.Conv2D(width, PATCH, PATCH, dtype=self.dtype, name=name, **arguments)(x)

    def dense(
        self, x: tf.Tensor, name: str, units: int, use_bias: bool = True, dtype: Any = None
    ) -> tf.Tensor:
        kernel: Any = self.normal(name)
        return keras.layers.Dense(
            units, use_bias=use_bias, kernel_initializer=kernel, dtype=dtype or self.dtype, name=name
        )(x)

    def norm(self, x: tf.Tensor, name: str, dtype: Any = None) -> tf.Tensor:
        return keras.layers.LayerNormalization(epsilon=_NORM_EPSILON, dtype=dtype or self.dtype, name=name)(x)

    def batch_norm(self, x: tf.Tensor, name: str) -> tf.Tensor:
        return BatchNorm(epsilon=_BATCH_NORM_EPSILON, unbiased=True, dtype="float32", name=name)(x)

    def add(self, x: tf.Tensor, branch: tf.Tensor, name: str, keep_prob: float) -> tf.Tensor:
        """Adds a branch, which is left out for some images."""
        branch = DropPath(keep_prob, named_seed(name, self.seed), dtype=self.dtype, name=f"{name}.drop")(
            branch
        )
        return keras.layers.Add(dtype=self.dtype, name=name)([x, branch])

    def normal(self, name: str) -> keras.initializers.Initializer:
        return keras.initializers.RandomNormal(0.0, 0.02, named_seed(name, self.seed))
