import itertools

import numpy as np
import pytest

from benchmarks.plain_net import PlainStep, with_keras_layers
from benchmarks.training_step import Turns
from losses.angular_centre import AngularCentreLoss
from tests.training.small_trainer import IDENTITIES, batch, make_trainer, small_net
from training.distribution import make_strategy


class Batches:
    sampler = None

    def start_at(self, step):
        return itertools.count(step)


def test_the_reference_runs_between_turns_of_the_loop():
    now, log = 0.0, []

    def reference():
        nonlocal now
        now += 100
        log.append("reference")

    turns = Turns(Batches(), reference, steps=3, rounds=2, clock=lambda: now)
    # The exception that ends the loop must be one that `train_centre` does not handle.
    with pytest.raises(Exception) as ended:
        for number in turns.start_at(7):
            now += number  # a step of the loop
            log.append(number)
    assert not isinstance(ended.value, (ValueError, OSError))
    assert log == [7, 8, "reference", 9, 10, 11, "reference", 12, 13, 14]
    assert turns.ours == [9 + 10 + 11, 12 + 13 + 14] and turns.references == [100, 100]


def test_the_plain_step_computes_our_loss():
    trainer = make_trainer(make_strategy(), 0.001, make_head=lambda: AngularCentreLoss(IDENTITIES))
    plain = PlainStep(small_net(), IDENTITIES)
    # Keras's optimizer multiplies the rate into the velocity. With a constant rate this is the same.
    for step in range(3):
        total = trainer.train_step(*batch(step, 8))["total"]
        np.testing.assert_allclose(plain(*batch(step, 8)), total, rtol=1e-5)


def test_keras_layers_give_the_same_embeddings():
    ours = small_net()
    net = with_keras_layers(ours, norm=True, prelu=True)
    assert [type(layer).__module__.split(".")[0] for layer in net.layers] == ["keras"] * len(net.layers)
    np.testing.assert_allclose(
        net(batch(0, 8)[0], training=True), ours(batch(0, 8)[0], training=True), atol=1e-4
    )
