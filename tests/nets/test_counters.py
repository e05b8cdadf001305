"""Tests that checkpoints store counters of layers as int32, through private methods of TensorFlow."""

import keras
import tensorflow as tf

from nets.layers.counters import save_counters_as_int32
from nets.layers.dropout import Dropout

KEY = "draws/.ATTRIBUTES/VARIABLE_VALUE"


def net_with_a_counter():
    layer = Dropout(0.5, seed=0)
    net = keras.Sequential([keras.Input((4,)), layer])
    save_counters_as_int32(net)
    return net, layer.draws


def test_checkpoints_of_older_versions_can_be_read(tmp_path):
    path = tf.train.Checkpoint(draws=tf.Variable(7)).write(str(tmp_path / "state"))
    _, draws = net_with_a_counter()
    checkpoint = tf.train.Checkpoint(draws=draws.value)
    checkpoint.read(path).assert_consumed()
    assert (draws.dtype, draws.numpy()) == ("int64", 7)

    draws.assign(9)
    reader = tf.train.load_checkpoint(checkpoint.write(str(tmp_path / "new")))
    assert (reader.get_tensor(KEY), reader.get_variable_to_dtype_map()[KEY]) == (9, tf.int32)
