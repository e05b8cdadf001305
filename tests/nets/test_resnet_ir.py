import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from nets.backbone import Backbone, decayed_variables
from nets.importers.tf1_weights import tf1_variables
from nets.layers.batch_norm import BatchNorm
from nets.layers.dropout import Dropout
from nets.layers.prelu import PReLU
from nets.resnet_ir import resnet_ir
from tests.golden.weight_rule import load_golden_weights
from tests.nets.golden_nets import GOLDEN, NETS, golden_difference

VARIABLE_LISTS = {
    **NETS,
    "variables_ir100_112x112": (100, "ir", (112, 112)),
    "variables_ir152_112x96": (152, "ir", (112, 96)),
    "variables_se_ir50_112x112": (50, "se_ir", (112, 112)),
}
WIDE_LISTS = {"variables_wide_ir50": "batch", "variables_gn_ir50": "group"}


@pytest.mark.parametrize("name", NETS)
def test_embeddings_equal_those_of_the_original(name):
    assert golden_difference(name, training=False)["embedding"] < 1e-5


@pytest.mark.parametrize("name", NETS)
def test_training_mode_is_close_to_the_original(name):
    # Normalising over four images magnifies rounding, most of all in the last layer, and this kernel
    # sums in another order than the original's; see the next test.
    difference = golden_difference(name, training=True)
    assert difference.pop("embedding") < 3e-4
    assert max(difference.values()) < 1e-4


def test_training_mode_equals_the_original_with_its_order_of_sums():
    # Without oneDNN, the layers sum in the order of TensorFlow 1. It can only be turned off at the start.
    code = (
        "import json\n"
        "from tests.nets.golden_nets import NETS, golden_difference\n"
        "print(json.dumps([golden_difference(name, True) for name in NETS]))"
    )
    environment = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": "0"}
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True, check=True
    )
    for difference in json.loads(done.stdout):
        assert difference.pop("embedding") < 1e-4
        assert max(difference.values()) < 1e-5


@pytest.mark.parametrize("name", [*VARIABLE_LISTS, *WIDE_LISTS])
def test_variables_are_the_original_s(name):
    expected = json.loads((GOLDEN / f"{name}.json").read_text())
    with tf.Graph().as_default():  # a graph allocates no weights: the wide nets have gigabytes of them
        if name in WIDE_LISTS:
            backbone = resnet_ir(50, expansion=4, norm=WIDE_LISTS[name])
        else:
            backbone = resnet_ir(*VARIABLE_LISTS[name])
        variables = tf1_variables(backbone).items()
        received = sorted((key, list(v.shape), v.trainable) for key, v in variables)
    assert received == sorted(map(tuple, expected))


@pytest.mark.parametrize("norm", ["batch", "group", "renorm"])
def test_wide_nets_train_and_embed(norm):
    backbone = resnet_ir(32, "se_ir", image_size=(32, 32), expansion=4, norm=norm, keep_prob=1.0)
    assert backbone.get_layer("block4.unit_3.bottleneck_v1.conv1").filters == 128
    assert backbone.get_layer("block4.unit_3.bottleneck_v1.conv2").filters == 512
    images = tf.random.stateless_uniform((4, 32, 32, 3), (0, 1), -1, 1)
    with tf.GradientTape() as tape:
        embedding = backbone(images, training=True)
        loss = tf.reduce_mean(tf.square(embedding - 1.0))
    assert embedding.shape == (4, 512) and embedding.dtype == tf.float32
    gradients = tape.gradient(loss, [v.value for v in backbone.trainable_variables])
    assert all(np.isfinite(g).all() for g in gradients)
    assert np.isfinite(backbone(images, training=False)).all()


@pytest.mark.parametrize("dense", [True, False])
def test_decay_is_on_exactly_the_original_s_variables(dense):
    """Row 5 of docs/fidelity.md."""
    backbone = resnet_ir(32, "se_ir", image_size=(112, 96))
    names = {id(variable): name for name, variable in tf1_variables(backbone).items()}
    received = {names[id(variable)].split("/", 1)[1] for variable in decayed_variables(backbone, dense)}
    expected = {
        name.split("/", 1)[1]
        for name, variable in tf1_variables(backbone).items()
        if variable.trainable
        and (name.endswith(("W_conv2d", "gamma", "alphas")) or (dense and name.endswith("E_DenseLayer/W")))
    }
    assert received == expected
    assert "E_BN2/gamma" not in received
    assert not any("excitation" in name for name in received)


