import keras
import numpy as np
import pytest
import tensorflow as tf

from nets.layers.batch_renorm import BatchRenorm
from nets.layers.group_norm import GroupNorm


@pytest.mark.parametrize(("channels", "groups"), [(64, 32), (16, 16), (32, 32)])
def test_group_norm_agrees_with_numpy(channels, groups):
    rng = np.random.default_rng(0)
    x = rng.normal(3, 2, (3, 4, 5, channels))
    layer = GroupNorm(epsilon=0.01)
    layer.build(x.shape)
    scale, offset = rng.normal(size=(2, 1, channels, 1, 1))
    layer.scale.assign(scale)
    layer.offset.assign(offset)
    grouped = x.reshape(3, 20, groups, channels // groups)
    mean, variance = (f(grouped, axis=(1, 3), keepdims=True) for f in (np.mean, np.var))
    normalised = ((grouped - mean) / np.sqrt(variance + 0.01)).reshape(x.shape)
    expected = normalised * scale.ravel() + offset.ravel()
    received = layer(x.astype(np.float32), training=True)
    np.testing.assert_allclose(received, expected, atol=1e-5)
    # The result for an image does not depend on the others.
    np.testing.assert_allclose(layer(x[:1].astype(np.float32)), expected[:1], atol=1e-5)


def test_group_norm_refuses_channels_that_do_not_divide():
    with pytest.raises(ValueError, match=r"32 .* 40"):
        GroupNorm()(np.zeros((1, 2, 2, 40), np.float32))


def test_group_norm_has_float32_statistics_under_every_policy():
    x = np.random.default_rng(0).normal(100, 1, (2, 8, 8, 32)).astype(np.float32)
    x = tf.cast(tf.cast(x, tf.bfloat16), tf.float32)
    received = GroupNorm(dtype="mixed_bfloat16")(x)
    assert received.dtype == tf.bfloat16
    np.testing.assert_allclose(tf.cast(received, tf.float32), GroupNorm()(x), atol=0.02)


def renorm_reference(x, layer, moving_mean, moving_variance):
    mean, variance = x.mean(axis=0), x.var(axis=0)
    stddev, moving_stddev = np.sqrt(variance + layer.epsilon), np.sqrt(moving_variance + layer.epsilon)
    r = np.clip(stddev / moving_stddev, layer.rmin, layer.rmax)
    d = np.clip((mean - moving_mean) / moving_stddev, -layer.dmax, layer.dmax)
    return (x - mean) / stddev, r, d


# The second batch is far from the moving statistics, so r and d are clipped.
@pytest.mark.parametrize(("mean", "stddev", "is_clipped"), [(0.3, 1.2, False), (40.0, 9.0, True)])
def test_batch_renorm_agrees_with_numpy(mean, stddev, is_clipped):
    rng = np.random.default_rng(0)
    x = rng.normal(mean, stddev, (40, 6))
    moving_mean, moving_variance = rng.normal(0, 0.1, 6), rng.uniform(0.8, 1.2, 6)
    gamma, beta = rng.normal(1, 0.1, (2, 6))
    layer = BatchRenorm()
    layer.build(x.shape)
    for variable, value in (
        (layer.gamma, gamma),
        (layer.beta, beta),
        (layer.moving_mean, moving_mean),
        (layer.moving_variance, moving_variance),
    ):
        variable.assign(value)
    normalised, r, d = renorm_reference(x, layer, moving_mean, moving_variance)
    assert (r == layer.rmax).all() == (d == layer.dmax).all() == is_clipped
    inputs = tf.constant(x, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        received = layer(inputs, training=True)
        loss = tf.reduce_sum(received**3)
    np.testing.assert_allclose(received, (normalised * r + d) * gamma + beta, atol=1e-4)
    if not is_clipped:  # then the moving statistics normalise
        by_moving = (x - moving_mean) / np.sqrt(moving_variance + layer.epsilon) * gamma + beta
        np.testing.assert_allclose(received, by_moving, atol=1e-4)
    np.testing.assert_allclose(layer.moving_mean, 0.9 * moving_mean + 0.1 * x.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, 0.9 * moving_variance + 0.1 * x.var(axis=0), rtol=1e-5)

    # No gradient flows through r and d, so it is that of batch normalisation with constant r and d.
    def plain(values):
        statistics = values.mean(axis=0), np.sqrt(values.var(axis=0) + layer.epsilon)
        return (((values - statistics[0]) / statistics[1] * r + d) * gamma + beta) ** 3

    step = np.zeros_like(x)
    step[3, 2] = 1e-5
    expected = (plain(x + step).sum() - plain(x - step).sum()) / 2e-5
    assert tape.gradient(loss, inputs)[3, 2].numpy() == pytest.approx(expected, rel=2e-3)


def test_batch_renorm_equals_batch_norm_in_inference():
    x = np.random.default_rng(0).normal(2, 3, (4, 3, 3, 5)).astype(np.float32)
    layer = BatchRenorm()
    np.testing.assert_allclose(layer(x, training=False), x / np.sqrt(1.001), rtol=1e-5)


@pytest.mark.parametrize("layer", [GroupNorm(0.02), BatchRenorm(0.5, 0.03, 0.1, 7.0, 2.0)])
def test_a_saved_norm_loads_with_the_same_outputs(layer, tmp_path):
    images = keras.Input((4, 4, 32))
    model = keras.Model(images, layer(images))
    inputs = tf.random.stateless_normal((3, 4, 4, 32), (0, 1)) * 9
    model.save(tmp_path / "norm.keras")
    loaded = keras.saving.load_model(tmp_path / "norm.keras", safe_mode=True)
    for training in (True, False):
        np.testing.assert_array_equal(loaded(inputs, training=training), model(inputs, training=training))
