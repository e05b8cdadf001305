"""Distillation: embeddings that learn those of a teacher."""

from typing import Any

import keras
import tensorflow as tf

from .distance_loss import pairwise_distances
from .loss_layer import LossLayer, require
from .products import product
from .replicas import global_batch, own_share


@keras.saving.register_keras_serializable(package="margin_centre_face")
class DistillationLoss(LossLayer):
    """Turns each embedding towards the one that another net, the teacher, computes from the same image.

    The loss needs no labels: call it as `layer(embeddings, targets)`. With `x` an embedding, `t` the
    teacher's embedding and `W` a trainable matrix, the loss of one sample is

        weight * (1 - cos(W x, t)) + relation_weight * mean over j of huber(d(x, x_j) - d(t, t_j))

    where `j` runs over the other samples of the global batch, and `d` is the distance of two unit vectors,
    divided by the mean distance in the global batch. `huber(e)` is `e^2 / 2` for `|e| <= 1`, and `|e| - 1/2`
    otherwise.

    `W` exists only if the embeddings differ in size. It belongs to the loss, and the trained net does not
    need it. A sample with `t = 0` gets no gradient from the cosine.

    References: [Distilling the Knowledge](https://arxiv.org/abs/1503.02531), for the idea;
    [Relational Knowledge Distillation](https://arxiv.org/abs/1904.05068), for the distances

    Args:
        weight: factor of the first part, greater than 0.
        relation_weight: factor of the second part, at least 0. Above 0, the loss compares the samples of the
            whole global batch.
        seed: seed of the initial `W`.
        **kwargs: arguments of `keras.layers.Layer`.

    Call arguments:
        embeddings: float, shape `(batch, dim)`. They need not have unit length.
        targets: the teacher's embeddings, float, shape `(batch, teacher_dim)`. They need not have unit
            length.

    Returns:
        dict of float32 tensors of shape `(batch,)`.

        - `loss`
        - `teacher_cosine`: the cosine above
        - `teacher_relation`: the mean above, if `relation_weight > 0`

    Raises:
        ValueError: an argument is out of range.

    Example:

    >>> import numpy as np
    >>> from losses import DistillationLoss
    >>> terms = DistillationLoss()(np.ones((4, 8), "float32"), np.ones((4, 16), "float32"))
    >>> terms["teacher_cosine"].shape
    TensorShape([4])
    """

    def __init__(
        self, weight: float = 10.0, relation_weight: float = 0.0, *, seed: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        require(weight > 0, "weight", "a number > 0", weight)
        require(relation_weight >= 0, "relation_weight", "a number >= 0", relation_weight)
        self.weight = weight
        self.relation_weight = relation_weight
        self.seed = seed
        self.map: Any = None

    @property
    def needs_whole_batch(self) -> bool:
        """True if the loss compares the samples of a batch. It then needs all of them at once."""
        return self.relation_weight > 0

    @property
    def compares_replicas(self) -> bool:
        """True if a replica needs the embeddings of other replicas."""
        return self.needs_whole_batch

    def build(self, embeddings_shape: tuple, targets_shape: tuple) -> None:
        shape = (embeddings_shape[-1], targets_shape[-1])
        if shape[0] != shape[1]:
            initializer: Any = keras.initializers.GlorotNormal(self.seed)
            self.map = self.add_weight(shape, initializer, dtype="float32", autocast=False, name="map")

    def call(self, embeddings: Any, targets: Any) -> dict[str, tf.Tensor]:
        embeddings = tf.cast(embeddings, tf.float32)
        targets = tf.stop_gradient(tf.cast(targets, tf.float32))
        mapped = embeddings
        if self.map is not None:
            mapped = product(embeddings, tf.convert_to_tensor(self.map))
        targets = tf.math.l2_normalize(targets, axis=1)
        cosine = tf.reduce_sum(tf.math.l2_normalize(mapped, axis=1) * targets, axis=1)
        loss = self.weight * (1.0 - cosine)
        if not self.relation_weight:
            return self.with_loss(loss=loss, teacher_cosine=cosine)
        relation = _relation(tf.math.l2_normalize(embeddings, axis=1), targets)
        loss += self.relation_weight * relation
        return self.with_loss(loss=loss, teacher_cosine=cosine, teacher_relation=relation)


def _relation(*directions: tf.Tensor) -> tf.Tensor:
    """Returns each sample's mean Huber loss over its distances to the other samples: `(batch,)`."""
    distances = [pairwise_distances(global_batch(values)) for values in directions]
    num_samples = tf.shape(distances[0])[0]
    num_others = tf.cast(tf.maximum(num_samples - 1, 1), tf.float32)
    num_pairs = tf.cast(num_samples, tf.float32) * num_others
    ours, theirs = (tf.math.divide_no_nan(d, tf.reduce_sum(d) / num_pairs) for d in distances)
    error = tf.abs(ours - theirs)
    huber = tf.where(error <= 1.0, 0.5 * error**2, error - 0.5)
    return own_share(tf.reduce_sum(huber, axis=1) / num_others)
