import numpy as np

from losses.adaface import AdaFaceLoss
from tests.losses.helpers import terms_and_gradients, terms_and_gradients_on_replicas


def random_batch():
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(8, 6)) * np.linspace(1, 30, 8)[:, None]
    return embeddings.astype(np.float32), rng.integers(0, 5, 8)


def statistics(layer):
    return float(layer.norm_mean.numpy()), float(layer.norm_std.numpy())


def test_statistics_move_in_training():
    embeddings, identities = random_batch()
    layer = AdaFaceLoss(5, momentum=0.75)
    layer(embeddings, identities, training=False)
    assert statistics(layer) == (20, 100)
    norms = np.linalg.norm(embeddings, axis=1)
    mean, std = 20, 100
    for _ in range(3):
        layer(embeddings, identities)
        mean, std = 0.75 * mean + 0.25 * norms.mean(), 0.75 * std + 0.25 * norms.std(ddof=1)
        np.testing.assert_allclose(statistics(layer), (mean, std), rtol=1e-5)
    assert [weight.name for weight in layer.trainable_variables] == ["embedding_weights"]


def test_lengths_of_outliers_are_clipped():
    embeddings, identities = random_batch()
    layer = AdaFaceLoss(5, momentum=0)
    layer(1e6 * embeddings, identities)
    np.testing.assert_allclose(statistics(layer), (100, 0))


def test_a_batch_of_one_gives_finite_losses():
    embeddings, identities = random_batch()
    layer = AdaFaceLoss(5, momentum=0)
    assert np.isfinite(layer(embeddings[:1], identities[:1])["loss"]).all()
    assert statistics(layer)[1] == 0


def test_two_replicas_equal_one_device(two_replicas):
    embeddings, identities = random_batch()
    one = AdaFaceLoss(5, scale=4.0, momentum=0.5, seed=1)
    one.build((None, 6))
    with two_replicas.scope():
        two = AdaFaceLoss(5, scale=4.0, momentum=0.5, seed=1)
        two.build((None, 6))
    for _ in range(3):  # each step continues from the statistics of the step before
        expected, expected_gradients, _ = terms_and_gradients(one, embeddings, identities)
        received, gradients = terms_and_gradients_on_replicas(two_replicas, two, embeddings, identities)
        for name, term in expected.items():
            np.testing.assert_allclose(received[name], term, rtol=1e-5, atol=1e-6, err_msg=name)
        np.testing.assert_allclose(gradients, expected_gradients, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(statistics(two), statistics(one), rtol=1e-6)
