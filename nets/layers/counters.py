"""Stores int64 counters in checkpoints as int32."""

import keras
import tensorflow as tf

_KEY = "VARIABLE_VALUE"  # the name under which `tf.train.Checkpoint` keeps the value of a variable


def save_counters_as_int32(model: keras.Model) -> None:
    """Makes `tf.train.Checkpoint` store the int64 variables of a model as int32, as older versions did.

    They are int64 in memory because TensorFlow keeps int32 variables in the CPU's memory, where code that is
    compiled for a GPU cannot use them.

    `_serialize_to_tensors` and `_restore_from_tensors` are private, but TensorFlow has no public way to
    change how a variable is saved without changing its key. `tests/nets/test_counters.py` fails if they go
    away.
    """
    for variable in model.variables:
        if variable.dtype == "int64":
            _save_as_int32(variable.value)


def _save_as_int32(stored):
    copies = getattr(stored, "values", (stored,))  # a mirrored variable has one copy per replica
    first = copies[0]
    # TensorFlow's class for a tensor that is read only when it is saved. Restoring creates it, too, but does
    # not read the tensor.
    deferred = type(first._serialize_to_tensors()[_KEY])

    def read():
        return tf.cast(first.read_value_no_copy(), tf.int32)

    def restore(tensors):
        for copy in copies:
            copy.assign(tf.cast(tensors[_KEY], copy.dtype))

    # TensorFlow looks for these functions on the object first, because objects from SavedModels have them
    # there.
    stored._serialize_to_tensors = lambda: {_KEY: deferred(read, tf.int32, first.device)}
    stored._restore_from_tensors = restore
