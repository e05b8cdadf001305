"""Tests settings that change how GPUs compute: `--tf32`, `--deterministic`, and those of 16-bit nets."""

import os

import numpy as np
import pytest
import tensorflow as tf

# TensorFlow has no public way to switch determinism off again.
from tensorflow.python.framework.config import disable_op_determinism, is_op_determinism_enabled

import train_centre
from tests.small_runs import are_equal, data, flags, state
from tests.training.small_trainer import HEADS, batch, make_trainer, weights
from training.distribution import make_strategy, set_arithmetic
from training.options import parse_centre_options

__all__ = ["data"]  # the fixture

PERSISTENT = "TF_USE_CUDNN_BATCHNORM_SPATIAL_PERSISTENT"


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    """Restores the settings of the process that flags change."""
    tf32 = tf.config.experimental.tensor_float_32_execution_enabled()
    monkeypatch.delenv(PERSISTENT, raising=False)
    variables = set(os.environ)
    yield
    for name in set(os.environ) - variables:
        del os.environ[name]
    tf.config.experimental.enable_tensor_float_32_execution(tf32)
    disable_op_determinism()


@pytest.mark.parametrize(
    ("given", "tf32", "persistent"),
    [
        ([], True, None),
        (["--tf32=off"], False, None),
        (["--precision=mixed_bfloat16"], False, "1"),
        (["--precision=mixed_float16", "--tf32=on"], False, "1"),
    ],
)
def test_flags_set_tf32_and_the_kernel_of_batch_norm(given, tf32, persistent):
    set_arithmetic(parse_centre_options(given).device)
    assert tf.config.experimental.tensor_float_32_execution_enabled() is tf32
    assert os.environ.get(PERSISTENT) == persistent
    assert not is_op_determinism_enabled()


def test_an_environment_variable_wins_over_the_flags(monkeypatch):
    monkeypatch.setenv(PERSISTENT, "0")
    set_arithmetic(parse_centre_options(["--precision=mixed_bfloat16"]).device)
    assert os.environ[PERSISTENT] == "0"


@pytest.mark.parametrize("name", ["adaface", "sub_centre", "margin", "batch_all"])
def test_every_operation_of_a_loss_can_be_deterministic(name):
    results = []
    for given in ([], ["--deterministic"]):
        set_arithmetic(parse_centre_options(given).device)
        trainer = make_trainer(make_strategy(), make_head=HEADS[name])
        trainer.train_step(*batch(0, 12))
        results.append(weights(trainer))
    assert is_op_determinism_enabled()
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.long
def test_a_deterministic_run_has_the_same_result(data):
    """The run has a conversion, dropout, sampled centres, validation and export."""
    for number, given in enumerate(([], ["--deterministic"])):
        output = data / str(number)
        given = [*flags(data, output=output, sample_rate=0.5, validate_interval=4), *given]
        assert train_centre.main(given) == 0
    assert are_equal(state(data / "0" / "ckpt"), state(data / "1" / "ckpt"))
