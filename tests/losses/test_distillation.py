"""Tests the loss that compares embeddings with those of a teacher."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from losses.distillation import DistillationLoss
from tests.losses.helpers import terms_and_gradients


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def cosines(one, two):
    return np.sum(one * two, axis=1) / np.linalg.norm(one, axis=1) / np.linalg.norm(two, axis=1)


@pytest.mark.parametrize("teacher_dim", [6, 9])
def test_the_loss_agrees_with_numpy(teacher_dim):
    embeddings, targets = numbers(5, 6), 7 * numbers(5, teacher_dim, seed=1)
    layer = DistillationLoss(3.0, seed=2)
    terms = layer(embeddings, targets)
    mapped = embeddings
    if teacher_dim != 6:
        (matrix,) = layer.trainable_variables
        mapped = embeddings @ matrix.numpy()
    assert len(layer.weights) == (teacher_dim != 6)
    expected = cosines(mapped, targets)
    np.testing.assert_allclose(terms["teacher_cosine"], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(terms["loss"], 3 * (1 - expected), rtol=1e-5)
    np.testing.assert_allclose(tf.add_n(layer.losses), np.mean(terms["loss"]), rtol=1e-6)


def relative_distances(values):
    values = values / np.linalg.norm(values, axis=1, keepdims=True)
    distances = np.linalg.norm(values[:, None] - values[None], axis=2)
    return distances / (distances.sum() / (len(values) * (len(values) - 1)))


@pytest.mark.parametrize("spread", [1.0, 0.01])
def test_the_relation_term_agrees_with_numpy(spread):
    embeddings, targets = numbers(5, 6), numbers(5, 9, seed=1)
    embeddings[1:] = embeddings[:1] + spread * embeddings[1:]  # near each other
    embeddings[4] = -embeddings[0]  # and far from all others
    terms = DistillationLoss(3.0, 2.0)(embeddings, targets)
    error = np.abs(relative_distances(embeddings) - relative_distances(targets))
    assert (error > 1).any() == (spread < 1)  # both parts of the Huber loss
    huber = np.where(error <= 1, error**2 / 2, error - 0.5)
    expected = huber.sum(axis=1) / 4
    np.testing.assert_allclose(terms["teacher_relation"], expected, rtol=1e-4)
    np.testing.assert_allclose(terms["loss"], 3 * (1 - terms["teacher_cosine"]) + 2 * expected, rtol=1e-4)


def test_the_gradient_only_turns_the_embedding():
    embeddings, targets = numbers(4, 6), numbers(4, 6, seed=1)
    embeddings[3] = 0
    targets[2] = 0
    gradient = terms_and_gradients(DistillationLoss(), embeddings, targets)[1]
    with_relation = terms_and_gradients(
        DistillationLoss(10.0, 1.0), embeddings[[0, 0, 1, 2, 3]], numbers(5, 6)
    )
    assert np.isfinite(gradient).all() and np.isfinite(with_relation[1]).all()
    np.testing.assert_allclose(np.sum(gradient[:2] * embeddings[:2], axis=1), 0, atol=1e-5)
    assert (np.sum(gradient[:2] * targets[:2], axis=1) < 0).all()
    assert not gradient[2].any()


def test_the_loss_is_float32_under_every_policy():
    embeddings, targets = tf.cast(numbers(4, 6), tf.bfloat16), numbers(4, 9, seed=1)
    coarse, exact = DistillationLoss(dtype="mixed_bfloat16"), DistillationLoss()
    received, expected = coarse(embeddings, targets), exact(tf.cast(embeddings, tf.float32), targets)
    np.testing.assert_array_equal(received["loss"], expected["loss"])
    assert coarse.weights[0].dtype == "float32"


def test_a_saved_loss_loads_with_the_same_outputs(tmp_path):
    inputs = keras.Input((6,)), keras.Input((9,))
    model = keras.Model(inputs, DistillationLoss(3.0, seed=5)(*inputs))
    model.save(tmp_path / "loss.keras")
    loaded = keras.saving.load_model(tmp_path / "loss.keras", safe_mode=True)
    given = [numbers(4, 6), numbers(4, 9, seed=1)]
    np.testing.assert_array_equal(loaded(given)["loss"], model(given)["loss"])
    assert not np.allclose(DistillationLoss(3.0, seed=6)(*given)["loss"], model(given)["loss"])


def test_weights_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"weight: .* 0"):
        DistillationLoss(0)
    with pytest.raises(ValueError, match=r"relation_weight: .* -1"):
        DistillationLoss(1, -1)
