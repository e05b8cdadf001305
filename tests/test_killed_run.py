"""Compares a run that is killed twice with the same run left alone."""

import shutil

import numpy as np
import pytest

import train_centre
from benchmarks.killed_runs import torture, training_command
from benchmarks.torture import describe_points, differences
from tests.small_runs import make_data

# Two kills in as little time as possible. `python -m benchmarks.torture` is the long version.
FLAGS = {
    "batch_size": 4,
    "summary_interval": 2,
    "save_interval": 2,
    "validate_interval": 4,
    "ckpt_interval": 4,
    "lfw_threshold": 1.0,
}


@pytest.mark.long
def test_a_run_killed_twice_equals_an_unbroken_run(tmp_path):
    config = make_data(tmp_path) / "config.ini"
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    command = training_command("train_centre", config, unbroken, 6, **FLAGS)
    assert train_centre.main(command[3:]) == 0
    command = training_command("train_centre", config, broken, 6, **FLAGS)
    kills = list(torture(command, broken, ["saving", "model"], np.random.default_rng(3)))
    assert [kill.moment for kill in kills] == ["saving", "model"]
    assert kills[0].saved <= kills[0].reached and kills[1].saved == 4
    assert differences(unbroken, broken) == []
    assert " TensorBoard points, 0 are missing" in describe_points(unbroken, broken)
    # The comparison finds differences.
    one, other = sorted((broken / "models").iterdir())
    shutil.rmtree(other / "variables")
    shutil.copytree(one / "variables", other / "variables")
    assert any(problem.startswith(f"{other.name}: ") for problem in differences(unbroken, broken))
    one.rename(one.with_name("iter_5"))
    assert differences(unbroken, broken)[0].startswith("models: expected [")