def test_initial_values_have_the_distribution_of_the_original():
    backbone = resnet_ir(50, image_size=(112, 96))
    variables = {name.split("/", 1)[1]: v.numpy() for name, v in tf1_variables(backbone).items()}
    kernel = variables["block3/unit_2/bottleneck_v1/conv1/W_conv2d"]
    stddev = np.sqrt(1.3 * 2 / (9 * 256 + 9 * 256))
    # Draws are truncated at two standard deviations, which leaves 0.88 of the standard deviation.
    assert np.abs(kernel).max() <= 2 * stddev * 1.001
    assert kernel.std() == pytest.approx(0.8796 * stddev, rel=0.01)
    gammas = np.concatenate(
        [v for name, v in variables.items() if name.endswith("gamma") and "E_BN2" not in name]
    )
    assert gammas.mean() == pytest.approx(1, abs=1e-3)
    assert gammas.std() == pytest.approx(0.002, rel=0.1)
    # Row 7 of docs/fidelity.md.
    assert (variables["E_BN2/gamma"] == 1).all()
    drawn = resnet_ir(32, image_size=(16, 16), random_final_gamma=True).get_layer("E_BN2").gamma
    assert drawn.numpy().std() == pytest.approx(0.002, rel=0.2) and not drawn.trainable
    assert (variables["prelu0/alphas"] == 0).all()
    assert (variables["bn0/moving_variance"] == 1).all()


def test_the_seed_decides_the_weights():
    weights = [resnet_ir(32, image_size=(32, 32), seed=seed).get_weights() for seed in (1, 1, 2)]
    assert all((a == b).all() for a, b in zip(weights[0], weights[1], strict=True))
    assert any((a != b).any() for a, b in zip(weights[0], weights[2], strict=True))


def test_nets_have_the_expected_numbers_of_parameters():
    expected = {(50, (112, 96)): 41.79, (50, (112, 112)): 43.62, (100, (112, 112)): 65.22}
    for (depth, image_size), millions in expected.items():
        backbone = resnet_ir(depth, image_size=image_size)
        assert round(backbone.count_params() / 1e6, 2) == millions


@pytest.mark.parametrize("image_size", [(112, 96), (64, 64), (113, 97)])
def test_images_may_have_any_size(image_size):
    embedding = resnet_ir(32, image_size=image_size)(tf.zeros((2, *image_size, 3)))
    assert embedding.shape == (2, 512)


def test_dtype_policy_keeps_weights_statistics_and_embedding_in_float32():
    backbone = resnet_ir(32, image_size=(32, 32), dtype="mixed_bfloat16", keep_prob=1.0)
    assert {v.dtype for v in backbone.variables if v.name != "draws"} == {"float32"}
    images = tf.random.stateless_uniform((16, 32, 32, 3), (0, 1), -1, 1)
    precise = resnet_ir(32, image_size=(32, 32), keep_prob=1.0)
    embedding, expected = backbone(images, training=False), precise(images, training=False)
    assert embedding.dtype == tf.float32
    assert backbone.get_layer("conv1").compute_dtype == "bfloat16"
    cosines = -keras.losses.cosine_similarity(embedding, expected)
    assert float(tf.reduce_min(cosines)) > 0.99


def test_a_keras_file_gives_the_same_embeddings(tmp_path):
    backbone = resnet_ir(32, "se_ir", image_size=(48, 40), embedding_size=64, keep_prob=0.7, seed=3)
    load_golden_weights(backbone)
    backbone.save(tmp_path / "net.keras")
    loaded = keras.saving.load_model(tmp_path / "net.keras", safe_mode=True)
    images = tf.random.stateless_uniform((4, 48, 40, 3), (0, 1), -1, 1)
    for training in (False, True):  # training last, because it moves statistics and counters
        np.testing.assert_array_equal(backbone(images, training=training), loaded(images, training=training))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"image_size": (8, 96)}, r"image_size: .*\(16, 16\), .*\(8, 96\)"), ({"keep_prob": 0}, "keep_prob")],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        resnet_ir(**arguments)


