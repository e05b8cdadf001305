"""Splits centres between devices."""

from typing import Any

import tensorflow as tf

from .replicas import global_batch, replica_number


class Shards:
    """A float32 matrix whose columns are split evenly between devices.

    Each device holds one plain variable. Variables that are created in a strategy's scope are mirrored, so
    create `Shards` outside of it.

    Args:
        columns: the matrix, float32 `(dim, num_columns)`.
        devices: names of the devices, one per replica.

    Attributes:
        shape: `(dim, num_columns)`.
        width: number of columns of each shard. The last shards are padded with 0.
        variables: the shards, each `(dim, width)`.
    """

    def __init__(self, columns: tf.Tensor, devices: list[str]) -> None:
        self.shape = tuple(columns.shape)
        self.width = -(-self.shape[1] // len(devices))
        self.variables = []
        for device, part in zip(devices, self._split(columns, len(devices)), strict=True):
            with tf.device(device):
                self.variables.append(tf.Variable(part))

    def _split(self, columns, num_devices):
        padding = self.width * num_devices - self.shape[1]
        return tf.split(tf.pad(columns, [[0, 0], [0, padding]]), num_devices, axis=1)

    def own(self) -> tf.Variable:
        """Returns the shard of this replica. Call it in replica context."""
        return self.variables[replica_number()]

    def joined(self) -> tf.Tensor:
        """Returns all columns, without the padding: float32 `(dim, num_columns)`."""
        return tf.concat(self.variables, 1)[:, : self.shape[1]]

    def assign(self, columns: Any) -> None:
        """Sets all columns from an array of shape `(dim, num_columns)`."""
        for variable, part in zip(self.variables, self._split(columns, len(self.variables)), strict=True):
            variable.assign(part)


class ShardedCosines:
    """The cosines of the global batch to the centres of this replica.

    Args:
        cosines: float32 `(global_batch, width)`.
        shards: the centres.
    """

    def __init__(self, cosines: tf.Tensor, shards: Shards) -> None:
        self._cosines = cosines
        self._columns = replica_number() * shards.width + tf.range(shards.width, dtype=tf.int64)
        self._is_centre = self._columns < shards.shape[1]

    def own_entries(self, identities: tf.Tensor) -> tf.Tensor:
        """Returns each sample's cosine to its own centre, which any replica may hold: `(global_batch,)`."""
        return _sum_of_replicas(tf.reduce_sum(tf.where(self._is_own(identities), self._cosines, 0.0), axis=1))

    def margin_softmax(
        self, cosine: tf.Tensor, target: tf.Tensor, identities: tf.Tensor, scale: float
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Computes terms of `MarginSoftmaxLoss`: cross-entropy, accuracy and margin accuracy.

        Returns three tensors of shape `(global_batch,)`.

        Args:
            cosine: cosine to the own centre, `(global_batch,)`.
            target: the value that replaces it, `(global_batch,)`.
            identities: int64 `(global_batch,)`.
            scale: factor of the cosines.
        """
        is_own = self._is_own(identities)
        # This makes the exponentials of the padding 0, and their gradients, too.
        cosines = tf.where(self._is_centre, self._cosines, tf.float32.min)
        logits = scale * tf.where(is_own, target[:, None], self._cosines)
        logits = tf.where(self._is_centre, logits, tf.float32.min)
        highest = self._highest(logits)
        exponentials = tf.reduce_sum(tf.exp(logits - highest[:, None]), axis=1)
        own = scale * target
        return (
            tf.math.log(_sum_of_replicas(exponentials)) + highest - own,
            tf.cast(cosine >= self._highest(cosines), tf.float32),
            tf.cast(own >= highest, tf.float32),
        )

    def _is_own(self, identities):
        return identities[:, None] == self._columns

    def _highest(self, values):
        # TensorFlow can sum over replicas but cannot take a maximum, so each replica gathers all maxima.
        highest = tf.stop_gradient(tf.reduce_max(values, axis=1))
        return tf.reduce_max(tf.reshape(global_batch(highest), (-1, tf.size(highest))), axis=0)


def _sum_of_replicas(values):
    context = tf.distribute.get_replica_context()
    # The gradient on each replica is the sum of all replicas' gradients.
    return values if context.num_replicas_in_sync == 1 else context.all_reduce("SUM", values)
