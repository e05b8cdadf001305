"""Tests properties that all losses with centres have. Further properties have their own files."""

import numpy as np
import pytest
import tensorflow as tf

from losses.adaface import AdaFaceLoss
from losses.angular_centre import AngularCentreLoss
from losses.arcface import ArcFaceLoss
from losses.magface import MagFaceLoss
from losses.margin import MarginLoss
from losses.softmax import SoftmaxLoss
from losses.sub_centre import SubCentreLoss
from tests.losses import references
from tests.losses.cases import CENTRE_CASES, parametrize, random_batch
from tests.losses.helpers import GOLDEN, numeric_gradient, terms_and_gradients

every_loss = parametrize(CENTRE_CASES)
every_loss_with_margin = parametrize(
    {name: case for name, case in CENTRE_CASES.items() if "margin" in case.arguments}
)


@every_loss
def test_losses_agree_with_numpy(case):
    embeddings, identities = random_batch()
    layer = case.built()
    centres = layer.centres.numpy().astype(np.float64)
    terms = {name: term.numpy() for name, term in layer(embeddings, identities).items()}
    expected = case.reference(embeddings.astype(np.float64), centres, identities, **case.arguments)
    np.testing.assert_allclose(terms["loss"], expected, rtol=2e-5)
    assert list(terms)[:2] == ["loss", "cross_entropy"]
    assert terms.keys() >= {"cosine", "accuracy"}
    assert ("margin_accuracy" in terms) == ("margin" in case.arguments)
    assert all(term.dtype == np.float32 and term.shape == (12,) for term in terms.values())
    if case.layer is not SubCentreLoss:
        cosines = references.cosines(embeddings, centres)
        np.testing.assert_allclose(terms["cosine"], references.own(cosines, identities), atol=1e-6)
        if case.layer is not SoftmaxLoss:
            np.testing.assert_array_equal(terms["accuracy"], cosines.argmax(axis=1) == identities)


@every_loss_with_margin
def test_defaults_are_those_of_the_references(case):
    embeddings, identities = random_batch(seed=1)
    layer = case.layer(5)
    received = layer(40 * embeddings, identities)["loss"]
    centres = layer.centres.numpy().astype(np.float64)
    expected = case.reference(40 * embeddings.astype(np.float64), centres, identities)
    np.testing.assert_allclose(received, expected, rtol=2e-5, atol=1e-5)


@every_loss_with_margin
def test_a_margin_at_the_call_replaces_the_constructor_s(case):
    embeddings, identities = random_batch()
    layer = case.built()
    centres = layer.centres.numpy().astype(np.float64)
    arguments = {**case.arguments, "margin": 0.1}
    if case.layer is MagFaceLoss:
        arguments["upper_margin"] = 0.3  # A margin at the call also scales the upper margin.
    expected = case.reference(embeddings.astype(np.float64), centres, identities, **arguments)
    compiled = tf.function(lambda margin: layer(embeddings, identities, margin=margin)["loss"])
    np.testing.assert_allclose(compiled(tf.constant(0.1)), expected, rtol=2e-5)


