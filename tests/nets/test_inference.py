import keras
import numpy as np
import pytest

from nets.backbone import Backbone
from nets.inference import in_float32, inference_net
from nets.layers.batch_norm import BatchNorm
from nets.layers.batch_renorm import BatchRenorm
from nets.layers.prelu import PReLU
from nets.resnet_ir import resnet_ir

IMAGES = np.random.default_rng(0).normal(size=(3, 32, 32, 3)).astype(np.float32)


def trained(architecture, slopes):
    """Returns a net in which no weights have their initial values."""
    net = Backbone(architecture, (32, 32), embedding_size=32, seed=1)
    randomise(net, slopes)
    return net


def randomise(net, slopes=(-0.4, 0.4)):
    rng = np.random.default_rng(1)
    for variable in net.variables:
        name = variable.path.rpartition("/")[2]
        if name == "moving_variance":
            variable.assign(rng.uniform(0.5, 2, variable.shape))
        elif name in ("moving_mean", "beta", "bias"):
            variable.assign(rng.normal(0, 0.1, variable.shape))
        elif name == "gamma":
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        elif name == "alphas":
            variable.assign(rng.uniform(*slopes, variable.shape))


def count(net, kind):
    return sum(isinstance(layer, kind) for layer in net.layers)


@pytest.mark.parametrize(
    ("architecture", "slopes", "rectified"),
    [
        ("se_ir32", (-0.4, 1), False),
        ("se_ir32", (0.5, 1.5), False),
        ("iresnet18", (-0.4, 1), False),
        ("iresnet18", (0.5, 1.5), True),
    ],
)
def test_embeddings_stay_the_same(architecture, slopes, rectified):
    net = trained(architecture, slopes)
    before = net.get_weights()
    fast = inference_net(net, rectified)
    expected = net(IMAGES, training=False).numpy()
    received = fast(IMAGES, training=False).numpy()
    np.testing.assert_allclose(received, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    # One norm before the first conv of each unit, and two at the end.
    assert count(fast, BatchNorm) == {"se_ir32": 15 + 2, "iresnet18": 8 + 2}[architecture]
    assert count(fast, PReLU) == (count(net, PReLU) if max(slopes) > 1 and not rectified else 0)
    # The net itself has not changed.
    for one, two in zip(before, net.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(net(IMAGES, training=False), expected)
    assert type(net).from_config(net.get_config()).net == net.net


def test_batch_renorms_are_folded():
    net = resnet_ir(8, image_size=(32, 32), embedding_size=32, norm="renorm")
    randomise(net)
    fast = inference_net(net)
    expected = net(IMAGES, training=False).numpy()
    received = fast(IMAGES, training=False).numpy()
    np.testing.assert_allclose(received, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    # One norm before the first conv of each unit, and two at the end.
    assert count(fast, BatchRenorm) == 4 + 2 < count(net, BatchRenorm)


def test_norms_that_cannot_be_folded_stay():
    """Tests a norm after an activation, and one after a conv whose output is also used elsewhere."""
    images = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, activation="relu")(images)
    x = BatchNorm()(x)
    y = keras.layers.Conv2D(4, 1)(x)
    x = keras.layers.Add()([y, BatchNorm()(y)])
    net = keras.Model(images, x)
    randomise(net)
    fast = inference_net(net)
    faces = IMAGES[:, :8, :8]
    np.testing.assert_allclose(fast(faces, training=False), net(faces, training=False), rtol=1e-4, atol=1e-5)
    assert count(fast, BatchNorm) == 1


def test_in_float32_copies_the_weights():
    net = Backbone("ir32", (32, 32), dtype="mixed_bfloat16", seed=3)
    copy = in_float32(net)
    assert {layer.compute_dtype for layer in copy.layers} == {"float32"}
    for one, two in zip(net.get_weights(), copy.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
