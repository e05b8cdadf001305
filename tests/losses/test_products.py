"""Tests products on a GPU that rounds factors to 10 bits, as TF32 does."""

import numpy as np
import pytest
import tensorflow as tf

from losses import custom_gradients, products
from losses.custom_gradients import inner_products, unit_products
from losses.distance_loss import pairwise_distances
from losses.products import product
from tests.graphs import count_operations, graph_on_gpu
from tests.losses.test_custom_gradients import values_and_gradients


@pytest.fixture
def rounding(monkeypatch):
    """Makes `tf.matmul` round its factors, as GPUs do if TF32 is on."""
    exact = tf.matmul

    def rounded(left, right, **kwargs):
        return exact(_tf32(left), _tf32(right), **kwargs)

    monkeypatch.setattr(tf, "matmul", rounded)
    monkeypatch.setattr(products, "has_gpus", lambda: True)
    monkeypatch.setattr(tf.config.experimental, "tensor_float_32_execution_enabled", lambda: True)


def _tf32(values):
    bits = np.asarray(values, np.float32).view(np.int32)
    return tf.constant(((bits + 0x1000) & ~0x1FFF).view(np.float32))


def test_loss_products_are_not_rounded(rounding):
    rng = np.random.default_rng(0)
    vectors, columns = rng.normal(size=(6, 64)), rng.normal(size=(64, 9))
    unit = columns / np.linalg.norm(columns, axis=0)
    for function, expected in (
        (inner_products, vectors @ columns),
        (product, vectors @ columns),
        (unit_products, vectors @ unit),
        (lambda a, b: product(a, tf.transpose(b), transpose_b=True), vectors @ columns),
    ):
        values, to_vectors, to_columns = values_and_gradients(function, vectors, columns)
        upstream = np.float64(tf.random.stateless_normal(values.shape, (1, 2)))
        np.testing.assert_allclose(values, expected, atol=2e-5)
        matrix = unit if function is unit_products else columns
        np.testing.assert_allclose(to_vectors, upstream @ matrix.T, atol=2e-5)
        if function is not unit_products:
            np.testing.assert_allclose(to_columns, vectors.T @ upstream, atol=2e-5)
    assert np.abs(tf.matmul(vectors, columns) - vectors @ columns).max() > 1e-3  # without the split


def test_distances_are_not_rounded(rounding):
    vectors = np.random.default_rng(0).normal(size=(6, 64))
    expected = np.linalg.norm(vectors[:, None] - vectors[None], axis=2)
    np.testing.assert_allclose(pairwise_distances(tf.constant(vectors, tf.float32)), expected, rtol=1e-5)


def test_gpus_run_few_operations(monkeypatch):
    """Fails if the columns are sliced, which is faster on CPUs only."""
    monkeypatch.setattr(custom_gradients, "has_gpus", lambda: True)
    specs = tf.TensorSpec((4, 512), tf.float32), tf.TensorSpec((512, 9), tf.float32)
    counts = count_operations(graph_on_gpu(tf.function(unit_products).get_concrete_function(*specs)))
    assert counts.total() <= 7, counts
