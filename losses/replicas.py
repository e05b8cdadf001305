"""The global batch, seen from one replica."""

import tensorflow as tf


def global_batch(values):
    """The values of all replicas, in their order.

    Differentiable: a row's gradient is the sum of what all replicas ask of it. Outside of a strategy,
    and with one replica, it returns the values.

    Args:
        values: any dtype, shape `(batch, ...)`, the same on every replica.

    Returns:
        The same dtype, shape `(global_batch, ...)`.
    """
    context = _context()
    return values if context is None else context.all_gather(values, axis=0)


def own_share(values):
    """The rows of a global batch that are this replica's: `(global_batch, ...)` to `(batch, ...)`."""
    context = _context()
    if context is None:
        return values
    share = tf.shape(values)[0] // context.num_replicas_in_sync
    start = context.replica_id_in_sync_group * share
    return values[start : start + share]


def _context():
    context = tf.distribute.get_replica_context()
    # There is none in a strategy's scope outside of `run`, where layers are built.
    return None if context is None or context.num_replicas_in_sync == 1 else context
