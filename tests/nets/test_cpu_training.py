"""Tests of the layers whose training is faster on CPUs."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from nets.layers import depthwise_conv, pointwise_conv
from nets.layers.depthwise_conv import DepthwiseConv
from nets.layers.pointwise_conv import PointwiseConv

IMAGES = np.random.default_rng(0).normal(size=(3, 7, 6, 4)).astype(np.float32)


def is_product(node):
    return node.op == "MatMul"


def is_in_float32(node):
    return node.op.endswith("BackpropInput") and node.attr["T"].type == tf.float32.as_datatype_enum


LAYERS = [
    (PointwiseConv, keras.layers.Conv2D, {"filters": 5, "kernel_size": 1}, "float32", is_product, 1),
    (
        *(DepthwiseConv, keras.layers.DepthwiseConv2D, {"kernel_size": 3, "strides": 2}),
        *("mixed_bfloat16", is_in_float32, 1),
    ),
]


def compute(layer, wanted, training=True):
    """Returns the output and all gradients of a function of it, and the number of the wanted operations."""
    layer.build(IMAGES.shape)
    for variable in layer.weights:
        variable.assign(np.random.default_rng(1).uniform(-0.5, 1, variable.shape))

    @tf.function
    def gradients(images):
        with tf.GradientTape() as tape:
            tape.watch(images)
            outputs = tf.cast(layer(images, training=training), tf.float32)
            objective = tf.reduce_sum(outputs**3)
        return outputs, tape.gradient(objective, [images, *(v.value for v in layer.trainable_variables)])

    graph = gradients.get_concrete_function(tf.TensorSpec(IMAGES.shape)).graph.as_graph_def()
    return tf.nest.flatten(gradients(IMAGES)), sum(wanted(node) for node in graph.node)


@pytest.mark.parametrize(("kind", "reference", "arguments", "dtype", "wanted", "number"), LAYERS)
def test_the_same_gradients_by_other_operations(kind, reference, arguments, dtype, wanted, number):
    received, found = compute(kind(**arguments, dtype=dtype), wanted)
    expected, _ = compute(reference(**arguments, dtype=dtype), wanted)
    tolerance = 1e-5 if dtype == "float32" else 2e-2
    assert found == number and len(received) == len(expected) >= 3
    for one, two in zip(received, expected, strict=True):
        np.testing.assert_allclose(one, two, rtol=tolerance, atol=tolerance * np.abs(two).max())


@pytest.mark.parametrize(("kind", "reference", "arguments", "dtype", "wanted", "number"), LAYERS)
def test_plain_operations_elsewhere(monkeypatch, kind, reference, arguments, dtype, wanted, number):
    """In exports, and in training on GPUs or several replicas."""
    assert compute(kind(**arguments, dtype=dtype), wanted, training=False)[1] == 0
    for module in (depthwise_conv, pointwise_conv):
        monkeypatch.setattr(module, "trains_on_one_cpu", lambda: False)
    received, found = compute(kind(**arguments, dtype=dtype), wanted)
    expected, _ = compute(reference(**arguments, dtype=dtype), wanted)
    assert found == 0
    for one, two in zip(received, expected, strict=True):
        np.testing.assert_array_equal(one, two)


def test_layers_survive_a_round_trip(tmp_path):
    images = keras.Input(IMAGES.shape[1:])
    x = PointwiseConv(5, 1, use_bias=True)(images)
    net = keras.Model(images, DepthwiseConv(3, 2)(x))
    for variable in net.variables:
        variable.assign(np.random.default_rng(1).normal(size=variable.shape))
    net.save(tmp_path / "net.keras")
    loaded = keras.saving.load_model(tmp_path / "net.keras")
    assert [type(layer) for layer in loaded.layers] == [type(layer) for layer in net.layers]
    for training in (False, True):
        np.testing.assert_array_equal(loaded(IMAGES, training=training), net(IMAGES, training=training))
