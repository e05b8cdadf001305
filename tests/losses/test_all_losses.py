"""Tests properties that all losses have, with or without centres."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from losses import LOSSES
from tests.losses.cases import CASES, CENTRE_CASES, parametrize, random_batch
from tests.losses.helpers import terms_and_gradients

# Two halves of the same identities, as HardNet expects.
IDENTITIES = np.array([997, 998, 0, 1, 1, 997, 998, 0, 1, 1])


def test_every_loss_has_a_case():
    assert CENTRE_CASES.keys() == LOSSES.keys()


@parametrize(CASES)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_losses_are_float32_under_every_policy(case, dtype):
    embeddings = np.random.default_rng(0).normal(size=(10, 16)).astype(np.float32)
    coarse = tf.cast(embeddings, dtype)
    inputs = [(embeddings, embeddings), (coarse, tf.cast(coarse, tf.float32))]
    expected = [case.make(1000)(same, IDENTITIES) for _, same in inputs]
    keras.config.set_dtype_policy(f"mixed_{dtype}")
    try:
        for (given, _), terms in zip(inputs, expected, strict=True):
            for layer in (case.make(1000), case.make(1000, dtype=f"mixed_{dtype}")):
                received = layer(given, IDENTITIES)
                assert all(weight.dtype == "float32" for weight in layer.weights)
                for name, term in terms.items():
                    assert received[name].dtype == tf.float32
                    np.testing.assert_array_equal(received[name], term)
    finally:
        keras.config.set_dtype_policy("float32")


@parametrize(CASES)
@pytest.mark.parametrize("compiled", [False, True])
def test_the_mean_loss_is_added_to_the_losses_of_the_layer(case, compiled):
    layer = case.make(1000)
    embeddings = random_batch(batch=10)[0]

    def added(embeddings):
        terms = layer(embeddings, IDENTITIES)
        return terms["loss"], tf.add_n(layer.losses)

    for _ in range(2):  # a call replaces the loss of the call before
        loss, total = (tf.function(added) if compiled else added)(embeddings)
        np.testing.assert_allclose(total, np.mean(loss), rtol=1e-6)


@parametrize(CASES)
def test_gradients_are_finite_where_embeddings_are_the_same_or_zero(case):
    embeddings = np.zeros((10, 4), np.float32)
    embeddings[2:6] = 1.0
    terms, *gradients = terms_and_gradients(case.make(1000), embeddings, IDENTITIES)
    assert all(np.isfinite(values).all() for values in (*terms.values(), *gradients))


@parametrize(CASES)
def test_identities_must_be_integers(case):
    with pytest.raises(ValueError, match=r"identities.*float32"):
        case.make(10)(np.ones((2, 4), np.float32), np.array([0.0, 0.0], np.float32))


@parametrize(CASES)
def test_a_saved_loss_loads_with_the_same_outputs(case, tmp_path):
    embeddings, identities = keras.Input((6,)), keras.Input((), dtype="int32")
    layer = case.make(7, seed=5)
    model = keras.Model([embeddings, identities], layer(embeddings, identities))
    inputs = [tf.constant(random_batch(batch=6)[0]), tf.constant([0, 6, 1, 0, 6, 1])]
    layer(*inputs)  # statistics that move during training are saved, too
    model.save(tmp_path / "loss.keras")
    loaded = keras.saving.load_model(tmp_path / "loss.keras", safe_mode=True)
    for name, term in model(inputs, training=False).items():
        np.testing.assert_array_equal(loaded(inputs, training=False)[name], term)
    copy = case.layer.from_config(layer.get_config())
    np.testing.assert_array_equal(copy(*inputs)["loss"], case.make(7, seed=5)(*inputs)["loss"])
    assert copy.get_config().items() >= case.arguments.items()
    # The defaults and another seed give another loss.
    others = [case._replace(arguments={}).make(7, seed=5)] if case.arguments else []
    others += [case.make(7, seed=6)] if layer.weights else []
    for other in others:
        assert not np.allclose(other(*inputs)["loss"], copy(*inputs)["loss"])


@pytest.mark.parametrize(
    ("name", "argument", "value"),
    [
        *((name, "num_identities", 0) for name in CENTRE_CASES),
        *((name, "margin", -0.1) for name, case in CASES.items() if "margin" in case.arguments),
        *((name, "margin", 3.2) for name, case in CENTRE_CASES.items() if "margin" in case.arguments),
        *((name, "scale", 0) for name, case in CENTRE_CASES.items() if "scale" in case.arguments),
    ],
)
def test_arguments_out_of_range_are_refused(name, argument, value):
    arguments = {"num_identities": 10} if name in CENTRE_CASES else {}
    with pytest.raises(ValueError, match=f"{argument}: .* {value}"):
        CASES[name].layer(**{**arguments, argument: value})
