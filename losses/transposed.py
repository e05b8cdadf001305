"""Variables whose checkpoints hold another form of them."""

import tensorflow as tf

# The name under which `tf.train.Checkpoint` keeps the value of a variable.
_KEY = "VARIABLE_VALUE"


def save_as(variable, shape, read, write):
    """Makes `tf.train.Checkpoint` save and restore something else in a variable's place.

    Args:
        variable: `keras.Variable`, float32; mirrored over replicas or not.
        shape: tuple, of what is saved.
        read: function that returns the tensor to save.
        write: function of the restored tensor, which has that shape.
    """
    stored = variable.value
    first = getattr(stored, "values", (stored,))[0]  # there is one per replica
    # TensorFlow's own promise of a value: restoring, it asks for what would be saved, and needs no value.
    later = type(first._serialize_to_tensors()[_KEY])

    def serialize():
        return {_KEY: later(read, first.dtype, first.device)}

    def restore(tensors):
        value = tensors[_KEY]
        if tuple(value.shape) != tuple(shape):
            raise ValueError(
                f"{variable.path}: expected shape {tuple(shape)}, the checkpoint has {tuple(value.shape)}"
            )
        write(value)

    # Looked up on the object before its class, as for what is loaded from SavedModels.
    stored._serialize_to_tensors = serialize
    stored._restore_from_tensors = restore


def save_transposed(variable):
    """Makes `tf.train.Checkpoint` write a matrix transposed, and transpose what it reads.

    Rows are gathered and scattered about five times as fast as columns, so what is sampled lies in
    rows in memory; on disk it stays as it was, and runs with and without samples go on from each other's
    checkpoints.

    Args:
        variable: `keras.Variable`, two-dimensional; mirrored over replicas or not.
    """
    copies = getattr(variable.value, "values", (variable.value,))

    def write(value):
        value = tf.transpose(value)
        for copy in copies:
            copy.assign(value)

    shape = tuple(variable.shape)[::-1]
    save_as(variable, shape, lambda: tf.transpose(copies[0].read_value_no_copy()), write)
