"""Tests depthwise convolutions with a stride, trained in bfloat16 on a CPU."""

import keras
import numpy as np
import tensorflow as tf

from nets.layers import depthwise_conv
from nets.layers.depthwise_conv import DepthwiseConv

IMAGES = np.random.default_rng(0).normal(size=(3, 7, 6, 4)).astype(np.float32)


def is_in_float32(node):
    return node.op.endswith("BackpropInput") and node.attr["T"].type == tf.float32.as_datatype_enum


ARGUMENTS: dict = {"kernel_size": 3, "strides": 2, "dtype": "mixed_bfloat16"}


def compute(layer, wanted, training=True):
    """Returns the layer's output, all gradients, and how often `wanted` operations occur in the graph."""
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


def test_gradients_are_the_same_but_computed_in_float32():
    received, found = compute(DepthwiseConv(**ARGUMENTS), is_in_float32)
    expected, _ = compute(keras.layers.DepthwiseConv2D(**ARGUMENTS), is_in_float32)
    assert found == 1 and len(received) == len(expected) >= 3
    for one, two in zip(received, expected, strict=True):
        np.testing.assert_allclose(one, two, rtol=2e-2, atol=2e-2 * np.abs(two).max())


def test_exports_gpus_and_replicas_use_plain_operations(monkeypatch):
    assert compute(DepthwiseConv(**ARGUMENTS), is_in_float32, training=False)[1] == 0
    monkeypatch.setattr(depthwise_conv, "_trains_on_one_cpu", lambda: False)
    received, found = compute(DepthwiseConv(**ARGUMENTS), is_in_float32)
    expected, _ = compute(keras.layers.DepthwiseConv2D(**ARGUMENTS), is_in_float32)
    assert found == 0
    for one, two in zip(received, expected, strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_saved_layer_loads_with_its_settings(tmp_path):
    images = keras.Input(IMAGES.shape[1:])
    net = keras.Model(images, DepthwiseConv(3, 2)(images))
    for variable in net.variables:
        variable.assign(np.random.default_rng(1).normal(size=variable.shape))
    net.save(tmp_path / "net.keras")
    loaded = keras.saving.load_model(tmp_path / "net.keras")
    assert [type(layer) for layer in loaded.layers] == [type(layer) for layer in net.layers]
    for training in (False, True):
        np.testing.assert_array_equal(loaded(IMAGES, training=training), net(IMAGES, training=training))
