import numpy as np
import pytest
import tensorflow as tf

from losses.distance_loss import pairwise_distances
from losses.hardnet import HardNetLoss
from tests.losses import references
from tests.losses.helpers import (
    GOLDEN,
    numeric_gradient,
    terms_and_gradients,
    terms_and_gradients_on_replicas,
)

SOME_TWICE = np.array([0, 1, 2, 0, 3, 4] * 2)


def random_embeddings(batch=12, dim=4, seed=0):
    embeddings = np.random.default_rng(seed).normal(size=(batch, dim))
    embeddings[batch // 2 :] = embeddings[: batch // 2] + 0.5 * embeddings[batch // 2 :]
    return embeddings.astype(np.float32)


@pytest.mark.parametrize("identities", [np.tile(np.arange(6), 2), SOME_TWICE])
def test_losses_agree_with_numpy(identities):
    embeddings = random_embeddings()
    exact = embeddings.astype(np.float64)
    terms, gradients = terms_and_gradients(HardNetLoss(margin=0.2), embeddings, identities)
    expected = references.hardnet(exact, identities, margin=0.2)
    assert 0 < (expected > 0).mean() < 1
    np.testing.assert_allclose(terms["loss"], np.tile(expected, 2), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(terms["active"], np.tile(expected > 0, 2))
    np.testing.assert_array_equal(
        terms["accuracy"], np.tile(references.hardnet(exact, identities, margin=0.0) == 0, 2)
    )
    assert all(term.dtype == np.float32 and term.shape == (12,) for term in terms.values())
    numeric = numeric_gradient(lambda x: references.hardnet(x, identities, margin=0.2).mean(), exact)
    np.testing.assert_allclose(gradients, numeric, rtol=1e-3, atol=1e-4)
    at_call = HardNetLoss(margin=0.2)(embeddings, identities, margin=0.7)["loss"]
    np.testing.assert_allclose(
        at_call, np.tile(references.hardnet(exact, identities, 0.7), 2), rtol=1e-5, atol=1e-6
    )


def test_the_original_mines_nothing():
    """Its `tf.diag` of a matrix has four axes: this explains its numbers (row 36 of docs/fidelity.md)."""
    embeddings = tf.constant(GOLDEN["triplet/embeddings"])
    half = embeddings.shape[0] // 2
    with tf.GradientTape() as tape:
        tape.watch(embeddings)
        distances = pairwise_distances(embeddings)[:half, half:]
        positive = tf.linalg.diag_part(distances)
        k, i, j = np.ogrid[:half, :half, :half]
        kept = tf.constant(((k != i) & (j != i)).astype(np.float32))
        excess = 1.0 + positive[None, None, :] - distances[:, None, :] * kept
        loss = tf.reduce_mean(tf.maximum(excess, 0.0))
    golden = GOLDEN["hardnet_m1.0/grad_embeddings"]
    np.testing.assert_allclose(loss, GOLDEN["hardnet_m1.0/loss"], rtol=1e-6)
    np.testing.assert_allclose(tape.gradient(loss, embeddings), golden, atol=1e-5 * np.abs(golden).max())
    mined = HardNetLoss()(embeddings, np.tile(np.arange(half), 2))["loss"]
    assert abs(float(tf.reduce_mean(mined)) - float(loss)) > 0.1


def test_lengths_do_not_matter_if_embeddings_are_normalised():
    embeddings = random_embeddings()
    scaled = embeddings * np.linspace(1, 3, 12, dtype=np.float32)[:, None]
    identities = np.tile(np.arange(6), 2)
    expected = HardNetLoss()(embeddings, identities)["loss"]
    np.testing.assert_allclose(HardNetLoss()(scaled, identities)["loss"], expected, rtol=1e-5)
    unit = tf.math.l2_normalize(embeddings, axis=1)
    np.testing.assert_allclose(HardNetLoss(normalise=False)(unit, identities)["loss"], expected, rtol=1e-5)
    assert not np.allclose(HardNetLoss(normalise=False)(scaled, identities)["loss"], expected, rtol=0.1)


@pytest.mark.parametrize("identities", [[3, 3], [3, 3, 3, 3]])
def test_without_a_negative_there_is_no_loss(identities):
    terms, gradients = terms_and_gradients(
        HardNetLoss(), random_embeddings(len(identities)), np.array(identities)
    )
    np.testing.assert_array_equal(terms["loss"], 0)
    np.testing.assert_array_equal(terms["hardest_negative"], 0)
    np.testing.assert_array_equal(gradients, 0)


@pytest.mark.parametrize("identities", [[0, 1, 1, 0], [0, 0, 0]])
def test_halves_with_different_identities_are_refused(identities):
    with pytest.raises(tf.errors.InvalidArgumentError, match="identities"):
        HardNetLoss()(random_embeddings(len(identities)), np.array(identities))


def test_two_replicas_equal_one_device(two_replicas):
    embeddings = random_embeddings(seed=2)
    expected, expected_gradients = terms_and_gradients(HardNetLoss(), embeddings, SOME_TWICE)
    received, gradients = terms_and_gradients_on_replicas(two_replicas, HardNetLoss(), embeddings, SOME_TWICE)
    for name, term in expected.items():
        np.testing.assert_allclose(received[name], term, rtol=1e-5, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(gradients, expected_gradients, rtol=1e-4, atol=1e-6)
