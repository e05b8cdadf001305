"""The global batch, seen from one replica."""

import tensorflow as tf


def global_batch(values: tf.Tensor) -> tf.Tensor:
    """The values of all replicas, in order: `(batch, ...)` to `(global_batch, ...)`.

    The gradient of a row is the sum of its gradients on all replicas. With one replica it returns the values.
    """
    context = _context()
    if context is None:
        return values
    # `all_gather` would exchange the lengths first, for which a GPU waits for its host. All are the same.
    parts = [tf.zeros_like(values)] * context.num_replicas_in_sync
    parts[replica_number()] = values
    joined = tf.concat(parts, 0)
    if not joined.dtype.is_integer:
        return context.all_reduce("SUM", joined)
    # For integers a GPU lacks a kernel that takes sums apart. A float64 holds all identities exactly.
    return tf.cast(context.all_reduce("SUM", tf.cast(joined, tf.float64)), joined.dtype)


def own_share(values: tf.Tensor) -> tf.Tensor:
    """The rows of a global batch that belong to this replica: `(global_batch, ...)` to `(batch, ...)`."""
    context = _context()
    if context is None:
        return values
    share = tf.shape(values)[0] // context.num_replicas_in_sync
    start = context.replica_id_in_sync_group * share
    return values[start : start + share]


def replica_number() -> int:
    """The number of this replica, from 0; call it in replica context."""
    number = tf.distribute.get_replica_context().replica_id_in_sync_group
    return number if isinstance(number, int) else int(tf.get_static_value(number))


def _context():
    context = tf.distribute.get_replica_context()
    # In a strategy's scope outside `run`, where layers are built, there is no context.
    return None if context is None or context.num_replicas_in_sync == 1 else context
