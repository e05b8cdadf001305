"""Gathers the global batch on each replica, and takes the replica's own share of it."""

import tensorflow as tf


def global_batch(values: tf.Tensor) -> tf.Tensor:
    """Gathers the values of all replicas, in order: `(batch, ...)` to `(global_batch, ...)`.

    The gradient of a row is the sum of its gradients on all replicas. Each replica must have the same number
    of rows. With one replica the values are returned unchanged.
    """
    context = _context()
    if context is None:
        return values
    # `all_gather` would first exchange the lengths, although they are all the same, and GPUs would wait for
    # the CPU.
    parts = [tf.zeros_like(values)] * context.num_replicas_in_sync
    parts[replica_number()] = values
    joined = tf.concat(parts, 0)
    if not joined.dtype.is_integer:
        return context.all_reduce("SUM", joined)
    # GPUs cannot sum integers over replicas. float64 represents all identities exactly.
    return tf.cast(context.all_reduce("SUM", tf.cast(joined, tf.float64)), joined.dtype)


def own_share(values: tf.Tensor) -> tf.Tensor:
    """Returns this replica's rows of a global batch: `(global_batch, ...)` to `(batch, ...)`."""
    context = _context()
    if context is None:
        return values
    share = tf.shape(values)[0] // context.num_replicas_in_sync
    start = context.replica_id_in_sync_group * share
    return values[start : start + share]


def replica_number() -> int:
    """Returns the number of this replica, from 0. Call it in replica context."""
    number = tf.distribute.get_replica_context().replica_id_in_sync_group
    return number if isinstance(number, int) else int(tf.get_static_value(number))


def _context():
    context = tf.distribute.get_replica_context()
    # Layers are built in a strategy's scope but outside `run`, where there is no replica context.
    return None if context is None or context.num_replicas_in_sync == 1 else context
