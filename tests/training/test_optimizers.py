"""Compares the updates of the optimizers that flags select with NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from losses.angular_centre import AngularCentreLoss
from nets.backbone import decayed_variables
from tests.training.small_trainer import IDENTITIES, batch, small_net, weights
from training.distribution import make_strategy
from training.optimizers import MomentumSGD, decay_in_loss, make_optimizer
from training.options import OptimizerOptions, ScheduleOptions, parse_centre_options
from training.schedules import make_schedule
from training.trainer import StepOptions, Trainer


def make_trainer(strategy, *given):
    options = parse_centre_options(given).optimizer
    with strategy.scope():
        backbone = small_net()
        head = AngularCentreLoss(IDENTITIES, scale=8.0)
        head.build(backbone.output_shape)
        optimizer = make_optimizer(options, 0.01)
    decayed = [*decayed_variables(backbone), head.centres]
    trained = backbone.trainable_variables + head.trainable_variables
    decay = decay_in_loss(optimizer, options.weight_decay, trained, decayed)
    return Trainer(strategy, backbone, head, optimizer, decayed, StepOptions(weight_decay=decay))


def adam(m, v, step, epsilon):
    """Computes Adam as Keras does, with the bias correction of both moments in the rate."""
    return m * np.sqrt(1 - 0.999**step) / (1 - 0.9**step) / (np.sqrt(v) + epsilon)


def lamb(m, v, step, epsilon, weights):
    update = m / (1 - 0.9**step) / (np.sqrt(v / (1 - 0.999**step)) + epsilon)
    return update * np.linalg.norm(weights) / np.linalg.norm(update)


@pytest.mark.parametrize("name", ["adamw", "lamb"])
def test_updates_agree_with_numpy(name):
    """Two variables, one with decay, at a rate that changes."""
    decayed, kept = (tf.Variable([1.0, -2.0, 3.0]) for _ in range(2))
    options = OptimizerOptions(optimizer=name, weight_decay=0.1)
    optimizer = make_optimizer(options, keras.optimizers.schedules.CosineDecay(0.1, 5))
    assert decay_in_loss(optimizer, 0.1, [decayed, kept], [decayed]) == 0
    optimizer.build([decayed, kept])
    expected = {"decayed": np.array([1.0, -2.0, 3.0]), "kept": np.array([1.0, -2.0, 3.0])}
    m, v = np.zeros(3), np.zeros(3)
    for step in range(1, 6):
        gradient = np.random.default_rng(step).normal(size=3)
        optimizer.apply_gradients([(tf.constant(gradient, tf.float32), x) for x in (decayed, kept)])
        rate = 0.1 * (1 + np.cos(np.pi * (step - 1) / 5)) / 2
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        for key in expected:
            if key == "decayed":
                expected[key] = expected[key] * (1 - rate * 0.1)
            if name == "adamw":
                expected[key] = expected[key] - rate * adam(m, v, step, 1e-8)
            else:
                expected[key] = expected[key] - rate * lamb(m, v, step, 1e-6, expected[key])
        np.testing.assert_allclose(decayed, expected["decayed"], rtol=1e-4)
        np.testing.assert_allclose(kept, expected["kept"], rtol=1e-4)
    assert np.abs(expected["decayed"] - expected["kept"]).max() > 0.01


@pytest.mark.parametrize("name", ["adamw", "lamb"])
def test_optimizer_decays_the_same_weights_as_the_loss(name):
    """Without gradients, only the decay moves a weight."""
    trainer = make_trainer(make_strategy(), f"--optimizer={name}", "--weight_decay=0.5")
    assert trainer.options.weight_decay == 0
    for variable in trainer._variables:  # Biases start at 0, where decay would not show.
        variable.assign(tf.ones(variable.shape))
    before = {v.path: v.numpy() for v in trainer._variables}
    optimizer = trainer.optimizer
    optimizer.apply_gradients([(tf.zeros(v.shape), v) for v in trainer._variables])
    moved = {v.path for v in trainer._variables if not np.array_equal(v.numpy(), before[v.path])}
    assert moved == {v.path for v in trainer.decayed_variables}
    assert 3 <= len(moved) < len(before)
    for variable in trainer.decayed_variables:
        np.testing.assert_allclose(variable.numpy(), before[variable.path] * (1 - 0.01 * 0.5), rtol=1e-6)


@pytest.mark.parametrize("name", ["adamw", "lamb"])
def test_two_replicas_equal_one_device(two_replicas, name):
    # Adam divides by values that may be near 0. The small rate keeps rounding errors small.
    trainers = [make_trainer(strategy, f"--optimizer={name}") for strategy in (make_strategy(), two_replicas)]
    for step in range(3):
        images, identities = (tf.concat([half, half], 0) for half in batch(step, 8))
        one, two = (float(trainer.train_step(images, identities)["loss"]) for trainer in trainers)
        assert two == pytest.approx(one, rel=5e-3)


@pytest.mark.parametrize("name", ["adamw", "lamb"])
def test_optimizer_resumes_bit_for_bit(name, tmp_path):
    trainer, resumed = (make_trainer(make_strategy(), f"--optimizer={name}") for _ in range(2))
    first, *_, last = [trainer.train_step(*batch(0, 12)) for _ in range(12)]
    assert float(last["loss"]) < float(first["loss"])
    trainer.state.write(str(tmp_path / "state"))
    resumed.state.read(str(tmp_path / "state")).assert_consumed()
    for each in (trainer, resumed):
        each.train_step(*batch(1, 12))
    for one, two in zip(weights(trainer), weights(resumed), strict=True):
        np.testing.assert_array_equal(one, two)


def test_defaults_are_those_of_the_original():
    schedule = make_schedule(ScheduleOptions(), 64, 10)
    assert schedule.schedule.boundaries == [320000, 480000, 640000]
    optimizer = make_optimizer(OptimizerOptions(), schedule)
    assert type(optimizer) is MomentumSGD and optimizer.momentum == 0.9
    assert decay_in_loss(optimizer, 1e-4, [], []) == 1e-4


@pytest.mark.parametrize(
    ("given", "flag"),
    [
        (["--lr=0.1"], "--lr needs --schedule"),
        (["--schedule=cosine"], "--schedule cosine needs --lr"),
        (["--schedule=cosine", "--lr=1", "--max_steps=5", "--warmup_steps=5"], "--warmup_steps is 5"),
        (["--schedule=cosine", "--lr=1", "--epoch=5", "--lr_end=2"], "--lr_end is 2.0"),
        (["--momentum=0"], "--momentum is 0.0"),
        (["--lr_steps", "5", "5", "6"], "--lr_steps is 5 5 6."),
    ],
)
def test_wrong_rates_name_their_flag(given, flag, capsys):
    with pytest.raises(SystemExit):
        parse_centre_options(given)
    assert flag in capsys.readouterr().err
