"""The global batch, seen from one replica."""

import tensorflow as tf


def global_batch(values: tf.Tensor) -> tf.Tensor:
    """The values of all replicas, in order: `(batch, ...)` to `(global_batch, ...)`.

    The gradient of a row is the sum of its gradients on all replicas. With one replica it returns the values.
    """
    context = _context()
    return values if context is None else context.all_gather(values, axis=0)


def own_share(values: tf.Tensor) -> tf.Tensor:
    """The rows of a global batch that belong to this replica: `(global_batch, ...)` to `(batch, ...)`."""
    context = _context()
    if context is None:
        return values
    share = tf.shape(values)[0] // context.num_replicas_in_sync
    start = context.replica_id_in_sync_group * share
    return values[start : start + share]


def _context():
    context = tf.distribute.get_replica_context()
    # In a strategy's scope outside `run`, where layers are built, there is no context.
    return None if context is None or context.num_replicas_in_sync == 1 else context
