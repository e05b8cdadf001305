"""Tests the graph of a training step, as a GPU would run it."""

import tensorflow as tf

from tests.graphs import FREE, count_operations, graph_on_gpu
from tests.training.small_trainer import IDENTITIES, SIZE
from tests.training.test_precision import make_trainer
from tests.training.test_trainer import all_before
from training.distribution import make_strategy


def traced_step(trainer, batch_size=8):
    given = tf.zeros((batch_size, *SIZE, 3)), tf.zeros(batch_size, tf.int32)
    (batch,) = zip(*map(trainer._parts, given), strict=True)
    return trainer._step_of_batch.get_concrete_function(*batch)


def test_a_step_has_few_operations():
    """The net has one convolution, one dense layer, two norms and a PReLU. Most operations are the loss's.

    The norms move their statistics one by one, which takes 7 operations more than in a `Backbone`.
    """
    counts = count_operations(graph_on_gpu(traced_step(make_trainer(make_strategy(), "mixed_bfloat16"))))
    assert counts["Conv2D"] == 1
    assert counts.total() <= 213, counts


def test_a_compiled_step_has_four_operations():
    """They are: forward and backward pass; decay and norm; update; and the counter of the steps."""
    trainer = make_trainer(make_strategy(), "mixed_bfloat16", xla=True)
    counts = count_operations(graph_on_gpu(traced_step(trainer)))
    assert counts == {"StatefulPartitionedCall": 3, "AssignAddVariableOp": 1}


def test_no_arithmetic_on_the_host(two_replicas):
    """Operations outside the replicas would have no device here."""
    trainer = make_trainer(two_replicas, "mixed_bfloat16", clip_norm=1.0)
    operations = [op for op in traced_step(trainer).graph.get_operations() if op.type not in FREE]
    assert {op.device[-5:] for op in operations} == {"CPU:0", "CPU:1"}


def test_first_pack_of_gradients_does_not_wait_for_the_last(two_replicas, monkeypatch):
    options = tf.distribute.experimental.CommunicationOptions(bytes_per_pack=1000)
    monkeypatch.setattr("training.trainer._COMMUNICATION", options)
    operations = traced_step(make_trainer(two_replicas, "float32")).graph.get_operations()
    packs = [op for op in operations if op.type.startswith("CollectiveReduce")]
    assert len(packs) == 2 * 2
    reduced = packs[:2]  # those of the first replica
    first, last = (
        {(op.type, str(op.outputs[0].shape)) for op in all_before(pack) if op.outputs} for pack in reduced
    )
    kernel, centres = ("Conv2DBackpropFilter", "(3, 3, 3, 8)"), ("MatMul", f"(32, {IDENTITIES})")
    assert {kernel, centres} <= last and not {kernel, centres} & first
