"""Tests that steps with 16 bits agree with float32, and that overflows skip a step."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from nets.backbone import Backbone, decayed_variables
from nets.layers.batch_norm import BatchNorm
from nets.layers.prelu import PReLU
from tests.training.small_trainer import HEADS, SIZE, batch, weights
from training.distribution import make_strategy
from training.loss_scale import LossScale, check_loss_scale
from training.optimizers import MomentumSGD
from training.trainer import StepOptions, Trainer


@keras.saving.register_keras_serializable(package="tests")
class Probe(keras.layers.Layer):
    """Passes its inputs on, and multiplies their gradients by a variable that can differ by replica."""

    def build(self, input_shape):
        self.factor = self.add_weight(
            shape=(), initializer="ones", trainable=False, dtype="float32", autocast=False
        )

    def call(self, inputs):
        factor = tf.convert_to_tensor(self.factor)
        context = tf.distribute.get_replica_context()
        # Only the last replica's gradients overflow.
        is_last = context is not None and context.replica_id_in_sync_group == context.num_replicas_in_sync - 1

        @tf.custom_gradient
        def probe(values):
            return tf.identity(values), lambda upstream: upstream * tf.where(is_last, factor, 1.0)

        return tf.cast(probe(tf.cast(inputs, tf.float32)), inputs.dtype)


def make_trainer(strategy, dtype, probe=False, loss_scale=None, **arguments):
    with strategy.scope():
        images = keras.Input((*SIZE, 3))
        kernels = [keras.initializers.HeNormal(seed) for seed in (1, 2)]
        conv = keras.layers.Conv2D(8, 3, 2, use_bias=False, kernel_initializer=kernels[0], dtype=dtype)
        x = PReLU(dtype=dtype)(BatchNorm(dtype=dtype)(conv(images)))
        x = keras.layers.Flatten(dtype=dtype)(x)
        x = Probe(dtype=dtype, name="probe")(x) if probe else x
        dense = keras.layers.Dense(32, kernel_initializer=kernels[1], dtype=dtype, name="E_DenseLayer")
        backbone = keras.Model(images, BatchNorm(train_gamma=False, dtype="float32")(dense(x)))
        head = HEADS["angular_centre"]()
        head.build(backbone.output_shape)
        optimizer = MomentumSGD(0.003, 0.9)
        scale = LossScale(*loss_scale) if loss_scale else None
    decayed = [*decayed_variables(backbone), *head.trainable_variables]
    return Trainer(strategy, backbone, head, optimizer, decayed, StepOptions(loss_scale=scale, **arguments))


@pytest.mark.parametrize(("dtype", "tolerance"), [("mixed_float16", 0.003), ("mixed_bfloat16", 0.01)])
def test_sixteen_bits_follow_float32(dtype, tolerance):
    scale = (256.0,) if dtype == "mixed_float16" else None
    exact, short = (
        make_trainer(make_strategy(), "float32"),
        make_trainer(make_strategy(), dtype, loss_scale=scale),
    )
    for step in range(10):
        one, two = (trainer.train_step(*batch(step, 12)) for trainer in (exact, short))
        for name in ("loss", "total", "weight_decay"):
            assert float(two[name]) == pytest.approx(float(one[name]), rel=tolerance), (name, step)
        assert float(two["gradient_norm"]) == pytest.approx(float(one["gradient_norm"]), rel=5 * tolerance)


def test_weights_embeddings_and_losses_stay_float32():
    net = Backbone("ir8", image_size=(16, 16), dtype="mixed_float16", keep_prob=1.0)
    assert {variable.dtype for variable in net.variables} <= {"float32", "int64"}
    embeddings = net(tf.zeros((2, 16, 16, 3)), training=True)
    assert embeddings.dtype == tf.float32
    head = HEADS["angular_centre"]()
    assert {values.dtype for values in head(embeddings, tf.constant([0, 1])).values()} == {tf.float32}
    # Statistics of values whose squares overflow in float16.
    layer = BatchNorm(momentum=0.0, dtype="mixed_float16")
    layer(tf.constant(np.full((4, 3, 3, 2), 1000.0) + np.arange(4)[:, None, None, None]), training=True)
    np.testing.assert_allclose(layer.moving_variance, 1.25, rtol=1e-3)


def trained_values(trainer):
    return [
        variable.numpy()
        for variable in trainer.backbone.trainable_variables + trainer.head.trainable_variables
    ]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_overflow_on_one_replica_skips_the_step_on_all(two_replicas, accumulate):
    trainer = make_trainer(
        two_replicas, "mixed_float16", probe=True, loss_scale=(64.0, 3), accumulate=accumulate
    )
    factor = trainer.backbone.get_layer("probe").factor
    first = trainer.train_step(*batch(0, 8))
    assert (float(first["skipped"]), float(first["loss_scale"])) == (0.0, 64.0)
    before = [*trained_values(trainer), *(v.numpy() for v in trainer.optimizer.variables[1:])]
    factor.assign(np.inf)
    skipped = trainer.train_step(*batch(1, 8))
    assert (float(skipped["skipped"]), float(skipped["gradient_norm"])) == (1.0, 0.0)
    assert np.isfinite(float(skipped["total"]))
    after = [*trained_values(trainer), *(v.numpy() for v in trainer.optimizer.variables[1:])]
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(new, old)
    assert trainer.step == 2  # The skipped step is counted.
    factor.assign(1.0)
    scales = [float(trainer.train_step(*batch(step, 8))["loss_scale"]) for step in range(2, 7)]
    assert scales == [32.0, 32.0, 32.0, 64.0, 64.0]  # doubled after three good steps
    assert any((new != old).any() for new, old in zip(trained_values(trainer), before, strict=False))
    for variable in trainer.backbone.trainable_variables:
        one, two = two_replicas.experimental_local_results(variable.value)
        np.testing.assert_array_equal(one, two)


def test_gradients_that_are_infinite_without_a_scale_are_reported():
    trainer = make_trainer(make_strategy(), "mixed_float16", probe=True, loss_scale=(2.0,))
    trainer.backbone.get_layer("probe").factor.assign(np.nan)
    shown = [float(trainer.train_step(*batch(0, 8))["gradient_norm"]) for _ in range(2)]
    assert shown[0] == 0.0 and np.isnan(shown[1])
    assert float(trainer.options.loss_scale.scale) == 1.0


def test_a_run_with_a_loss_scale_resumes_bit_for_bit(tmp_path):
    trainer, resumed = (
        make_trainer(make_strategy(), "mixed_float16", loss_scale=(64.0, 2)) for _ in range(2)
    )
    for step in range(3):
        trainer.train_step(*batch(step, 8))
    trainer.state.write(str(tmp_path / "state"))
    resumed.state.read(str(tmp_path / "state")).assert_consumed()
    for step in (3, 4):
        one, two = (t.train_step(*batch(step, 8)) for t in (trainer, resumed))
        assert {k: float(v) for k, v in one.items()} == {k: float(v) for k, v in two.items()}
    assert float(two["loss_scale"]) == 256.0  # doubled twice, after two steps each
    for one, two in zip(weights(trainer), weights(resumed), strict=True):
        np.testing.assert_array_equal(one, two)
    check_loss_scale(tmp_path, "mixed_float16")
    with pytest.raises(ValueError, match=r"with a loss scale.*--precision float32"):
        check_loss_scale(tmp_path, "float32")


def test_clipping_uses_the_gradient_without_the_scale():
    norms = []
    for scale in ((1.0,), (4096.0,)):
        trainer = make_trainer(make_strategy(), "float32", loss_scale=scale, clip_norm=0.5)
        before = trained_values(trainer)
        trainer.train_step(*batch(0, 8))
        norms.append([new - old for new, old in zip(trained_values(trainer), before, strict=True)])
    for one, two in zip(*norms, strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-5, atol=1e-9)
