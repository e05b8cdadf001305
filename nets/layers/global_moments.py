"""Mean and variance over the global batch, seen from one replica."""

import tensorflow as tf


def global_moments(images):
    """Mean and biased variance of every channel over the images of all replicas.

    Every replica's own mean and variance are exchanged in one all-reduce, through which gradients flow, and
    put together by `variance = mean(variances + (means - mean)^2)`: nothing cancels, unlike in
    `mean(x^2) - mean(x)^2`.

    References:
    - Chan, Golub, LeVeque: Updating Formulae and a Pairwise Algorithm for Computing Sample Variances (1979)

    Args:
        images: float32 `(batch, height, width, channels)`; as many on every replica.

    Returns:
        Two float32 tensors of shape `(channels,)`, the same on every replica.
    """
    moments = tf.stack(tf.nn.moments(images, (0, 1, 2)))
    if num_replicas() > 1:
        context = tf.distribute.get_replica_context()
        # Each replica adds a row of its own to zeros: a gather that every collective library has.
        row = tf.one_hot(context.replica_id_in_sync_group, num_replicas())
        moments = context.all_reduce("SUM", row[:, None, None] * moments)
    else:
        moments = moments[None]
    means, variances = moments[:, 0], moments[:, 1]
    mean = tf.reduce_mean(means, axis=0)
    return mean, tf.reduce_mean(variances + tf.square(means - mean), axis=0)


def num_replicas():
    """How many replicas compute this together; 1 outside of `strategy.run`."""
    context = tf.distribute.get_replica_context()
    return 1 if context is None else context.num_replicas_in_sync
