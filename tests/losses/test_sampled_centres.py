"""Tests losses over a sample of the identities."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from losses.arcface import ArcFaceLoss
from losses.build import build_loss
from losses.permutation import draw, draw_on_gpu
from losses.sampling import sample_identities
from losses.variants import LOSSES
from tests.losses.helpers import terms_and_gradients, terms_and_gradients_on_replicas

IDENTITIES, DIM, BATCH = 50, 8, 6
BATCH_IDENTITIES = np.array([7, 3, 7, 49, 0, 3], np.int32)


def sample(identities=BATCH_IDENTITIES, rate=0.3, seed=1, step=0, num_identities=IDENTITIES):
    ids, places = sample_identities(tf.constant(identities), num_identities, rate, seed, step)
    return ids.numpy(), places.numpy()


def embeddings():
    return np.random.default_rng(5).normal(0, 3, (BATCH, DIM)).astype(np.float32)


def sampled_layer(name, rate=0.3):
    layer = build_loss(name, IDENTITIES, seed=1, sample_rate=rate)
    layer.build((None, DIM))
    return layer


@pytest.mark.parametrize("step", range(20))
def test_a_sample_contains_the_identities_of_the_batch_and_others_once(step):
    ids, places = sample(step=step)
    assert len(ids) == len(set(ids)) == 15
    assert ids.min() >= 0 and ids.max() < IDENTITIES
    assert ids[:4].tolist() == [7, 3, 49, 0]
    np.testing.assert_array_equal(ids[places], BATCH_IDENTITIES)


def test_draws_equal_those_of_earlier_releases():
    # A resumed run repeats the draws of the release that started it.
    assert sample()[0].tolist() == [7, 3, 49, 0, 18, 36, 25, 9, 5, 30, 32, 2, 39, 22, 34]


@pytest.mark.parametrize(
    ("num_values", "num_drawn", "key"),
    [(1, 1, (0, 0)), (50, 15, (1, 0)), (65_536, 65_536, (2, 7)), (94_000, 940, (2**40 + 3, 2**33 + 5))],
)
def test_a_gpu_draws_the_same(num_values, num_drawn, key):
    key = tf.constant(key, tf.int64)
    expected = draw(num_drawn, num_values, key)
    np.testing.assert_array_equal(draw_on_gpu(num_drawn, num_values, key), expected)


def test_a_sample_is_a_function_of_seed_and_step():
    assert sample(step=3)[0].tolist() == sample(step=3)[0].tolist()
    others = {tuple(sorted(sample(seed=seed, step=step)[0])) for seed in range(5) for step in range(5)}
    assert len(others) == 25


def test_others_are_drawn_evenly():
    draw = tf.function(lambda step: sample_identities(BATCH_IDENTITIES, IDENTITIES, 0.3, 1, step)[0])
    counts = np.zeros(IDENTITIES)
    for step in tf.range(2000):
        counts[draw(step).numpy()[4:]] += 1
    own = np.unique(BATCH_IDENTITIES)
    assert not counts[own].any()
    # 2000 draws of 11 from 46; a standard deviation is 19.
    np.testing.assert_allclose(np.delete(counts, own), 2000 * 11 / 46, atol=4.5 * 19)


@pytest.mark.parametrize(
    ("rate", "expected"), [(0.01, 4), (0.08, 4), (0.09, 5), (0.1, 5), (0.28, 14), (0.281, 15), (1.0, 50)]
)
def test_the_size_of_a_sample_is_rounded_up(rate, expected):
    # It is never below the 4 identities of the batch.
    assert len(sample(rate=rate)[0]) == expected


def test_rounding_adds_no_identity():
    assert len(sample(np.array([1], np.int32), 0.1, num_identities=30)[0]) == 3  # 0.1 * 30 > 3


@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_equals_that_of_the_sampled_centres_alone(name):
    layer = sampled_layer(name)
    layer.set_sampling_step(lambda: tf.constant(4))
    ids, places = sample(step=4)
    per_identity = layer.centres_shape[1] // IDENTITIES
    rows = (ids[:, None] * per_identity + np.arange(per_identity)).ravel()
    alone = build_loss(name, len(ids), seed=1)
    alone.build((None, DIM))
    alone.assign_centres(layer.centres.numpy()[rows].T)

    values = tf.constant(embeddings())
    with tf.GradientTape() as tape:
        tape.watch(values)
        received = layer(values, BATCH_IDENTITIES)
        loss = tf.reduce_mean(received["loss"])
    to_embeddings, to_centres = tape.gradient(loss, [values, layer.centres.value])
    expected, *gradients = terms_and_gradients(alone, embeddings(), places)
    assert received.keys() == expected.keys()
    for term in expected:
        np.testing.assert_allclose(received[term], expected[term], rtol=1e-5, atol=1e-6, err_msg=term)
    np.testing.assert_allclose(to_embeddings, gradients[0], rtol=1e-4, atol=1e-5)
    # The gradient is sparse, and contains each row of the sample once.
    assert isinstance(to_centres, tf.IndexedSlices)
    np.testing.assert_array_equal(to_centres.indices, rows)
    np.testing.assert_allclose(tf.transpose(to_centres.values), gradients[1], rtol=1e-4, atol=1e-5)


def test_cross_entropy_agrees_with_numpy():
    layer = ArcFaceLoss(IDENTITIES, margin=0.2, scale=4.0, sample_rate=0.3)
    layer.build((None, DIM))
    ids, _ = sample(seed=0)
    centres = layer.centres.numpy().astype(np.float64)
    x = embeddings().astype(np.float64)
    cosines = (x / np.linalg.norm(x, axis=1, keepdims=True)) @ (
        centres / np.linalg.norm(centres, axis=1, keepdims=True)
    ).T
    expected = []
    for row, own in zip(cosines, BATCH_IDENTITIES, strict=True):
        target = 4.0 * np.cos(np.arccos(row[own]) + 0.2)
        others = sum(np.exp(4.0 * row[j]) for j in ids if j != own)
        expected.append(np.log(np.exp(target) + others) - target)
    terms = layer(embeddings(), BATCH_IDENTITIES)
    np.testing.assert_allclose(terms["loss"], expected, rtol=1e-5)
    # The accuracy looks for the nearest of the sampled centres, not of all.
    nearest = np.argmax(cosines[:, np.sort(ids)], axis=1)
    np.testing.assert_array_equal(terms["accuracy"], np.sort(ids)[nearest] == BATCH_IDENTITIES)


def test_a_rate_of_1_equals_the_loss_without_samples():
    dense = build_loss("arcface", IDENTITIES, seed=1)
    layer = sampled_layer("arcface", 1.0)
    dense.build((None, DIM))
    results = (terms_and_gradients(head, embeddings(), BATCH_IDENTITIES) for head in (layer, dense))
    for one, two in zip(*results, strict=True):
        if isinstance(one, dict):
            assert all(np.array_equal(one[name], two[name]) for name in one)
        else:
            np.testing.assert_array_equal(one, two)
    assert tuple(layer.centres.shape) == layer.centres_shape == (DIM, IDENTITIES)


def test_the_initial_centres_are_those_of_a_layer_without_samples():
    dense, sampled = sampled_layer("sub_centre", 1.0), sampled_layer("sub_centre", 0.3)
    assert sampled.centres_shape == dense.centres_shape == (DIM, 3 * IDENTITIES)
    np.testing.assert_array_equal(sampled.centres.numpy().T, dense.centres.numpy())


def test_replicas_see_one_sample_of_the_global_batch(two_replicas):
    values = embeddings()
    received = []
    for strategy in (tf.distribute.get_strategy(), two_replicas):
        with strategy.scope():
            layer = sampled_layer("arcface")
        received.append(terms_and_gradients_on_replicas(strategy, layer, values, BATCH_IDENTITIES))
    (one, one_gradient), (two, two_gradient) = received
    for term in one:
        np.testing.assert_allclose(two[term], one[term], rtol=1e-5, atol=1e-6, err_msg=term)
    np.testing.assert_allclose(two_gradient, one_gradient, rtol=1e-4, atol=1e-6)


def test_the_configuration_holds_rate_and_seed():
    layer = ArcFaceLoss(IDENTITIES, sample_rate=0.2, seed=3)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert (copy.sample_rate, copy.seed) == (0.2, 3)
    for head in (layer, copy):
        head.build((None, DIM))
    np.testing.assert_array_equal(
        copy(embeddings(), BATCH_IDENTITIES)["loss"], layer(embeddings(), BATCH_IDENTITIES)["loss"]
    )


@pytest.mark.parametrize("rate", [0, -0.1, 1.1])
def test_a_rate_out_of_range_is_refused(rate):
    with pytest.raises(ValueError, match="sample_rate"):
        build_loss("arcface", IDENTITIES, sample_rate=rate)


def test_an_identity_out_of_range_is_refused():
    with pytest.raises(tf.errors.InvalidArgumentError, match="identities"):
        sampled_layer("arcface")(embeddings(), np.full(BATCH, IDENTITIES, np.int32))
