"""Compares products with centres, and their gradients, with TensorFlow's own operations."""

import numpy as np
import pytest
import tensorflow as tf

from losses.custom_gradients import cross_entropy, inner_products, unit_products


def values_and_gradients(function, *sources):
    """Returns the values of a function, and the gradients of their sum with random weights."""
    sources = [tf.constant(source, tf.float32) for source in sources]
    with tf.GradientTape() as tape:
        tape.watch(sources)
        values = function(*sources)
        weights = tf.random.stateless_normal(tf.shape(values), (1, 2))
        weighted = tf.reduce_sum(weights * values)
    return [values.numpy(), *(gradient.numpy() for gradient in tape.gradient(weighted, sources))]


# The function squares 16 rows at a time.
@pytest.mark.parametrize("dim", [5, 16, 37])
@pytest.mark.parametrize("compiled", [False, True])
def test_unit_products_equal_tensorflow_s(dim, compiled):
    rng = np.random.default_rng(0)
    vectors, columns = rng.normal(size=(4, dim)), rng.normal(size=(dim, 9))
    columns[:, 2] = 0
    columns[:, 3] *= 1e-8  # shorter than `SHORTEST`

    ours = tf.function(unit_products, jit_compile=True) if compiled else unit_products
    received = values_and_gradients(ours, vectors, columns)
    expected = values_and_gradients(lambda v, c: v @ tf.math.l2_normalize(c, axis=0), vectors, columns)
    for one, other in zip(received, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    assert np.abs(received[2][:, 2:4]).max() > 1e4  # the gradient of the product alone


def test_inner_products_equal_tensorflow_s():
    rng = np.random.default_rng(0)
    sources = rng.normal(size=(4, 5)), rng.normal(size=(5, 9))
    for one, other in zip(
        values_and_gradients(inner_products, *sources), values_and_gradients(tf.matmul, *sources), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scale", [0.1, 1, 300])
def test_cross_entropy_equals_tensorflow_s(scale):
    logits = scale * np.random.default_rng(0).normal(size=(6, 11))
    identities = np.array([0, 10, 3, 3, 5, 7], np.int32)
    received = values_and_gradients(lambda x: cross_entropy(x, identities), logits)
    expected = values_and_gradients(
        lambda x: tf.nn.sparse_softmax_cross_entropy_with_logits(identities, x), logits
    )
    # At 300, most own probabilities are 0 in float32, but their logarithms must be finite.
    for one, other in zip(received, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_a_logit_that_is_not_finite_makes_the_loss_not_finite():
    for bad in (np.nan, np.inf):
        assert not np.isfinite(cross_entropy(tf.constant([[0.0, bad]]), tf.constant([0]))).any()