@every_loss
def test_gradients_agree_with_numpy(case):
    embeddings, identities = random_batch(batch=7, seed=4)
    layer = case.built()
    centres = layer.centres.numpy().astype(np.float64)
    embeddings[1] = 2.0 * layer.centres.numpy()[:, identities[1]]  # near a pole: 3 degrees from it
    embeddings[1, 0] += 0.05 * np.linalg.norm(embeddings[1])
    exact = embeddings.astype(np.float64)
    arguments = dict(case.arguments)
    if case.layer is AdaFaceLoss:
        arguments["norms"] = np.linalg.norm(exact, axis=1)  # no gradient flows through them
    _, to_embeddings, to_centres = terms_and_gradients(layer, embeddings, identities)
    for received, expected in (
        (
            to_embeddings,
            numeric_gradient(lambda x: case.reference(x, centres, identities, **arguments).mean(), exact),
        ),
        (
            to_centres,
            numeric_gradient(lambda w: case.reference(exact, w, identities, **arguments).mean(), centres),
        ),
    ):
        np.testing.assert_allclose(received, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


@every_loss
@pytest.mark.parametrize("scale", [1.0, 64.0])
@pytest.mark.parametrize("on_axes", [False, True])
def test_gradients_at_the_poles_are_finite(case, scale, on_axes):
    # At a scale of 64 the softmax saturates and would hide a missing guard.
    layer = case.built(**({"scale": scale} if "scale" in case.arguments else {}))
    if on_axes:  # where a cosine is 1 exactly; elsewhere it is rounded
        dim, num_centres = layer.centres.shape
        layer.centres.assign(np.eye(dim)[:, np.arange(num_centres) % dim])
    columns = layer.centres.numpy()[:, :: layer.centres.shape[1] // 5]
    embeddings = np.stack([3 * columns[:, 0], -2 * columns[:, 1], 0 * columns[:, 2], columns[:, 3]])
    terms, *gradients = terms_and_gradients(layer, embeddings, np.array([0, 1, 2, 3]))
    assert all(np.isfinite(term).all() for term in terms.values())
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    # They are finite, too, where the centres are 0.
    layer.centres.assign(tf.zeros_like(layer.centres))
    terms, *gradients = terms_and_gradients(layer, embeddings, np.array([0, 1, 2, 3]))
    assert all(np.isfinite(term).all() for term in terms.values())
    assert all(np.isfinite(gradient).all() for gradient in gradients)


@every_loss
@pytest.mark.parametrize("identity", [-1, 10, 10**6])
def test_an_identity_out_of_range_is_refused(case, identity):
    layer = case.make(10)
    embeddings = tf.ones((3, 4))
    for call in (layer, tf.function(layer)):
        assert np.isfinite(call(embeddings, tf.constant([0, 9, 5]))["loss"]).all()
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"identities: .*\[0, 10\)"):
            call(embeddings, tf.constant([0, identity, 5]))


@every_loss
def test_a_checkpoint_restores_the_centres(case, tmp_path):
    layers = [case.make(5, seed=seed) for seed in (0, 1)]
    for layer in layers:
        layer.build((None, 6))
    path = tf.train.Checkpoint(head=layers[0]).write(str(tmp_path / "checkpoint"))
    assert ["head/centres/.ATTRIBUTES/VARIABLE_VALUE", [6, layers[0].centres.shape[1]]] in [
        list(entry) for entry in tf.train.list_variables(path)
    ]
    assert layers[0].centres.path.endswith("/embedding_weights")
    tf.train.Checkpoint(head=layers[1]).restore(path).expect_partial()
    np.testing.assert_array_equal(layers[1].centres, layers[0].centres)


@pytest.mark.parametrize(
    ("name", "key", "arguments"),
    [
        ("softmax", "softmax", {}),
        ("normalised_softmax", "softmax_wnorm", {}),
        ("cosface", "cosineface_s30_m0.4", {"scale": 30.0, "margin": 0.4}),
        ("margin", "margin", {}),
        *(
            ("combined", f"combined_{a}_{m}_{b}", {"margin_a": a, "margin": m, "margin_b": b, "scale": 64.0})
            for a, m, b in ((1.0, 0.3, 0.2), (0.9, 0.4, 0.15), (1.0, 0.0, 0.35), (1.35, 0.0, 0.0))
        ),
    ],
)
def test_losses_equal_those_of_the_original(name, key, arguments):
    layer = CENTRE_CASES[name].make(GOLDEN["weights"].shape[1], **arguments)
    layer.build((None, GOLDEN["weights"].shape[0]))
    layer.centres.assign(GOLDEN["weights"])
    terms, to_embeddings, to_centres = terms_and_gradients(layer, GOLDEN["embeddings"], GOLDEN["labels"])
    np.testing.assert_allclose(terms["loss"].mean(), GOLDEN[f"{key}/loss"], rtol=1e-5)
    for received, expected in (
        (to_embeddings, GOLDEN[f"{key}/grad_embeddings"]),
        (to_centres, GOLDEN[f"{key}/grad_weights"]),
    ):
        np.testing.assert_allclose(received, expected, atol=1e-4 * np.abs(expected).max())
    if name == "combined":
        np.testing.assert_allclose(terms["margin_accuracy"].mean(), GOLDEN[f"{key}/accuracy"])
        np.testing.assert_allclose(terms["accuracy"].mean(), GOLDEN[f"{key}/accuracy_s"])


def test_centres_behind_the_embedding_do_not_push():
    layer = MarginLoss(2)
    layer.build((None, 2))
    layer.centres.assign([[1.0, -1.0], [0.0, 0.0]])
    terms = layer(np.array([[3.0, 0.0], [3.0, 0.0]], np.float32), np.array([0, 1]))
    np.testing.assert_allclose(terms["loss"], [1, 4])


@pytest.mark.parametrize("compiled", [False, True])
def test_arcface_is_the_angular_centre_loss_without_its_centre_term(compiled):
    embeddings, identities = GOLDEN["embeddings"], GOLDEN["labels"]
    results = []
    for layer in (
        AngularCentreLoss(24, 0.3, 20.0, centre_weight=0, seed=2),
        ArcFaceLoss(24, 0.3, 20.0, seed=2),
        SubCentreLoss(24, 1, 0.3, 20.0, seed=2),
    ):
        layer.build((None, 32))
        call = tf.function(layer) if compiled else layer
        results.append(terms_and_gradients(layer, embeddings, identities, call=call))
    (first, *gradients), *others = results
    for terms, *other_gradients in others:
        for name, term in terms.items():
            np.testing.assert_array_equal(term, first[name], err_msg=name)
        for one, other in zip(gradients, other_gradients, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("name", "argument", "value", "message"),
    [
        ("angular_centre", "centre_weight", -1, "centre_weight: .* -1"),
        ("combined", "margin_a", 0, "margin_a: .* 0"),
        ("combined", "margin_b", 2, "margin_b: .* 2"),
        ("sub_centre", "num_sub_centres", 0, "num_sub_centres: .* 0"),
        ("adaface", "concentration", 0, "concentration: .* 0"),
        ("adaface", "momentum", 1, "momentum: .* 1"),
        ("magface", "margin", 0, "margin: .* 0"),
        ("magface", "margin", 0.9, r"upper_margin: .* \[0.9, pi\), received 0.8"),
        ("magface", "lower_norm", 0, "lower_norm: .* 0"),
        ("magface", "lower_norm", 110, "upper_norm: .* 110"),
        ("magface", "norm_weight", -1, "norm_weight: .* -1"),
    ],
)
def test_arguments_of_one_loss_out_of_range_are_refused(name, argument, value, message):
    with pytest.raises(ValueError, match=message):
        CENTRE_CASES[name].layer(10, **{argument: value})
