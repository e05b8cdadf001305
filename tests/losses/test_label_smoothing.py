import numpy as np
import pytest

from losses.build import build_loss
from losses.cosines import softmax_cross_entropy
from losses.margin import MarginLoss
from tests.losses import references
from tests.losses.cases import CENTRE_CASES, parametrize, random_batch
from tests.losses.helpers import numeric_gradient, terms_and_gradients

every_smoothed_loss = parametrize({name: case for name, case in CENTRE_CASES.items() if name != "margin"})


def smoothed(logits, identities, share=0.2):
    """Returns the cross-entropy with smoothed labels, by its definition."""
    labels = np.full(logits.shape, share / logits.shape[1])
    labels[np.arange(len(identities)), identities] += 1 - share
    peak = logits.max(axis=1, keepdims=True)
    logarithms = logits - peak - np.log(np.exp(logits - peak).sum(axis=1, keepdims=True))
    return -(labels * logarithms).sum(axis=1)


@pytest.mark.parametrize("spread", [1.0, 64.0])
@pytest.mark.parametrize("share", [0.1, 0.7])
def test_cross_entropy_agrees_with_numpy(spread, share):
    rng = np.random.default_rng(0)
    logits = rng.uniform(-spread, spread, (9, 5)).astype(np.float32)
    identities = rng.integers(0, 5, 9).astype(np.int32)
    received = softmax_cross_entropy(identities, logits, share)
    np.testing.assert_allclose(received, smoothed(logits.astype(np.float64), identities, share), rtol=1e-5)


@every_smoothed_loss
def test_losses_agree_with_numpy(case, monkeypatch):
    embeddings, identities = random_batch()
    layer = case.built(label_smoothing=0.2)
    centres = layer.centres.numpy().astype(np.float64)
    # The reference of the loss then uses this cross-entropy.
    monkeypatch.setattr(references, "cross_entropy", smoothed)
    expected = case.reference(embeddings.astype(np.float64), centres, identities, **case.arguments)
    terms, to_embeddings, _ = terms_and_gradients(layer, embeddings, identities)
    np.testing.assert_allclose(terms["loss"], expected, rtol=2e-5)
    assert np.isfinite(to_embeddings).all()
    plain = case.built()(embeddings, identities)
    assert np.abs(terms["cross_entropy"] - plain["cross_entropy"]).max() > 0.01
    np.testing.assert_array_equal(terms["accuracy"], plain["accuracy"])


def test_gradient_equals_the_numeric_one(monkeypatch):
    embeddings, identities = random_batch(batch=5, seed=2)
    layer = CENTRE_CASES["arcface"].built(label_smoothing=0.2)
    centres = layer.centres.numpy().astype(np.float64)
    monkeypatch.setattr(references, "cross_entropy", smoothed)
    _, to_embeddings, _ = terms_and_gradients(layer, embeddings, identities)
    expected = numeric_gradient(
        lambda x: references.arcface(x, centres, identities, margin=0.3, scale=9.0).mean(),
        embeddings.astype(np.float64),
    )
    np.testing.assert_allclose(to_embeddings, expected, rtol=1e-3, atol=1e-5)


@every_smoothed_loss
def test_the_configuration_holds_label_smoothing(case):
    layer = case.built(label_smoothing=0.3)
    assert type(layer).from_config(layer.get_config()).label_smoothing == 0.3


def test_build_loss_takes_label_smoothing():
    assert build_loss("arcface", 9, label_smoothing=0.1).label_smoothing == 0.1
    assert build_loss("arcface", 9).label_smoothing == 0


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_out_of_range_is_refused(share):
    with pytest.raises(ValueError, match="label_smoothing"):
        build_loss("softmax", 9, label_smoothing=share)


def test_a_loss_without_a_softmax_refuses_label_smoothing():
    with pytest.raises(ValueError, match=r"label_smoothing: .* 0\.1"):
        build_loss("margin", 9, label_smoothing=0.1)
    assert MarginLoss.from_config(MarginLoss(9).get_config()).num_identities == 9
