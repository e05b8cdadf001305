import numpy as np
import pytest
import tensorflow as tf

from losses.distance_loss import pairwise_distances


def embeddings_with_twins():
    embeddings = np.random.default_rng(0).normal(size=(9, 5)).astype(np.float32)
    embeddings[4] = embeddings[7] = 1, -2, 0, 3, 1  # products of these are exact in any order of summation
    return embeddings


@pytest.mark.parametrize("squared", [False, True])
def test_distances_agree_with_numpy(squared):
    embeddings = embeddings_with_twins()
    expected = np.linalg.norm(embeddings[:, None].astype(np.float64) - embeddings[None], axis=2)
    received = pairwise_distances(tf.constant(embeddings), squared).numpy()
    np.testing.assert_allclose(received, expected**2 if squared else expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(received, received.T, rtol=1e-6)
    assert (np.diag(received) == 0).all()
    assert received[4, 7] == 0


@pytest.mark.parametrize("squared", [False, True])
# The gradient of the root at 0 is infinite in compiled code, and bounded in the plain kernel.
@pytest.mark.parametrize("jit_compile", [False, True])
def test_gradients_are_zero_where_embeddings_are_the_same(squared, jit_compile):
    @tf.function(jit_compile=jit_compile)
    def gradients(embeddings):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(embeddings)
            distances = pairwise_distances(embeddings, squared)
            to_the_twin, everything = distances[4, 7], tf.reduce_sum(distances)
        return tape.gradient(to_the_twin, embeddings), tape.gradient(everything, embeddings)

    to_the_twin, everything = gradients(tf.constant(embeddings_with_twins()))
    np.testing.assert_array_equal(to_the_twin, 0)
    assert np.isfinite(everything).all()
    assert np.abs(everything).max() > 1


def test_rounding_gives_no_negative_distances():
    # Long embeddings next to each other: the inner products cancel.
    embeddings = 1e3 * np.ones((20, 8)) + np.random.default_rng(0).normal(scale=1e-3, size=(20, 8))
    distances = pairwise_distances(tf.constant(embeddings, tf.float32)).numpy()
    assert np.isfinite(distances).all()
    assert (distances >= 0).all()
