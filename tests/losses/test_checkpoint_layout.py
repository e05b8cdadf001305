"""Tests that checkpoints store variables in another layout, through private methods of TensorFlow."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from losses.checkpoint_layout import save_transposed

KEY = "variable/.ATTRIBUTES/VARIABLE_VALUE"
VALUES = np.arange(6, dtype=np.float32).reshape(2, 3)


def transposed_variable(values):
    variable = keras.Variable(values)
    save_transposed(variable)
    return variable


def test_tensorflow_asks_a_variable_how_to_save_it(tmp_path):
    """Fails if TensorFlow no longer calls `_serialize_to_tensors` and `_restore_from_tensors`."""
    path = tf.train.Checkpoint(variable=transposed_variable(VALUES).value).write(str(tmp_path / "state"))
    np.testing.assert_array_equal(tf.train.load_checkpoint(path).get_tensor(KEY), VALUES.T)
    copy = transposed_variable(0 * VALUES)
    tf.train.Checkpoint(variable=copy.value).read(path).assert_consumed()
    np.testing.assert_array_equal(copy, VALUES)


def test_a_tensor_of_another_shape_is_refused(tmp_path):
    path = tf.train.Checkpoint(variable=tf.Variable(tf.zeros((3, 5)))).write(str(tmp_path / "state"))
    with pytest.raises(ValueError, match=r"\(3, 2\).*\(3, 5\)"):
        tf.train.Checkpoint(variable=transposed_variable(VALUES).value).read(path)
