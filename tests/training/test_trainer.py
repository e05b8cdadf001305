import keras
import numpy as np
import pytest
import tensorflow as tf

from nets.backbone import decayed_variables
from tests.training.small_trainer import HEADS, IDENTITIES, SIZE, batch, make_trainer, weights
from training.distribution import make_strategy
from training.loss_scale import LossScale
from training.optimizers import MomentumSGD
from training.schedules import LinearRise
from training.trainer import Trainer


@pytest.mark.parametrize("clip_norm", [None, 0.5])
def test_two_replicas_equal_one_device(two_replicas, clip_norm):
    # Both replicas get the same half, so that their batch statistics are those of the whole batch.
    trainers = [make_trainer(strategy, clip_norm=clip_norm) for strategy in (make_strategy(), two_replicas)]
    assert trainers[1].strategy.num_replicas_in_sync == 2
    for step in range(4):
        images, identities = (tf.concat([half, half], 0) for half in batch(step, 8))
        one, two = (trainer.train_step(images, identities) for trainer in trainers)
        assert one.keys() == two.keys()
        for name in one:
            np.testing.assert_allclose(
                two[name], one[name], rtol=2e-4, atol=1e-6, err_msg=f"{name}, step {step}"
            )
    assert trainers[0].step == trainers[1].step == 4
    for one, two in zip(*map(weights, trainers), strict=True):
        np.testing.assert_allclose(two, one, atol=2e-4 * max(1, np.abs(one).max()))


@pytest.mark.parametrize("name", HEADS)
def test_every_loss_trains_and_resumes(name, tmp_path):
    trainer, resumed = (make_trainer(make_strategy(), make_head=HEADS[name]) for _ in range(2))
    first, *_, last = [trainer.train_step(*batch(0, 12)) for _ in range(15)]
    assert float(last["loss"]) < float(first["loss"])
    assert {"loss", "total", "weight_decay", "gradient_norm"} <= last.keys()
    trainer.state.write(str(tmp_path / "state"))
    resumed.state.read(str(tmp_path / "state")).assert_consumed()
    for one, two in zip(
        trainer.train_step(*batch(1, 12)).values(), resumed.train_step(*batch(1, 12)).values(), strict=True
    ):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("name", ["adaface", "batch_hard", "batch_all"])
def test_losses_of_the_whole_batch_see_it_from_every_replica(two_replicas, name):
    # The net has no batch normalisation, so embeddings do not depend on the share of the replica.
    results = []
    for strategy in (make_strategy(), two_replicas):
        with strategy.scope():
            images = keras.Input((*SIZE, 3))
            x = keras.layers.Flatten()(images)
            dense = keras.layers.Dense(
                8, kernel_initializer=keras.initializers.HeNormal(2), name="E_DenseLayer"
            )
            backbone = keras.Model(images, dense(x))
            head = HEADS[name]()
            head.build(backbone.output_shape)
            optimizer = MomentumSGD(0.01, 0.9)
        trainer = Trainer(strategy, backbone, head, optimizer, decayed_variables(backbone))
        terms = [trainer.train_step(*batch(step, 12)) for step in range(3)]
        results.append(([{k: float(v) for k, v in step.items()} for step in terms], weights(trainer)))
    (one_terms, one_weights), (two_terms, two_weights) = results
    for one, two in zip(one_terms, two_terms, strict=True):
        assert two == pytest.approx(one, rel=1e-4, abs=1e-6)
    for one, two in zip(one_weights, two_weights, strict=True):
        np.testing.assert_allclose(two, one, atol=1e-5 * max(1, np.abs(one).max()))


def test_replicas_share_the_mean_over_the_global_batch(two_replicas):
    trainer = make_trainer(two_replicas)
    images, identities = batch(0, 8)
    expected = []
    for half in (slice(4), slice(4, None)):
        embeddings = trainer.backbone(images[half], training=True)
        expected.append(tf.reduce_mean(trainer.head(embeddings, identities[half])["loss"]))
    received = make_trainer(two_replicas).train_step(images, identities)
    np.testing.assert_allclose(received["loss"], np.mean(expected), rtol=1e-5)


def test_the_total_is_the_loss_and_the_decay():
    trainer = make_trainer(make_strategy(), weight_decay=0.02)
    terms = trainer.train_step(*batch(0, 8))
    squares = sum(
        float(np.square(v.numpy(), dtype=np.float64).sum())
        for v in make_trainer(make_strategy()).decayed_variables
    )
    np.testing.assert_allclose(terms["weight_decay"], 0.02 * squares / 2, rtol=1e-5)
    np.testing.assert_allclose(terms["total"], terms["loss"] + terms["weight_decay"], rtol=1e-6)


