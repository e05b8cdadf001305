import numpy as np
import pytest
import tensorflow as tf

from nets.backbone import Backbone
from nets.importers.training_checkpoint import load_backbone_of_checkpoint
from tests.training.small_trainer import NET, batch, make_checkpoints, make_trainer, weights
from training.distribution import make_strategy
from training.ema import WeightAverage
from training.trainer import StepOptions


def make_averaging(strategy, decay=0.5, **arguments):
    trainer = make_trainer(strategy, **arguments)
    return type(trainer)(
        strategy,
        trainer.backbone,
        trainer.head,
        trainer.optimizer,
        trainer.decayed_variables,
        StepOptions(average=WeightAverage(strategy, trainer.backbone, decay)),
    )


def values(net):
    return [np.array(variable.numpy()) for variable in net.variables]


def replicas_values(strategy, net):
    """Returns the values of each variable on all replicas, `(replicas, ...)`."""
    return [
        np.stack([local.numpy() for local in strategy.experimental_local_results(variable.value)])
        for variable in net.variables
    ]


@pytest.mark.parametrize("decay", [0.15, 0.9])
def test_the_average_agrees_with_numpy(decay):
    trainer = make_averaging(make_strategy(), decay)
    expected = values(trainer.backbone)
    for step in range(1, 5):
        trainer.train_step(*batch(step, 8))
        d = min(decay, (1 + step) / (10 + step))
        expected = [
            d * old + (1 - d) * new for old, new in zip(expected, values(trainer.backbone), strict=True)
        ]
        for one, two in zip(expected, values(trainer.options.average.net), strict=True):
            np.testing.assert_allclose(two, one, rtol=1e-5, atol=1e-6)
    names = {variable.path.split("/")[-1] for variable in trainer.options.average.net.variables}
    assert {"kernel", "moving_mean", "moving_variance"} <= names
    assert any(
        not np.array_equal(one, two)
        for one, two in zip(values(trainer.backbone), values(trainer.options.average.net), strict=True)
    )


def test_the_average_does_not_change_the_training():
    plain, averaging = make_trainer(make_strategy()), make_averaging(make_strategy())
    for step in range(3):
        for trainer in (plain, averaging):
            trainer.train_step(*batch(step, 8))
        averaging.options.average.net(batch(9, 4)[0], training=False)
    for one, two in zip(weights(plain), weights(averaging), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("gpus", [[], ["a GPU, so XLA compiles the update"]])
def test_every_replica_keeps_the_average_of_its_own_variables(gpus, two_replicas, monkeypatch):
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: gpus)
    trainer = make_averaging(two_replicas)
    average = trainer.options.average.net
    expected = replicas_values(two_replicas, trainer.backbone)
    for step in range(1, 4):
        trainer.train_step(*batch(step, 8))
        d = min(0.5, (1 + step) / (10 + step))
        current = replicas_values(two_replicas, trainer.backbone)
        expected = [d * old + (1 - d) * new for old, new in zip(expected, current, strict=True)]
    received = replicas_values(two_replicas, average)
    for variable, one, two in zip(average.variables, expected, received, strict=True):
        places = [local.device[-5:] for local in two_replicas.experimental_local_results(variable.value)]
        assert places == ["CPU:0", "CPU:1"]
        np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-6)
        # Each replica normalises by the statistics of its own share; they are read as their mean.
        assert np.array_equal(two[0], two[1]) == ("moving" not in variable.path)
        np.testing.assert_allclose(variable.numpy(), two.mean(axis=0), rtol=1e-6)


def test_a_checkpoint_of_one_device_continues_on_two(tmp_path, two_replicas):
    one, two = make_averaging(make_strategy()), make_averaging(two_replicas)
    one.train_step(*batch(0, 8))
    make_checkpoints(tmp_path, one, recipe={"ema": True}).save(1)
    make_checkpoints(tmp_path, two, recipe={"ema": True}).restore()
    received = replicas_values(two_replicas, two.options.average.net)
    for value, replicas in zip(values(one.options.average.net), received, strict=True):
        np.testing.assert_array_equal(replicas, [value, value])


def test_the_average_resumes_bit_for_bit(tmp_path):
    unbroken = make_averaging(make_strategy())
    recipe = {"ema": True}
    for step in range(2):
        unbroken.train_step(*batch(step, 8))
    make_checkpoints(tmp_path, unbroken, recipe=recipe).save(2)
    resumed = make_averaging(make_strategy())
    make_checkpoints(tmp_path, resumed, recipe=recipe).restore()
    for trainer in (unbroken, resumed):
        trainer.train_step(*batch(2, 8))
    for one, two in zip(weights(unbroken), weights(resumed), strict=True):
        np.testing.assert_array_equal(one, two)
    for one, two in zip(
        values(unbroken.options.average.net), values(resumed.options.average.net), strict=True
    ):
        np.testing.assert_array_equal(one, two)


def test_resume_with_and_without_average_is_refused(tmp_path):
    make_checkpoints(tmp_path, make_averaging(make_strategy()), recipe={"ema": True}).save(0)
    with pytest.raises(ValueError, match=r"recipe = None.*{'ema': True}"):
        make_checkpoints(tmp_path, make_trainer(make_strategy())).restore()
    make_checkpoints(tmp_path / "plain", make_trainer(make_strategy())).save(0)
    with pytest.raises(ValueError, match=r"recipe = {'ema': True}.*None"):
        make_checkpoints(tmp_path / "plain", make_averaging(make_strategy()), recipe={"ema": True}).restore()


def test_checkpoint_loads_the_average(tmp_path):
    backbone = Backbone(**NET)
    average = WeightAverage(make_strategy(), backbone, 0.5)
    average.net.set_weights([value + 1 for value in average.net.get_weights()])
    trainer = make_trainer(make_strategy())
    trainer.state = tf.train.Checkpoint(backbone=backbone, average=average.net)
    make_checkpoints(tmp_path, trainer, recipe={"ema": True}).save(1)
    loaded = load_backbone_of_checkpoint(tmp_path)
    for one, two in zip(average.net.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_counters_are_not_averaged():
    net = Backbone(**{**NET, "keep_prob": 0.5})
    average = WeightAverage(make_strategy(), net, 0.5)
    net(np.zeros((2, 16, 16, 3), "float32"), training=True)
    average.update(1)
    (draws,) = (v for v in average.net.variables if v.path.endswith("draws"))
    assert int(draws.value) == 0
