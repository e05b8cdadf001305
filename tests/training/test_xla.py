"""The compiled step against the one that is not."""

import pytest

from benchmarks.replicas import largest_difference, parse_arguments, train_on
from tests.training.small_trainer import HEADS, batch, make_trainer
from training.distribution import make_strategy


@pytest.mark.parametrize("flags", [("--net=tiny_renorm",), ("--net=tiny_group", "--accumulate=2")])
def test_compiled_steps_equal_other_steps(flags):
    plain, compiled = (
        train_on(make_strategy(), parse_arguments(["--steps=8", *flags, *xla])) for xla in ([], ["--xla"])
    )
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


def test_several_replicas_are_refused(two_replicas):
    with pytest.raises(ValueError, match=r"--xla: .* 2"):
        make_trainer(two_replicas, xla=True)