@pytest.mark.parametrize("arguments", [{}, {"accumulate": 2}, {"loss_scale": 1024.0}])
def test_decay_moves_only_decayed_variables(arguments):
    """Row 6 of docs/fidelity.md: decay moves a decayed variable by `rate * alpha * v`, and no other."""
    rate, alpha = 0.01, 5.0
    moved = []
    for weight_decay in (0.0, alpha):
        given = dict(arguments)
        if "loss_scale" in given:
            given["loss_scale"] = LossScale(given["loss_scale"])
        trainer = make_trainer(make_strategy(), rate, weight_decay=weight_decay, **given)
        variables = trainer.backbone.trainable_variables + trainer.head.trainable_variables
        before = [variable.numpy() for variable in variables]
        trainer.train_step(*batch(0, 8))
        moved.append([variable.numpy() for variable in variables])
    decayed = {id(variable) for variable in trainer.decayed_variables}
    assert 0 < len(decayed) < len(variables)
    for variable, start, without, received in zip(variables, before, *moved, strict=True):
        expected = rate * alpha * start if id(variable) in decayed else np.zeros_like(start)
        np.testing.assert_allclose(without - received, expected, rtol=1e-3, atol=1e-6, err_msg=variable.path)


def test_centres_and_decay_wait_for_the_gradient_of_the_first_kernel():
    trainer = make_trainer(make_strategy())

    @tf.function
    def gradients(images, identities):
        _, gradients, extra = trainer._replica_gradients(images, (identities,), {})
        return trainer._with_decay_and_norm(gradients, extra)[0]

    outputs = gradients.get_concrete_function(*batch(0, 4)).graph.outputs
    centres = all_before(outputs[-1].op)
    products = [op for op in centres if op.type == "MatMul" and op.outputs[0].shape == (32, IDENTITIES)]
    assert products
    for op in products:
        assert any(before.type == "Conv2DBackpropFilter" for before in all_before(op))
    # The decay of the kernel is also computed after its gradient.
    with_decay = outputs[0].op.inputs[0].op  # The output of a function is an Identity of it.
    assert with_decay.type == "AddV2"
    decay = with_decay.inputs[1].op
    assert any(before.type == "Conv2DBackpropFilter" for before in all_before(decay))


def all_before(op):
    """Returns the operations of a graph that run before another operation."""
    found, found_from = set(), [op]
    while found_from:
        op = found_from.pop()
        new = {*op.control_inputs, *(tensor.op for tensor in op.inputs)} - found
        found |= new
        found_from += new
    return found


def test_clipping_scales_the_whole_gradient():
    images, identities = batch(0, 8)
    trainers = [make_trainer(make_strategy(), clip_norm=clip) for clip in (None, 0.25)]
    before = weights(trainers[0])
    norms = [float(trainer.train_step(images, identities)["gradient_norm"]) for trainer in trainers]
    assert norms[0] == norms[1] > 0.25  # The log has the norm before clipping.
    free, clipped = ([new - old for new, old in zip(weights(t), before, strict=True)] for t in trainers)
    num_trained = len(trainers[0].backbone.trainable_variables)
    assert num_trained == 7
    for variable, big, small in zip(trainers[0].backbone.variables, free, clipped, strict=False):
        if variable.trainable:
            np.testing.assert_allclose(small, big * 0.25 / norms[0], rtol=1e-3, atol=1e-6)


def test_scheduled_arguments_reach_the_head():
    trainer = make_trainer(make_strategy(), schedules={"margin": LinearRise(0.4, 2)})
    margins = [float(trainer.train_step(*batch(0, 8))["margin"]) for _ in range(4)]
    np.testing.assert_allclose(margins, [0.0, 0.2, 0.4, 0.4], rtol=1e-6)
    images, identities = batch(0, 8)
    no_margin = make_trainer(make_strategy(), schedules={"margin": LinearRise(0.4, 2)}).train_step(
        images, identities
    )
    full_margin = make_trainer(make_strategy()).train_step(images, identities)
    assert float(no_margin["cross_entropy"]) < float(full_margin["cross_entropy"])


def test_momentum_scales_the_whole_velocity_by_the_current_rate():
    # Where the rate drops, the SGDs of Keras and TensorFlow 1 differ.
    variable = tf.Variable([1.0, -2.0])
    optimizer = MomentumSGD(keras.optimizers.schedules.PiecewiseConstantDecay([1], [0.1, 0.01]), 0.9)
    optimizer.build([variable])
    expected, velocity = np.array([1.0, -2.0]), np.zeros(2)
    for gradient, rate in (([1.0, 2.0], 0.1), ([0.5, -1.0], 0.1), ([2.0, 0.0], 0.01), ([0.0, 0.0], 0.01)):
        optimizer.apply_gradients([(tf.constant(gradient), variable)])
        velocity = 0.9 * velocity + gradient
        expected = expected - rate * velocity
        np.testing.assert_allclose(variable, expected, rtol=1e-6)


@pytest.mark.parametrize("arguments", [{"momentum": 0.0}, {"nesterov": True}])
def test_nesterov_and_zero_momentum_are_refused(arguments):
    with pytest.raises(ValueError, match="momentum > 0"):
        MomentumSGD(0.1, **arguments)