def test_batch_norm_agrees_with_numpy():
    rng = np.random.default_rng(0)
    inputs = rng.normal(3, 2, (5, 4, 3, 7)).astype(np.float32)
    for shape in (inputs.shape, (5, 84)):
        x = inputs.reshape(shape)
        layer = BatchNorm(momentum=0.8, epsilon=0.01)
        layer.build(x.shape)
        gamma, beta = rng.normal(size=(2, shape[-1])).astype(np.float32)
        layer.gamma.assign(gamma)
        layer.beta.assign(beta)
        axes = tuple(range(x.ndim - 1))
        mean, variance = x.mean(axes), x.var(axes)
        expected = gamma * (x - mean) / np.sqrt(variance + 0.01) + beta
        np.testing.assert_allclose(layer(x, training=True), expected, atol=1e-5)
        np.testing.assert_allclose(layer.moving_mean, 0.2 * mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(layer.moving_variance, 0.8 + 0.2 * variance, rtol=1e-5)
        moved = (x - layer.moving_mean.numpy()) / np.sqrt(layer.moving_variance.numpy() + 0.01)
        np.testing.assert_allclose(layer(x, training=False), gamma * moved + beta, atol=1e-5)


def test_prelu_agrees_with_numpy():
    inputs = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    layer = PReLU()
    layer.build(inputs.shape)
    layer.alphas.assign([0.5, 0.0, -1.0])
    expected = np.maximum(inputs, 0) + [0.5, 0.0, -1.0] * (inputs - np.abs(inputs)) / 2
    np.testing.assert_allclose(layer(inputs), expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_prelu_gradient_equals_the_one_that_tensorflow_derives(dtype):
    rng = np.random.default_rng(0)
    inputs, upstream = (tf.constant(rng.normal(size=(4, 3, 2, 5)), tf.float32) for _ in range(2))
    inputs = tf.where(tf.abs(inputs) < 0.1, 0.0, inputs)
    layer = PReLU(initializer=keras.initializers.RandomNormal(0.0, 1.0, seed=0), dtype=dtype)
    outputs = []
    for training in (False, True):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            y = layer(inputs, training=training)
        gradients = tape.gradient(y, [inputs, *layer.trainable_variables], tf.cast(upstream, y.dtype))
        outputs.append([y, *gradients])
    for derived, written_out in zip(*outputs, strict=True):
        assert derived.dtype == written_out.dtype
        np.testing.assert_array_equal(tf.cast(derived, tf.float32), tf.cast(written_out, tf.float32))


def test_prelu_computes_slopes_and_minima_in_the_backward_pass():
    layer = PReLU()

    @tf.function
    def gradient(inputs, upstream):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = layer(inputs, training=True)
        return tape.gradient(outputs, inputs, upstream)

    graph = gradient.get_concrete_function(*[tf.TensorSpec((2, 3))] * 2).graph

    def waits(op):
        return op.name == "upstream" or any(map(waits, [*op.control_inputs, *(x.op for x in op.inputs)]))

    forwards, backwards = [op for op in graph.get_operations() if op.type == "SelectV2"]
    (minimum,) = [op for op in graph.get_operations() if op.type == "Minimum"]
    assert not waits(forwards) and waits(backwards) and waits(minimum)


def test_dropout_keeps_40_per_cent_by_default():
    """Row 2 of docs/fidelity.md. A layer that keeps a value divides it by the share that is kept."""
    ones = tf.ones((100, 100))
    nets = resnet_ir(32, image_size=(16, 16)), Backbone("ir32", image_size=(16, 16))
    for layer in (Dropout(), *(net.get_layer("E_Dropout") for net in nets)):
        assert set(np.unique(layer(ones, training=True))) == {0.0, np.float32(2.5)}


def test_dropout_follows_from_seed_and_counter():
    ones = tf.ones((100, 100))
    first, again, other = Dropout(0.4, seed=1), Dropout(0.4, seed=1), Dropout(0.4, seed=2)
    draws = [first(ones, training=True).numpy() for _ in range(2)]
    assert (draws[0] != draws[1]).any()
    assert (draws[0] == again(ones, training=True)).numpy().all()
    assert (draws[0] != other(ones, training=True)).numpy().any()
    assert set(np.unique(draws[0])) == {0.0, np.float32(2.5)}
    assert (draws[0] > 0).mean() == pytest.approx(0.4, abs=0.02)
    # A checkpoint has to restore only the counter.
    again.draws.assign(1)
    np.testing.assert_array_equal(again(ones, training=True), draws[1])
    np.testing.assert_array_equal(first(ones, training=False), ones)
    # A date also works as a seed.
    assert (Dropout(0.4, seed=20261123)(ones, training=True).numpy() > 0).mean() == pytest.approx(
        0.4, abs=0.02
    )
