import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from losses.triplet import TripletLoss
from tests.losses.helpers import GOLDEN, terms_and_gradients, terms_and_gradients_on_replicas

ROOT = Path(__file__).parents[2]
MININGS = ["batch_hard", "batch_all"]


def reference(embeddings, identities, mining, margin, squared=False):
    """Returns the loss of a batch and its share of active triplets, computed anchor by anchor in float64."""
    embeddings = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    losses, num_candidates = [], 0
    for anchor, identity in enumerate(identities):
        distances = ((embeddings - embeddings[anchor]) ** 2).sum(axis=1) ** (1 if squared else 0.5)
        positives = np.delete(distances, anchor)[np.delete(identities, anchor) == identity]
        negatives = distances[identities != identity]
        excess = (margin + positives[:, None] - negatives[None, :]).ravel()
        if mining == "batch_hard":
            excess = excess.max(keepdims=True) if excess.size else excess
        num_candidates += excess.size
        losses.extend(excess[excess > 0])
    mean_over = len(identities) if mining == "batch_hard" else max(len(losses), 1)
    return sum(losses) / mean_over, len(losses) / max(num_candidates, 1)


def random_batch(identities, dim=6, seed=0):
    identities = np.asarray(identities)
    rng = np.random.default_rng(seed)
    around = rng.normal(size=(identities.max() + 1, dim))[identities]
    return (around + rng.normal(scale=0.6, size=around.shape)).astype(np.float32), identities


@pytest.mark.parametrize("mining", MININGS)
@pytest.mark.parametrize("margin", [0.3, 1.0])
@pytest.mark.parametrize("form", ["euclid", "squared"])
@pytest.mark.parametrize("normalise", [False, True])
def test_losses_equal_those_of_the_original(mining, margin, form, normalise):
    golden = {
        key.split("/")[-1]: GOLDEN[key]
        for key in GOLDEN.files
        if key.startswith(f"triplet/{mining}_m{margin}_{form}/")
    }
    embeddings, identities = GOLDEN["triplet/embeddings"], GOLDEN["triplet/labels"]
    assert (embeddings[0] == embeddings[1]).all()
    layer = TripletLoss(mining, margin, weight=1.0, squared=form == "squared", normalise=normalise)
    terms, received = terms_and_gradients(layer, embeddings, identities)
    np.testing.assert_allclose(terms["loss"].mean(), golden["loss"], rtol=1e-5, atol=1e-7)
    if mining == "batch_all":
        np.testing.assert_allclose(terms["active"].mean(), golden["fraction_positive"], rtol=1e-6)
    expected = golden["grad_embeddings"]
    if normalise:  # the golden embeddings have unit length, so only the gradient along the sphere remains
        expected = expected - embeddings * (expected * embeddings).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(received, expected, atol=1e-5 * max(np.abs(expected).max(), 0.1))


@pytest.mark.parametrize("mining", MININGS)
@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize(
    "identities",
    [np.repeat(np.arange(5), 4), [0, 1, 1, 2, 2, 2, 3, 3, 3, 3, 1, 4], np.repeat(np.arange(128), 4)],
    ids=["four each", "some alone", "512"],
)
def test_losses_agree_with_numpy(mining, squared, identities):
    embeddings, identities = random_batch(identities)
    layer = TripletLoss(mining, 0.4, weight=7.0, squared=squared)
    terms = {name: term.numpy() for name, term in layer(embeddings, identities).items()}
    loss, active = reference(embeddings.astype(np.float64), identities, mining, 0.4, squared)
    assert 0 < active < 1 or mining == "batch_hard"
    np.testing.assert_allclose(terms["triplet"].mean(), loss, rtol=2e-5)
    np.testing.assert_allclose(terms["active"].mean(), active, rtol=1e-5)
    np.testing.assert_allclose(terms["loss"], 7.0 * terms["triplet"], rtol=1e-6)
    assert all(term.dtype == np.float32 and term.shape == identities.shape for term in terms.values())
    loss, _ = reference(embeddings.astype(np.float64), identities, mining, 0.1, squared)
    np.testing.assert_allclose(
        tf.reduce_mean(layer(embeddings, identities, margin=0.1)["triplet"]), loss, rtol=2e-5
    )


def test_defaults_are_the_original_s():
    embeddings, identities = random_batch(np.repeat(np.arange(4), 4))
    loss, _ = reference(embeddings.astype(np.float64), identities, "batch_hard", 0.3)
    np.testing.assert_allclose(
        tf.reduce_mean(TripletLoss()(embeddings, identities)["loss"]), 10 * loss, rtol=1e-5
    )


