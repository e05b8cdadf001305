import numpy as np
import pytest

from losses.angular_centre import AngularCentreLoss
from tests.losses import references
from tests.losses.helpers import GOLDEN, numeric_gradient, terms_and_gradients


def layer_with(centres, **arguments):
    layer = AngularCentreLoss(centres.shape[1], **arguments)
    layer.build((None, centres.shape[0]))
    layer.centres.assign(centres)
    return layer


@pytest.mark.parametrize(("scale", "margin"), [(64, 0.5), (30, 0.3)])
def test_losses_equal_those_of_the_original(scale, margin):
    golden = {
        key.split("/")[1]: GOLDEN[key] for key in GOLDEN.files if key.startswith(f"angular_centre_s{scale}_")
    }
    layer = layer_with(GOLDEN["weights"], margin=margin, scale=scale, centre_weight=0.3)
    terms, *gradients = terms_and_gradients(layer, GOLDEN["embeddings"], GOLDEN["labels"])
    np.testing.assert_allclose(terms["loss"].mean(), golden["loss"], rtol=1e-6)
    np.testing.assert_allclose(terms["cross_entropy"].mean(), golden["cross_entropy"], rtol=1e-6)
    np.testing.assert_allclose(terms["cosine"].sum(), golden["inner_sim"], rtol=1e-5)
    np.testing.assert_allclose(terms["loss"], terms["cross_entropy"] + terms["centre"], rtol=1e-6)
    for received, name in zip(gradients, ("grad_embeddings", "grad_weights"), strict=True):
        np.testing.assert_allclose(received, golden[name], atol=1e-5 * np.abs(golden[name]).max())
    if margin == 0.5:  # some golden angles are beyond pi - margin, where the target is continued
        assert terms["cosine"].min() < -np.cos(margin)


def test_margin_lowers_only_the_accuracy_with_margin():
    centres = np.eye(2, dtype=np.float32)
    embedding = np.array([[1.0, 0.8]], np.float32)
    terms = layer_with(centres, margin=0.5)(embedding, np.array([0]))
    assert (float(terms["accuracy"][0]), float(terms["margin_accuracy"][0])) == (1.0, 0.0)


def test_gradients_near_both_poles_equal_numeric_ones():
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(6, 3))
    identities = np.array([0, 1])
    near = np.stack([centres[:, 0], -centres[:, 1]]) + rng.normal(scale=0.05, size=(2, 6))
    layer = layer_with(centres.astype(np.float32), margin=0.5, scale=4.0)
    _, received, _ = terms_and_gradients(layer, near.astype(np.float32), identities)
    expected = numeric_gradient(
        lambda x: references.angular_centre(x, centres, identities, 0.5, 4.0, 0.3).mean(), near
    )
    np.testing.assert_allclose(received, expected, rtol=1e-3, atol=1e-4)
