"""Compares sharded centres with a dense layer: losses, gradients, weights and checkpoints."""

import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from losses.build import build_loss
from losses.variants import LOSSES
from tests.training.sharded_trainer import DIM, IDENTITIES, batch, largest_difference, make_trainer, weights
from training.centres import shard_devices
from training.distribution import make_strategy

ROOT = Path(__file__).parents[2]
SHARDED = ["angular_centre", "arcface", "cosface", "combined", "magface"]


@pytest.mark.parametrize("clip_norm", [None, 0.5])
@pytest.mark.parametrize("loss", SHARDED)
def test_two_shards_equal_the_dense_layer(two_replicas, loss, clip_norm):
    # Five steps enlarge rounding errors. For this loss one processor reaches 1.06e-5.
    limit = 2e-5 if loss == "combined" else 1e-5
    assert largest_difference(two_replicas, loss, clip_norm) < limit


def test_four_shards_equal_the_dense_layer():
    # The number of devices is fixed per process. With 7 identities the last shard has one, and one of
    # padding.
    program = """
import json, tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 4)
from tests.training.sharded_trainer import largest_difference
strategy = tf.distribute.MirroredStrategy([f"CPU:{number}" for number in range(4)])
print(json.dumps([largest_difference(strategy, "angular_centre", clip) for clip in (None, 0.5)]))
"""
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=500
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert max(json.loads(run.stdout.splitlines()[-1])) < 1e-5


def test_shards_and_dense_layer_share_checkpoints(two_replicas, tmp_path):
    kinds = {"sharded": (two_replicas, True), "dense": (None, False)}
    for first, second in (("sharded", "dense"), ("dense", "sharded"), ("sharded", "sharded")):
        writer, reader = make_trainer(*kinds[first]), make_trainer(*kinds[second])
        writer.train_step(*batch(0))
        writer.state.write(str(tmp_path / "state"))
        shapes = tf.train.load_checkpoint(str(tmp_path / "state")).get_variable_to_shape_map()
        assert shapes["head/centres/.ATTRIBUTES/VARIABLE_VALUE"] == [DIM, IDENTITIES]
        reader.state.read(str(tmp_path / "state")).assert_consumed()
        for one, two in zip(*map(weights, (writer, reader)), strict=True):
            np.testing.assert_array_equal(two, one)


def test_shard_holds_only_its_columns(two_replicas):
    shards = make_trainer(two_replicas, True).head.shards
    assert [tuple(variable.shape) for variable in shards.variables] == [(DIM, 4), (DIM, 4)]
    assert [variable.device[-5:] for variable in shards.variables] == ["CPU:0", "CPU:1"]
    np.testing.assert_array_equal(shards.joined(), make_trainer().head.centres)
    assert not shards.variables[1].numpy()[:, 3:].any()  # padding


@pytest.mark.parametrize("loss", sorted(set(LOSSES) - set(SHARDED)))
def test_losses_that_cannot_be_sharded_are_refused(loss):
    with pytest.raises(ValueError, match="--shard_centres: "):
        build_loss(loss, IDENTITIES, sharded=True)


def test_sampling_shards_is_refused():
    with pytest.raises(ValueError, match=r"--sample_rate 1.* 0\.5"):
        build_loss("arcface", IDENTITIES, sample_rate=0.5, sharded=True)


def test_every_replica_holds_a_shard(two_replicas):
    assert [name[-5:] for name in shard_devices(two_replicas)] == ["CPU:0", "CPU:1"]
    with pytest.raises(ValueError, match=r"--shard_centres: .* 1"):
        shard_devices(make_strategy())


def test_other_optimizers_are_refused(two_replicas):
    with pytest.raises(ValueError, match=r"--shard_centres needs .* Adam"):
        make_trainer(two_replicas, True, optimizer=keras.optimizers.Adam)
