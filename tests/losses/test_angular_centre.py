from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from losses.angular_centre import AngularCentreLoss

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "losses" / "losses.npz")


def layer_with(centres, **arguments):
    layer = AngularCentreLoss(centres.shape[1], **arguments)
    layer.build((None, centres.shape[0]))
    layer.centres.assign(centres)
    return layer


def loss_and_gradients(layer, embeddings, identities):
    embeddings = tf.constant(embeddings)
    with tf.GradientTape() as tape:
        tape.watch(embeddings)
        terms = layer(embeddings, identities)
        loss = tf.reduce_mean(terms["loss"])
    gradients = tape.gradient(loss, [embeddings, layer.centres.value])
    return loss.numpy(), *(gradient.numpy() for gradient in gradients), terms


def reference(embeddings, centres, identities, margin, scale, centre_weight):
    """The docstring's formula in float64."""
    embeddings = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    cosines = embeddings @ (centres / np.linalg.norm(centres, axis=0))
    rows = np.arange(len(identities))
    theta = np.arccos(np.clip(cosines[rows, identities], -1, 1))
    target = np.where(theta < np.pi - margin, np.cos(theta + margin), np.cos(theta) - margin * np.sin(margin))
    logits = scale * cosines
    logits[rows, identities] = scale * target
    peak = logits.max(axis=1)
    cross_entropy = np.log(np.exp(logits - peak[:, None]).sum(axis=1)) + peak - scale * target
    return cross_entropy + centre_weight * scale * (1 - np.cos(theta))


@pytest.mark.parametrize(("scale", "margin"), [(64, 0.5), (30, 0.3)])
def test_golden(scale, margin):
    golden = {
        key.split("/")[1]: GOLDEN[key] for key in GOLDEN.files if key.startswith(f"angular_centre_s{scale}_")
    }
    layer = layer_with(GOLDEN["weights"], margin=margin, scale=scale, centre_weight=0.3)
    loss, to_embeddings, to_centres, terms = loss_and_gradients(layer, GOLDEN["embeddings"], GOLDEN["labels"])
    np.testing.assert_allclose(loss, golden["loss"], rtol=1e-6)
    np.testing.assert_allclose(tf.reduce_mean(terms["cross_entropy"]), golden["cross_entropy"], rtol=1e-6)
    np.testing.assert_allclose(tf.reduce_sum(terms["cosine"]), golden["inner_sim"], rtol=1e-5)
    for received, expected in (
        (to_embeddings, golden["grad_embeddings"]),
        (to_centres, golden["grad_weights"]),
    ):
        np.testing.assert_allclose(received, expected, atol=1e-5 * np.abs(expected).max())
    if margin == 0.5:  # the set reaches past pi - margin, where the continuation is
        assert float(tf.reduce_min(terms["cosine"])) < -np.cos(margin)


