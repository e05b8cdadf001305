import keras
import numpy as np
import pytest
import tensorflow as tf

from nets.backbone import Backbone
from nets.importers.insightface_weights import torch_variables
from nets.iresnet import iresnet
from nets.layers.batch_norm import BatchNorm
from tests.nets.counting import multiply_adds
from tests.torch_state import random_state

# The last feature map has 2 x 1 pixels, so the order of flattening and the far edge matter.
IMAGE_SIZE, FEATURE_SIZE = (18, 16), (2, 1)


class NumpyNet:
    """iresnet18 as PyTorch computes it, in float64: NCHW, RGB. Training moves its statistics."""

    def __init__(self, state, training):
        self.state = {name: value.astype(np.float64) for name, value in state.items()}
        self.training = training

    def __call__(self, x):
        x = self.prelu(self.norm(self.conv(x, "conv1"), "bn1"), "prelu")
        for stage in range(1, 5):
            for unit in range(2):
                scope, stride = f"layer{stage}.{unit}", 2 - unit
                y = self.conv(self.norm(x, f"{scope}.bn1"), f"{scope}.conv1")
                y = self.prelu(self.norm(y, f"{scope}.bn2"), f"{scope}.prelu")
                y = self.norm(self.conv(y, f"{scope}.conv2", stride), f"{scope}.bn3")
                if unit == 0:
                    x = self.norm(self.conv(x, f"{scope}.downsample.0", stride), f"{scope}.downsample.1")
                x = x + y
        x = self.norm(x, "bn2").reshape(len(x), -1)
        return self.norm(x @ self.state["fc.weight"].T + self.state["fc.bias"], "features")

    def conv(self, x, name, stride=1):
        kernel = self.state[f"{name}.weight"]
        size = kernel.shape[-1]
        x = np.pad(x, [(0, 0), (0, 0), (size // 2, size // 2), (size // 2, size // 2)])
        windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), (2, 3))[:, :, ::stride, ::stride]
        return np.einsum("nchwij,ocij->nohw", windows, kernel, optimize=True)

    def norm(self, x, name):
        axes = (0, *range(2, x.ndim))

        def column(values):
            return values.reshape(-1, *(1 for _ in axes[1:]))

        mean, variance = self.state[f"{name}.running_mean"], self.state[f"{name}.running_var"]
        if self.training:
            old_mean, old_variance = mean, variance
            mean, variance = x.mean(axes), x.var(axes)
            self.state[f"{name}.running_mean"] = 0.9 * old_mean + 0.1 * mean
            self.state[f"{name}.running_var"] = 0.9 * old_variance + 0.1 * x.var(axes, ddof=1)
        x = (x - column(mean)) / np.sqrt(column(variance) + 1e-5)
        return x * column(self.state[f"{name}.weight"]) + column(self.state[f"{name}.bias"])

    def prelu(self, x, name):
        return np.where(x > 0, x, x * self.state[f"{name}.weight"].reshape(-1, 1, 1))


def load(backbone, state):
    for name, (variable, _, transform) in torch_variables(backbone).items():
        variable.assign(transform(state[name]))


@pytest.mark.parametrize("training", [False, True])
def test_embeddings_agree_with_numpy(training):
    state = random_state(18, FEATURE_SIZE, embedding_size=32)
    backbone = iresnet(18, IMAGE_SIZE, embedding_size=32)
    load(backbone, state)
    faces = np.random.default_rng(0).integers(0, 256, (6, *IMAGE_SIZE, 3))  # RGB
    net = NumpyNet(state, training)
    expected = net((faces.transpose(0, 3, 1, 2) / 255 - 0.5) / 0.5)
    received = backbone((faces[..., ::-1].astype(np.float32) - 127.5) / 128, training=training)
    np.testing.assert_allclose(received, expected, atol=1e-4 * np.abs(expected).max())
    for name, (variable, *_) in torch_variables(backbone).items():
        if "running" in name:
            largest = np.abs(net.state[name]).max()
            received = variable.numpy()
            np.testing.assert_allclose(received, net.state[name], atol=1e-5 * largest, err_msg=name)
            assert training == (np.abs(received - state[name]) > 1e-3 * largest).any(), name


@pytest.mark.parametrize(("depth", "expected"), [(18, 24_025_600), (50, 43_590_848), (100, 65_156_160)])
def test_parameters_are_those_of_pytorch(depth, expected):
    # PyTorch counts the gamma that is not trained, but no moving statistics.
    net = iresnet(depth)
    mappings = torch_variables(net)
    sizes = [np.prod(shape, dtype=int) for name, (_, shape, _) in mappings.items() if "running" not in name]
    assert sum(sizes) == expected
    # In billions, as arcface_torch says.
    assert round(multiply_adds(net) / 1e9, 1) == {18: 2.6, 50: 6.3, 100: 12.1}[depth]
    if depth == 18:
        assert mappings.keys() == random_state(18).keys()
        assert all(value.shape == mappings[name].shape for name, value in random_state(18).items())


def test_initial_values_are_those_of_pytorch():
    backbone = iresnet(18, image_size=(64, 64))
    values = {name: variable.numpy() for name, (variable, *_) in torch_variables(backbone).items()}
    for name in ("layer3.1.conv1.weight", "layer4.0.downsample.0.weight"):
        assert values[name].mean() == pytest.approx(0, abs=1e-3)
        assert values[name].std() == pytest.approx(0.1, rel=0.01)
        assert np.abs(values[name]).max() > 0.35  # not truncated
    limit = (512 * 4 * 4) ** -0.5
    for name in ("fc.weight", "fc.bias"):
        assert limit > np.abs(values[name]).max() > 0.98 * limit
        assert values[name].std() == pytest.approx(limit / np.sqrt(3), rel=0.1)
    for name, value in values.items():
        leaf = name.split(".")[-1]
        if "prelu" in name:
            assert (value == 0.25).all()
        elif leaf in ("running_mean", "running_var") or (value.ndim == 1 and name != "fc.bias"):
            assert (value == (leaf in ("running_var", "weight"))).all(), name


def test_layers_are_set_up_as_in_pytorch():
    backbone = iresnet(34, image_size=(32, 32))
    norms = [layer for layer in backbone.layers if isinstance(layer, BatchNorm)]
    assert {(layer.epsilon, layer.momentum, layer.unbiased) for layer in norms} == {(1e-5, 0.9, True)}
    assert [layer.name for layer in norms if not layer.gamma.trainable] == ["features"]
    assert sum(layer.name.endswith("downsample.0") for layer in backbone.layers) == 4


def test_the_seed_decides_the_weights():
    nets = [iresnet(18, image_size=(16, 16), embedding_size=8, seed=seed) for seed in (1, 1, 2)]
    weights = [net.get_weights() for net in nets]
    assert all((a == b).all() for a, b in zip(weights[0], weights[1], strict=True))
    assert any((a != b).any() for a, b in zip(weights[0], weights[2], strict=True))
    kernels = [layer.kernel.numpy() for layer in nets[0].layers if layer.name.startswith("layer4.1.conv")]
    assert (kernels[0] != kernels[1]).any()


@pytest.mark.parametrize("image_size", [(16, 16), (112, 96), (49, 33)])
def test_images_may_have_any_size(image_size):
    backbone = iresnet(18, image_size, embedding_size=24)
    assert backbone(tf.zeros((2, *image_size, 3))).shape == (2, 24)
    assert backbone.get_layer("flatten").input.shape[1:3] == tuple(-(-size // 16) for size in image_size)


def test_dropout_comes_before_the_dense_layer():
    backbone = iresnet(18, image_size=(32, 32), embedding_size=8, keep_prob=0.5)
    dense = backbone.get_layer("fc")
    inputs = keras.Model(backbone.inputs, dense.input)(tf.ones((4, 32, 32, 3)), training=True).numpy()
    assert inputs.shape == (4, 512 * 2 * 2)
    assert (inputs == 0).mean() == pytest.approx(0.5, abs=0.05)


def test_dtype_policy_keeps_weights_statistics_and_embedding_in_float32():
    nets = {}
    for dtype in ("float32", "mixed_bfloat16"):
        nets[dtype] = iresnet(18, IMAGE_SIZE, embedding_size=32, dtype=dtype)
        load(nets[dtype], random_state(18, FEATURE_SIZE, embedding_size=32))
    mixed = nets["mixed_bfloat16"]
    assert {v.dtype for v in mixed.variables if v.name != "draws"} == {"float32"}
    assert [mixed.get_layer(name).compute_dtype for name in ("conv1", "fc")] == ["bfloat16", "float32"]
    images = tf.random.stateless_uniform((4, *IMAGE_SIZE, 3), (0, 1), -1, 1)
    embedding, expected = mixed(images), nets["float32"](images)
    assert embedding.dtype == tf.float32
    assert float(tf.reduce_min(-keras.losses.cosine_similarity(embedding, expected))) > 0.99


def test_a_keras_file_gives_the_same_embeddings(tmp_path):
    backbone = Backbone("iresnet18", image_size=IMAGE_SIZE, embedding_size=32, keep_prob=0.7, seed=3)
    load(backbone, random_state(18, FEATURE_SIZE, embedding_size=32))
    backbone.save(tmp_path / "net.keras")
    loaded = keras.saving.load_model(tmp_path / "net.keras", safe_mode=True)
    images = tf.random.stateless_uniform((4, *IMAGE_SIZE, 3), (0, 1), -1, 1)
    for training in (False, True, False):  # the last call uses the statistics that training moved
        np.testing.assert_array_equal(backbone(images, training=training), loaded(images, training=training))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"image_size": (8, 96)}, r"image_size: .*\(16, 16\), .*\(8, 96\)"), ({"keep_prob": 0}, "keep_prob")],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        iresnet(18, **arguments)


@pytest.mark.parametrize("shape", [(5, 4, 3, 7), (6, 7)])
def test_unbiased_batch_norm_agrees_with_numpy(shape):
    x = np.random.default_rng(0).normal(3, 2, shape).astype(np.float32)
    axes = tuple(range(x.ndim - 1))
    for unbiased in (False, True):
        layer = BatchNorm(momentum=0.8, epsilon=0.01, unbiased=unbiased)
        layer = BatchNorm.from_config(layer.get_config())
        # It normalises by the biased variance in any case.
        expected = (x - x.mean(axes)) / np.sqrt(x.var(axes) + 0.01)
        np.testing.assert_allclose(layer(x, training=True), expected, atol=1e-5)
        variance = 0.8 + 0.2 * x.var(axes, ddof=int(unbiased))
        np.testing.assert_allclose(layer.moving_variance.numpy(), variance, rtol=1e-5)
