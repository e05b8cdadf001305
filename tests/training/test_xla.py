"""Compares steps that XLA compiles with steps without XLA."""

import numpy as np
import pytest

from benchmarks.replicas import largest_difference, parse_arguments, run_alone, train_on
from tests.training.small_trainer import HEADS, batch, make_trainer
from tests.training.test_step_graph import traced_step
from training.distribution import make_strategy


def check_losses(strategy, *flags):
    plain, compiled = (train_on(strategy, parse_arguments([*flags, *xla])) for xla in ([], ["--xla"]))
    assert largest_difference(plain["loss"], compiled["loss"]) < 1e-5
    assert compiled["gradient_norm"] == pytest.approx(plain["gradient_norm"], rel=1e-4)
    assert compiled["moving"] == pytest.approx(plain["moving"], rel=1e-5)


@pytest.mark.parametrize("name", ["adaface", "batch_all"])
def test_losses_compile(name):
    plain, compiled = (make_trainer(make_strategy(), make_head=HEADS[name], xla=xla) for xla in (False, True))
    for step in range(2):
        one, two = (trainer.train_step(*batch(step, 12)) for trainer in (plain, compiled))
        for term in one:
            assert float(two[term]) == pytest.approx(float(one[term]), rel=1e-4, abs=1e-6), (term, step)


@pytest.mark.parametrize("flags", [("--net=tiny_renorm",), ("--net=tiny_group", "--accumulate=2")])
def test_compiled_steps_equal_steps_without_xla(flags):
    check_losses(make_strategy(), "--steps=8", *flags)


def test_dropout_compiles_on_two_replicas(two_replicas):
    compiled = train_on(two_replicas, parse_arguments(["--net=tiny_dropout", "--steps=3", "--xla"]))
    assert np.isfinite(compiled["loss"]).all()


@pytest.mark.parametrize("flags", [(), ("--accumulate=2", "--clip_norm=8", "--steps=6")])
def test_each_of_two_replicas_compiles_its_own_step(two_replicas, flags):
    check_losses(two_replicas, *flags)


@pytest.mark.long
def test_four_replicas_compile():
    plain, compiled = (run_alone(4, {"xla": xla}) for xla in (False, True))
    assert len(plain["loss"]) == 20
    assert largest_difference(plain["loss"], compiled["loss"]) < 1e-5


def test_the_whole_step_is_compiled(two_replicas):
    trainer = make_trainer(two_replicas, xla=True)
    graph = traced_step(trainer).graph
    compiled = [op for op in graph.get_operations() if op.type == "StatefulPartitionedCall"]
    assert len(compiled) == 3 * 2  # passes, decay, update
    assert all(op.get_attr("_XlaMustCompile") for op in compiled)
    assert not any(op.type.startswith(("Conv2D", "MatMul", "ResourceApply")) for op in graph.get_operations())


@pytest.mark.parametrize("name", ["adaface", "batch_hard"])
def test_losses_that_compare_replicas_are_not_compiled(two_replicas, name):
    with pytest.raises(ValueError, match=r"--xla on does not work with (AdaFace|Triplet)Loss"):
        make_trainer(two_replicas, make_head=HEADS[name], xla=True)


def test_auto_compiles_nothing_on_processors():
    step = traced_step(make_trainer(make_strategy(), xla=None))
    assert any(op.type == "Conv2D" for op in step.graph.get_operations())
