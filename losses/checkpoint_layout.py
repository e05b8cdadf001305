"""Stores variables in checkpoints in a different layout from that in memory."""

from collections.abc import Callable

import keras
import tensorflow as tf

_KEY = "VARIABLE_VALUE"  # the name under which `tf.train.Checkpoint` keeps the value of a variable


def save_as(
    variable: keras.Variable,
    shape: tuple[int, ...],
    read: Callable[[], tf.Tensor],
    write: Callable[[tf.Tensor], object],
) -> None:
    """Makes `tf.train.Checkpoint` save and restore another tensor in place of a variable's value.

    `_serialize_to_tensors` and `_restore_from_tensors` are private, but TensorFlow has no public way to
    change how a variable is saved without changing its key. `tests/losses/test_checkpoint_layout.py` fails if
    they go away.

    Args:
        variable: the variable to change. Restoring a tensor of another shape raises a `ValueError`.
        shape: shape of the tensor in the checkpoint.
        read: returns the tensor to save.
        write: takes the restored tensor.
    """
    stored = variable.value
    first = getattr(stored, "values", (stored,))[0]  # a mirrored variable has one copy per replica
    # TensorFlow's class for a tensor that is read only when it is saved. Restoring calls `serialize`, too,
    # but does not read the tensor.
    deferred = type(first._serialize_to_tensors()[_KEY])

    def serialize():
        return {_KEY: deferred(read, first.dtype, first.device)}

    def restore(tensors):
        value = tensors[_KEY]
        if tuple(value.shape) != shape:
            raise ValueError(f"{variable.path}: expected shape {shape}, the checkpoint has {value.shape}")
        write(value)

    # TensorFlow looks for these functions on the object first, because objects from SavedModels have them
    # there.
    stored._serialize_to_tensors = serialize
    stored._restore_from_tensors = restore


def save_transposed(variable: keras.Variable) -> None:
    """Makes `tf.train.Checkpoint` transpose a matrix when it saves and restores it.

    Sampled centres are rows in memory, because rows are gathered and scattered about five times as fast as
    columns. In checkpoints they stay columns, so runs with and without samples can read each other's
    checkpoints.
    """
    copies = getattr(variable.value, "values", (variable.value,))

    def write(value):
        value = tf.transpose(value)
        for copy in copies:
            copy.assign(value)

    shape = tuple(variable.shape)[::-1]
    save_as(variable, shape, lambda: tf.transpose(copies[0].read_value_no_copy()), write)
