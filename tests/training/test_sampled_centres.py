"""Tests training with a sample of the centres: steps and checkpoints."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from losses.arcface import ArcFaceLoss
from losses.build import build_loss
from losses.sampling import sample_identities
from training.distribution import make_strategy
from training.optimizers import MomentumSGD
from training.trainer import StepOptions, Trainer

IDENTITIES, PIXELS, DIM, BATCH = 40, (2, 2, 3), 8, 8


def linear_net():
    images = keras.Input(PIXELS)
    dense = keras.layers.Dense(DIM, kernel_initializer=keras.initializers.HeNormal(2), name="E_DenseLayer")
    return keras.Model(images, dense(keras.layers.Flatten()(images)))


def make_trainer(strategy=None, sample_rate=0.3, loss="arcface", weight_decay=0.01, rate=0.1, **arguments):
    strategy = strategy or make_strategy()
    with strategy.scope():
        backbone = linear_net()
        head = build_loss(loss, IDENTITIES, seed=1, sample_rate=sample_rate)
        head.build(backbone.output_shape)
        optimizer = MomentumSGD(rate, 0.9)
    decayed = [backbone.trainable_variables[0], *head.trainable_variables]
    return Trainer(
        strategy, backbone, head, optimizer, decayed, StepOptions(weight_decay=weight_decay, **arguments)
    )


def batch(step):
    rng = np.random.default_rng(step)
    images = rng.uniform(-1, 1, (BATCH, *PIXELS)).astype(np.float32)
    return tf.constant(images), tf.constant(rng.integers(0, IDENTITIES, BATCH).astype(np.int32))


def sample(step, rate=0.3):
    return sample_identities(batch(step)[1], IDENTITIES, rate, 1, step)[0].numpy()


def columns(trainer):
    """Returns centres and their velocities, each `(dim, num_identities)`."""
    rows = trainer.head.centres.numpy(), trainer.optimizer.momentums[-1].numpy()
    return [value.T if trainer.head.sample_rate < 1 else value for value in rows]


def weights(trainer):
    others = [variable.numpy() for variable in trainer.optimizer.variables[2:-1]]
    return [*columns(trainer), *trainer.backbone.get_weights(), *others]


@pytest.mark.parametrize("loss", ["arcface", "sub_centre", "adaface"])
def test_only_the_sampled_centres_change(loss):
    trainer = make_trainer(loss=loss)
    per_identity = trainer.head.centres_shape[1] // IDENTITIES
    for step in range(4):
        before = columns(trainer)
        trainer.train_step(*batch(step))
        changed = [(new != old).any(axis=0) for new, old in zip(columns(trainer), before, strict=True)]
        expected = np.repeat(np.isin(np.arange(IDENTITIES), sample(step)), per_identity)
        for received in changed:
            np.testing.assert_array_equal(received, expected)


@pytest.mark.parametrize("clip_norm", [None, 0.2])
def test_steps_equal_those_of_a_layer_of_the_sampled_centres(clip_norm):
    """The expected update uses the gradient of a layer that has only the sampled centres."""
    trainer = make_trainer(clip_norm=clip_norm)
    kernel, bias = trainer.backbone.get_weights()
    centres, _ = columns(trainer)
    values = [kernel, bias, centres]
    velocities = [np.zeros_like(value) for value in values]
    for step in range(4):
        images, identities = batch(step)
        ids = sample(step)
        places = np.array([ids.tolist().index(identity) for identity in identities.numpy()], np.int32)
        alone = ArcFaceLoss(len(ids))
        alone.build((None, DIM))
        alone.assign_centres(values[2][:, ids])
        kernel, bias = map(tf.constant, values[:2])
        with tf.GradientTape() as tape:
            tape.watch([kernel, bias])
            embeddings = tf.reshape(images, (BATCH, -1)) @ kernel + bias
            loss = tf.reduce_mean(alone(embeddings, places)["loss"])
        gradients = [g.numpy() for g in tape.gradient(loss, [kernel, bias, alone.centres.value])]
        decay = 0.01 / 2 * (np.square(values[0]).sum() + np.square(values[2][:, ids]).sum())
        gradients[0] += 0.01 * values[0]
        gradients[2] += 0.01 * values[2][:, ids]
        norm = np.sqrt(sum(np.square(gradient, dtype=np.float64).sum() for gradient in gradients))

        terms = trainer.train_step(images, identities)
        np.testing.assert_allclose(terms["loss"], loss, rtol=1e-4)
        np.testing.assert_allclose(terms["weight_decay"], decay, rtol=1e-4)
        np.testing.assert_allclose(terms["total"], terms["loss"] + terms["weight_decay"], rtol=1e-6)
        np.testing.assert_allclose(terms["gradient_norm"], norm, rtol=1e-4)

        scale = 1 if clip_norm is None else min(1, clip_norm / norm)
        for place, rows in enumerate((..., ..., (slice(None), ids))):
            velocities[place][rows] = 0.9 * velocities[place][rows] + scale * gradients[place]
            values[place][rows] -= 0.1 * velocities[place][rows]
        received = [*trainer.backbone.get_weights(), columns(trainer)[0]]
        for value, expected in zip(received, values, strict=True):
            np.testing.assert_allclose(value, expected, rtol=1e-3, atol=2e-5)


def test_two_replicas_equal_one_device(two_replicas):
    trainers = [make_trainer(strategy, clip_norm=5.0) for strategy in (make_strategy(), two_replicas)]
    for step in range(4):
        one, two = ({k: float(v) for k, v in t.train_step(*batch(step)).items()} for t in trainers)
        assert two == pytest.approx(one, rel=1e-4)
    for one, two in zip(*map(weights, trainers), strict=True):
        np.testing.assert_allclose(two, one, atol=2e-5 * max(1, np.abs(one).max()))
    copies = [copy.numpy() for copy in trainers[1].head.centres.value.values]
    np.testing.assert_array_equal(*copies)


def test_a_run_resumes_bit_for_bit(tmp_path):
    trainer, resumed = make_trainer(), make_trainer()
    for step in range(3):
        trainer.train_step(*batch(step))
    trainer.state.write(str(tmp_path / "state"))
    resumed.state.read(str(tmp_path / "state")).assert_consumed()
    for step in range(3, 6):
        for one, two in zip(*(t.train_step(*batch(step)).values() for t in (trainer, resumed)), strict=True):
            np.testing.assert_array_equal(one, two)
    for one, two in zip(*map(weights, (trainer, resumed)), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(("first", "second"), [(1.0, 0.3), (0.3, 1.0), (0.3, 0.1)])
def test_checkpoints_do_not_depend_on_the_sample_rate(first, second, tmp_path, two_replicas):
    writer = make_trainer(sample_rate=first)
    writer.train_step(*batch(0))
    writer.state.write(str(tmp_path / "state"))
    stored = tf.train.load_checkpoint(str(tmp_path / "state"))
    key = "head/centres/.ATTRIBUTES/VARIABLE_VALUE"
    assert stored.get_variable_to_shape_map()[key] == [DIM, IDENTITIES]
    for strategy in (make_strategy(), two_replicas):
        reader = make_trainer(strategy, second)
        reader.state.read(str(tmp_path / "state")).assert_consumed()
        for one, two in zip(*map(weights, (writer, reader)), strict=True):
            np.testing.assert_array_equal(one, two)
        reader.train_step(*batch(1))
        reader.state.write(str(tmp_path / "again"))
        fresh = make_trainer(sample_rate=first)
        fresh.state.read(str(tmp_path / "again")).assert_consumed()
        for one, two in zip(*map(weights, (fresh, reader)), strict=True):
            np.testing.assert_array_equal(one, two)


def test_a_checkpoint_of_another_number_of_identities_is_refused(tmp_path):
    writer, reader = make_trainer(), make_trainer()
    state = tf.train.Checkpoint(centres=tf.Variable(tf.zeros((DIM, IDENTITIES + 1))))
    state.write(str(tmp_path / "state"))
    with pytest.raises(ValueError, match=r"\(8, 40\).*\(8, 41\)"):
        tf.train.Checkpoint(centres=reader.head.centres.value).read(str(tmp_path / "state"))
    assert writer.step == 0


def test_momentum_changes_only_the_given_rows():
    variable = tf.Variable([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    optimizer = MomentumSGD(0.1, 0.9)
    optimizer.build([variable])
    expected, velocity = variable.numpy(), np.zeros((3, 2))
    for rows, values in (([2, 0], [[1.0, -1.0], [2.0, 0.5]]), ([0], [[3.0, 3.0]]), ([1, 2], np.ones((2, 2)))):
        gradient = tf.IndexedSlices(tf.constant(values, tf.float32), tf.constant(rows))
        optimizer.apply_gradients([(gradient, variable)])
        velocity[rows] = 0.9 * velocity[rows] + values
        expected[rows] -= 0.1 * velocity[rows]
        np.testing.assert_allclose(variable, expected, rtol=1e-6)


def test_optimizers_that_change_all_rows_are_refused():
    with pytest.raises(ValueError, match=r"--sample_rate needs .* Adam"):
        backbone = linear_net()
        head = build_loss("arcface", IDENTITIES, sample_rate=0.5)
        head.build(backbone.output_shape)
        Trainer(make_strategy(), backbone, head, keras.optimizers.Adam(0.1), backbone.trainable_variables)