def test_terms_against_numpy():
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(12, 6)).astype(np.float32)
    centres = rng.normal(size=(6, 5)).astype(np.float32)
    identities = rng.integers(0, 5, 12)
    layer = layer_with(centres, margin=0.2, scale=7.0, centre_weight=0.9)
    terms = layer(embeddings, identities)
    expected = reference(embeddings, centres, identities, 0.2, 7.0, 0.9)
    np.testing.assert_allclose(terms["loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(terms["loss"], terms["cross_entropy"] + terms["centre"], rtol=1e-6)
    cosines = embeddings @ (centres / np.linalg.norm(centres, axis=0))
    np.testing.assert_array_equal(terms["accuracy"], cosines.argmax(axis=1) == identities)
    assert all(term.dtype == tf.float32 and term.shape == (12,) for term in terms.values())
    # A margin given at the call takes the place of the layer's own.
    expected = reference(embeddings, centres, identities, 1.0, 7.0, 0.9)
    np.testing.assert_allclose(layer(embeddings, identities, margin=1.0)["loss"], expected, rtol=1e-5)


def test_margin_lowers_the_accuracy_with_margin_only():
    centres = np.eye(2, dtype=np.float32)
    embedding = np.array([[1.0, 0.8]], np.float32)
    terms = layer_with(centres, margin=0.5)(embedding, np.array([0]))
    assert (float(terms["accuracy"][0]), float(terms["margin_accuracy"][0])) == (1.0, 0.0)


@pytest.mark.parametrize("scale", [1.0, 64.0])
def test_gradients_at_the_poles_are_finite(scale):
    # At a scale of 64 the softmax saturates and would hide a missing guard.
    centres = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    embeddings = np.stack([3 * centres[:, 0], -2 * centres[:, 1], 0 * centres[:, 2]])
    layer = layer_with(centres, scale=scale)
    loss, to_embeddings, to_centres, _ = loss_and_gradients(layer, embeddings, np.array([0, 1, 2]))
    assert np.isfinite(loss)
    assert np.isfinite(to_embeddings).all()
    assert np.isfinite(to_centres).all()


def test_gradients_near_the_poles_are_those_of_the_formula():
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(6, 3))
    identities = np.array([0, 1])
    near = np.stack([centres[:, 0], -centres[:, 1]]) + rng.normal(scale=0.05, size=(2, 6))
    layer = layer_with(centres.astype(np.float32), margin=0.5, scale=4.0)
    _, received, _, _ = loss_and_gradients(layer, near.astype(np.float32), identities)
    expected = np.zeros_like(near)
    for index in np.ndindex(near.shape):
        step = np.zeros_like(near)
        step[index] = 1e-5
        up, down = (
            reference(near + sign * step, centres, identities, 0.5, 4.0, 0.3).mean() for sign in (1, -1)
        )
        expected[index] = (up - down) / 2e-5
    np.testing.assert_allclose(received, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_float32_inside_whatever_the_policy(policy):
    rng = np.random.default_rng(0)
    embeddings, identities = rng.normal(size=(4, 16)).astype(np.float32), np.array([999, 998, 0, 1])
    plain = AngularCentreLoss(1000, seed=1)
    expected = plain(embeddings, identities)["loss"]
    keras.config.set_dtype_policy(policy)
    try:
        layers = [AngularCentreLoss(1000, seed=1), AngularCentreLoss(1000, seed=1, dtype=policy)]
        for layer in layers:
            received = layer(embeddings, identities)["loss"]
            assert layer.centres.dtype == "float32"
            np.testing.assert_array_equal(received, expected)
    finally:
        keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize("identity", [-1, 10, 10**6])
@pytest.mark.parametrize("compiled", [False, True])
def test_identity_out_of_range(identity, compiled):
    layer = AngularCentreLoss(10)
    call = tf.function(layer) if compiled else layer
    embeddings = tf.ones((3, 4))
    assert np.isfinite(call(embeddings, tf.constant([0, 9, 5]))["loss"]).all()
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"expected values in \[0, 10\), received"):
        call(embeddings, tf.constant([0, identity, 5]))


def test_labels_that_are_no_integers():
    with pytest.raises(ValueError, match="identities: expected integers, received float32"):
        AngularCentreLoss(10)(np.ones((2, 4), np.float32), np.array([0.0, 1.0], np.float32))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_identities": 0}, "num_identities: expected at least 1, received 0"),
        ({"margin": 3.2}, r"margin: expected radians in \[0, pi\), received 3.2"),
        ({"margin": -0.1}, "margin: expected radians"),
        ({"scale": 0}, "scale: expected a number > 0, received 0"),
        ({"centre_weight": -1}, "centre_weight: expected a number >= 0, received -1"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        AngularCentreLoss(**{"num_identities": 10, **arguments})


def test_round_trip(tmp_path):
    embeddings = keras.Input((6,))
    identities = keras.Input((), dtype="int32")
    layer = AngularCentreLoss(7, margin=0.3, scale=20.0, centre_weight=0.7, seed=5)
    model = keras.Model([embeddings, identities], layer(embeddings, identities))
    model.save(tmp_path / "loss.keras")
    loaded = keras.saving.load_model(tmp_path / "loss.keras", safe_mode=True)
    inputs = [tf.random.stateless_normal((5, 6), (0, 1)), tf.constant([0, 6, 1, 2, 3])]
    for name, term in model(inputs).items():
        np.testing.assert_array_equal(loaded(inputs)[name], term)
    copy = AngularCentreLoss.from_config(layer.get_config())
    np.testing.assert_array_equal(
        copy(*inputs)["loss"], AngularCentreLoss(7, 0.3, 20.0, 0.7, 5)(*inputs)["loss"]
    )
