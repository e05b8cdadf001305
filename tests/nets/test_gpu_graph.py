"""Tests which operations a GPU runs for the layers of the nets."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from nets.layers import prelu
from nets.layers.batch_norm import BatchNorm, move_statistics_together
from nets.layers.dropout import Dropout
from nets.layers.prelu import PReLU
from tests.graphs import count_operations, graph_on_gpu

GPU = "/job:localhost/replica:0/task:0/device:GPU:0"
BLOCKS = 4


@pytest.fixture(scope="module")
def net():
    x = images = keras.Input((8, 8, 3))
    for _ in range(BLOCKS):
        x = keras.layers.Conv2D(8, 3, padding="same", use_bias=False)(x)
        x = PReLU()(BatchNorm()(x))
    x = Dropout()(BatchNorm()(x))
    return keras.Model(images, keras.layers.Dense(8)(keras.layers.Flatten()(x)))


def graph(net, call):
    """Returns a forward and backward pass in float32, in which TensorFlow moves the channels to the front."""

    def gradients(images):
        with tf.device(GPU), tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(call(images, training=True)))
            return tape.gradient(loss, [variable.value for variable in net.trainable_variables])

    images = tf.TensorSpec((8, 8, 8, 3), tf.float32)
    return graph_on_gpu(tf.function(gradients).get_concrete_function(images))


def test_no_layer_transposes_images(net, monkeypatch):
    monkeypatch.setattr(prelu, "_has_gpus", lambda: True)
    optimized = graph(net, net)
    convs = [node for node in optimized.node if node.op == "Conv2D"]
    assert [node.attr["data_format"].s for node in convs] == [b"NCHW"] * BLOCKS
    # Four: the images, the mask of the dropout, its output, and the gradient of its output.
    assert count_operations(optimized)["Transpose"] == 4


def test_statistics_move_together(net):
    def together(*args, **kwargs):
        with move_statistics_together():
            return net(*args, **kwargs)

    counts, apart = (count_operations(graph(net, call)) for call in (together, net))
    assert (counts["AssignVariableOp"], counts["Sub"], counts["SplitV"]) == (2 * (BLOCKS + 1), 2, 1)
    assert counts.total() < apart.total() - 5 * BLOCKS


def test_a_prelu_has_the_same_numbers_on_gpus(monkeypatch):
    rng = np.random.default_rng(0)
    images = tf.constant(rng.normal(size=(4, 3, 3, 8)), tf.float32)
    layer = PReLU(keras.initializers.RandomUniform(-0.5, 0.5, seed=1))
    results = []
    for has_gpus in (False, True):
        monkeypatch.setattr(prelu, "_has_gpus", lambda has_gpus=has_gpus: has_gpus)
        with tf.GradientTape() as tape:
            tape.watch(images)
            outputs = layer(images, training=True)
            loss = tf.reduce_sum(outputs**2)
        results.append([outputs, *tape.gradient(loss, [images, layer.alphas.value])])
    for on_cpu, on_gpu in zip(*results, strict=True):
        np.testing.assert_array_equal(on_cpu, on_gpu)
