import numpy as np
import pytest

from nets.backbone import Backbone, decayed_variables, load_backbone
from nets.ghostfacenet import scaled
from nets.inference import inference_net
from nets.layers.batch_norm import BatchNorm
from tests.nets.counting import multiply_adds
from tests.nets.test_inference import count, randomise

IMAGES = np.random.default_rng(0).uniform(-1, 1, (2, 19, 32, 3)).astype(np.float32)

# GhostNet's table 1: kernel, channels inside, channels after, squeeze-and-excitation, stride.
TABLE = """
3 16 16 0 1, 3 48 24 0 2, 3 72 24 0 1, 5 72 40 1 2, 5 120 40 1 1, 3 240 80 0 2, 3 200 80 0 1, 3 184 80 0 1,
3 184 80 0 1, 3 480 112 1 1, 3 672 112 1 1, 5 672 160 1 2, 5 960 160 0 1, 5 960 160 1 1, 5 960 160 0 1,
5 512 160 1 1
"""


class NumpyNet:
    """GhostFaceNetV1 for inference in float64; the weights are those of a net."""

    def __init__(self, net, stem_stride):
        self.layers = {layer.name: layer for layer in net.layers}
        self.stem_stride = stem_stride

    def __call__(self, x):
        x = self.prelu(self.conv(x.astype(np.float64), "stem", self.stem_stride), "stem.prelu")
        for number, row in enumerate(TABLE.split(","), start=1):
            _, inner, after, has_se, stride = map(int, row.split())
            name, before = f"block{number}", x
            x = self.ghost(x, f"{name}.ghost1", inner)
            if stride == 2:
                x = self.depthwise(x, f"{name}.depthwise", stride)
            if has_se:
                weights = x.mean((1, 2), keepdims=True) @ self.value(f"{name}.se.reduce", "kernel")[0, 0]
                weights = self.prelu(weights + self.value(f"{name}.se.reduce", "bias"), f"{name}.se.prelu")
                weights = weights @ self.value(f"{name}.se.expand", "kernel")[0, 0]
                weights = weights + self.value(f"{name}.se.expand", "bias")
                x = x * np.clip(weights + 3, 0, 6) / 6
            x = self.ghost(x, f"{name}.ghost2", after)
            if f"{name}.shortcut.depthwise.conv" in self.layers:
                before = self.depthwise(before, f"{name}.shortcut.depthwise", stride)
                before = self.conv(before, f"{name}.shortcut.pointwise")
            x = x + before
        x = self.prelu(self.conv(x, "last"), "last.prelu")
        x = np.einsum("nijc,ijc->nc", x, self.value("global.conv", "kernel")[..., 0])
        return self.norm(self.norm(x, "global.norm") @ self.value("fc", "kernel"), "features")

    def value(self, layer, name):
        return np.asarray(getattr(self.layers[layer], name), np.float64)

    def ghost(self, x, name, channels):
        x = self.conv(x, f"{name}.primary")
        has_prelu = name.endswith("1")
        x = self.prelu(x, f"{name}.primary.prelu") if has_prelu else x
        cheap = self.depthwise(x, f"{name}.cheap")
        cheap = self.prelu(cheap, f"{name}.cheap.prelu") if has_prelu else cheap
        assert 2 * x.shape[-1] == channels  # at a width of 1
        return np.concatenate([x, cheap], -1)

    def windows(self, x, size, stride):
        pads = []
        for side in x.shape[1:3]:
            total = max((-(-side // stride) - 1) * stride + size - side, 0)
            pads.append((total // 2, total - total // 2))
        x = np.pad(x, [(0, 0), *pads, (0, 0)])
        return np.lib.stride_tricks.sliding_window_view(x, (size, size), (1, 2))[:, ::stride, ::stride]

    def conv(self, x, name, stride=1):
        kernel = self.value(f"{name}.conv", "kernel")
        x = np.einsum("nhwcij,ijco->nhwo", self.windows(x, len(kernel), stride), kernel, optimize=True)
        return self.norm(x, f"{name}.norm")

    def depthwise(self, x, name, stride=1):
        kernel = self.value(f"{name}.conv", "kernel")
        x = np.einsum("nhwcij,ijc->nhwc", self.windows(x, len(kernel), stride), kernel[..., 0], optimize=True)
        return self.norm(x, f"{name}.norm")

    def norm(self, x, name):
        names = ("gamma", "beta", "moving_mean", "moving_variance")
        gamma, beta, mean, variance = (self.value(name, leaf) for leaf in names)
        return (x - mean) / np.sqrt(variance + 1e-5) * gamma + beta

    def prelu(self, x, name):
        return np.where(x > 0, x, x * self.value(name, "alphas"))


@pytest.mark.parametrize("stride", [1, 2])
def test_embeddings_agree_with_numpy(stride, tmp_path):
    net = Backbone(f"ghostfacenet_1_{stride}", IMAGES.shape[1:3], 24, keep_prob=0.9, seed=3)
    randomise(net)
    expected = NumpyNet(net, stride)(IMAGES)
    tolerance = {"rtol": 1e-4, "atol": 1e-4 * np.abs(expected).max()}
    np.testing.assert_allclose(net(IMAGES, training=False), expected, **tolerance)
    if stride == 1:
        return
    fast = inference_net(net)
    np.testing.assert_allclose(fast(IMAGES, training=False), expected, **tolerance)
    assert count(fast, BatchNorm) == 1  # after the dense layer
    net.save(tmp_path / "net.keras")
    loaded = load_backbone(tmp_path / "net.keras")
    assert loaded.net == net.net
    np.testing.assert_array_equal(loaded(IMAGES, training=False), net(IMAGES, training=False))


def test_parameters_and_multiply_adds_are_those_of_the_paper():
    net = Backbone("ghostfacenet_1.3_2")
    # In the paper: 4.09 million (a stride of 1) with the norms' statistics; 60 MFLOPs with all operations.
    assert net.count_params() - 1 == 4_066_388  # without dropout's counter
    assert multiply_adds(net) == 59_316_222


def test_channels_are_rounded_to_multiples_of_4():
    assert [scaled(16, width) for width in (0.5, 1, 1.3)] == [8, 16, 20]
    assert scaled(10, 1) == 12  # 8 would be over 10 % less


def test_kernels_decay_and_the_embedding_is_float32():
    net = Backbone("ghostfacenet_0.5_2", (16, 40), 8, dtype="mixed_bfloat16")
    embedding = net(np.zeros((2, 16, 40, 3), np.float32), training=True)
    assert embedding.dtype == "float32" and embedding.shape == (2, 8)
    assert {v.dtype for v in net.variables if v.name != "draws"} == {"float32"}
    decayed = {id(v) for v in decayed_variables(net)}
    assert {id(v) for v in net.trainable_variables if v.name in ("kernel", "alphas")} <= decayed
    with pytest.raises(ValueError, match=r"image_size: .*\(8, 96\)"):
        Backbone("ghostfacenet_1_1", (8, 96))
