"""Centres that devices share out among themselves."""

import tensorflow as tf

from .replicas import global_batch


class Shards:
    """A matrix in columns, of which every device holds as many as another, the last one's padded with 0.

    Plain variables, one per device: those of a strategy would be mirrored. So it is made outside of the
    strategy's scope.

    Args:
        columns: float32, shape `(dim, num_columns)`.
        devices: list of str, one per replica.
    """

    def __init__(self, columns, devices):
        self.shape = tuple(columns.shape)
        self.width = -(-self.shape[1] // len(devices))
        self.variables = []
        for device, part in zip(devices, self._split(columns, len(devices)), strict=True):
            with tf.device(device):
                self.variables.append(tf.Variable(part))

    def _split(self, columns, num_devices):
        padding = self.width * num_devices - self.shape[1]
        return tf.split(tf.pad(columns, [[0, 0], [0, padding]]), num_devices, axis=1)

    def own(self):
        """The variable of this replica; called in replica context."""
        return self.variables[_replica()]

    def joined(self):
        """All columns, without the padding: float32 `(dim, num_columns)`."""
        return tf.concat(self.variables, 1)[:, : self.shape[1]]

    def assign(self, columns):
        """Sets all columns."""
        for variable, part in zip(self.variables, self._split(columns, len(self.variables)), strict=True):
            variable.assign(part)


class ShardedCosines:
    """Cosines of the global batch to the centres of this replica.

    Args:
        cosines: float32, shape `(global_batch, width)`.
        shards: `Shards` of the centres.
    """

    def __init__(self, cosines, shards):
        self._cosines = cosines
        first = _replica() * shards.width
        self._first, self._width = first, shards.width
        self._is_centre = first + tf.range(shards.width) < shards.shape[1]

    def own_entries(self, identities):
        """Each sample's cosine to its own centre, whoever holds it: `(global_batch,)`."""
        return _sum_of_replicas(tf.reduce_sum(tf.where(self._is_own(identities), self._cosines, 0.0), axis=1))

    def margin_softmax(self, cosine, target, identities, scale):
        """Cross-entropy, accuracy and margin accuracy as of `losses.cosines.margin_softmax`."""
        is_own = self._is_own(identities)
        # Exponentials of padding are 0, and so are their gradients.
        cosines = tf.where(self._is_centre, self._cosines, tf.float32.min)
        logits = tf.where(
            self._is_centre, scale * tf.where(is_own, target[:, None], self._cosines), tf.float32.min
        )
        highest = self._highest(logits)
        exponentials = tf.reduce_sum(tf.exp(logits - highest[:, None]), axis=1)
        own = scale * target
        cross_entropy = tf.math.log(_sum_of_replicas(exponentials)) + highest - own
        return (
            cross_entropy,
            tf.cast(cosine >= self._highest(cosines), tf.float32),
            tf.cast(own >= highest, tf.float32),
        )

    def _is_own(self, identities):
        return identities[:, None] == self._first + tf.range(self._width)

    def _highest(self, values):
        # Replicas can be summed but not compared, so all see all maxima.
        highest = tf.stop_gradient(tf.reduce_max(values, axis=1))
        return tf.reduce_max(tf.reshape(global_batch(highest), (-1, tf.size(highest))), axis=0)


def _replica():
    context = tf.distribute.get_replica_context()
    number = context.replica_id_in_sync_group
    return number if isinstance(number, int) else int(tf.get_static_value(number))


def _sum_of_replicas(values):
    context = tf.distribute.get_replica_context()
    # Differentiable: each replica's gradient is the sum of all replicas' gradients of the sum.
    return values if context.num_replicas_in_sync == 1 else context.all_reduce("SUM", values)