def test_the_hardest_distances_of_an_anchor_are_found():
    embeddings = np.array([[0.0], [1.0], [3.0], [7.0]])
    terms = TripletLoss(normalise=False)(embeddings, np.array([0, 0, 0, 1]))
    assert terms["hardest_positive"].numpy().tolist() == [3, 2, 3, 0]
    assert terms["hardest_negative"].numpy().tolist() == [7, 6, 4, 4]


@pytest.mark.parametrize("mining", MININGS)
@pytest.mark.parametrize(
    "identities", [[0, 1, 2, 3], [5, 5, 5, 5], [3]], ids=["no positive", "no negative", "one"]
)
def test_without_a_triplet_there_is_no_loss(mining, identities):
    embeddings = np.ones((len(identities), 3), np.float32)
    embeddings[0] = 2.0, 0.0, 1.0
    terms, gradients = terms_and_gradients(TripletLoss(mining), embeddings, np.array(identities))
    for name in ("loss", "triplet", "active"):
        np.testing.assert_array_equal(terms[name], 0, err_msg=name)
    assert all(np.isfinite(term).all() for term in terms.values())
    np.testing.assert_array_equal(gradients, 0)


@pytest.mark.parametrize("mining", MININGS)
def test_an_anchor_without_a_positive_has_no_loss(mining):
    embeddings, identities = random_batch([0, 0, 1, 2, 2])
    terms, gradients = terms_and_gradients(TripletLoss(mining, margin=5.0), embeddings, identities)
    assert terms["loss"][2] == 0
    assert (np.delete(terms["loss"], 2) > 0).all()
    assert np.isfinite(gradients).all()
    assert np.abs(gradients[2]).max() > 0  # it is a negative of other anchors


@pytest.mark.parametrize("mining", MININGS)
def test_a_triplet_at_its_margin_is_not_active(mining):
    terms = TripletLoss(mining, margin=0.0)(np.ones((6, 4), np.float32), np.repeat([0, 1], 3))
    np.testing.assert_array_equal(terms["active"], 0)


@pytest.mark.parametrize("mining", MININGS)
def test_nan_in_an_embedding_makes_the_loss_nan(mining):
    embeddings, identities = random_batch(np.repeat(np.arange(3), 3))
    embeddings[4, 0] = np.nan
    assert np.isnan(TripletLoss(mining)(embeddings, identities)["loss"]).any()


@pytest.mark.parametrize("mining", MININGS)
@pytest.mark.parametrize(
    "identities", [[0, 0, 1, 1, 0, 1, 2, 2], [0, 0, 0, 1, 2, 2, 2, 2]], ids=["across", "one alone"]
)
def test_two_replicas_equal_one_device(two_replicas, mining, identities):
    embeddings, identities = random_batch(identities, seed=3)
    layer = TripletLoss(mining, margin=0.6)
    expected, expected_gradients = terms_and_gradients(layer, embeddings, identities)
    received, gradients = terms_and_gradients_on_replicas(two_replicas, layer, embeddings, identities)
    for name, term in expected.items():
        np.testing.assert_allclose(received[name], term, rtol=1e-5, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(gradients, expected_gradients, rtol=1e-4, atol=1e-5)
    # The loss of a half alone would be different.
    alone = layer(embeddings[:4], identities[:4])["hardest_negative"]
    assert not np.allclose(alone, expected["hardest_negative"][:4])


@pytest.mark.parametrize(("argument", "value"), [("mining", "semi_hard"), ("weight", -1)])
def test_bad_arguments_are_refused(argument, value):
    with pytest.raises(ValueError, match=f"{argument}: .* {value}"):
        TripletLoss(**{argument: value})


MEMORY = """
import resource
import numpy as np
import tensorflow as tf
from losses.triplet import TripletLoss

def peak_after(batch):
    embeddings = tf.random.stateless_normal((batch, 64), (0, 1))
    with tf.GradientTape() as tape:
        tape.watch(embeddings)
        loss = tf.reduce_mean(layer(embeddings, np.arange(batch) // 4)["loss"])
    assert np.isfinite(tape.gradient(loss, embeddings)).all()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

layer = TripletLoss("batch_all", margin=1.0)
before = peak_after(8)
print((peak_after(512) - before) // 1024)
"""


def test_batch_all_needs_no_array_of_all_triplets():
    pytest.importorskip("resource")
    run = subprocess.run(
        [sys.executable, "-c", MEMORY], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 0, run.stderr
    # MiB; one float32 array of shape (512, 512, 512) would be 512.
    assert int(run.stdout.split()[-1]) < 256
