"""Embeddings that follow those of a teacher."""

from typing import Any

import keras
import tensorflow as tf

from .loss_layer import LossLayer, require


@keras.saving.register_keras_serializable(package="margin_centre_face")
class DistillationLoss(LossLayer):
    """Turns each embedding towards the embedding that a teacher, another net, gives to the same image.

    With `x` an embedding, `t` that of the teacher, and `W` a trainable matrix, the loss of one sample is

        weight * (1 - cos(W x, t))

    `W` exists only where the sizes of the embeddings differ. It belongs to the loss: the net is used
    without it. A sample whose `t` is 0 has no gradient.

    It needs no labels: call it as `layer(embeddings, targets)`.

    References: [Distilling the Knowledge](https://arxiv.org/abs/1503.02531), for the idea

    Args:
        weight: factor of the loss, greater than 0.
        seed: seed of the initial `W`.
        **kwargs: arguments of `keras.layers.Layer`.

    Call arguments:
        embeddings: float, shape `(batch, dim)`.
        targets: float, shape `(batch, teacher_dim)`, of any length.

    Returns:
        float32 terms of shape `(batch,)`: `loss`; `teacher_cosine`, the cosine above.

    Example:

    >>> terms = DistillationLoss()(np.ones((4, 8), "float32"), np.ones((4, 8), "float32"))
    >>> terms["teacher_cosine"].shape
    TensorShape([4])
    """

    def __init__(self, weight: float = 10.0, *, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        require(weight > 0, "weight", "a number > 0", weight)
        self.weight = weight
        self.seed = seed
        self.map: Any = None

    def build(self, embeddings_shape: tuple, targets_shape: tuple) -> None:
        shape = (embeddings_shape[-1], targets_shape[-1])
        if shape[0] != shape[1]:
            initializer: Any = keras.initializers.GlorotNormal(self.seed)
            self.map = self.add_weight(shape, initializer, dtype="float32", autocast=False, name="map")

    def call(self, embeddings: Any, targets: Any) -> dict[str, tf.Tensor]:
        embeddings = tf.cast(embeddings, tf.float32)
        targets = tf.stop_gradient(tf.cast(targets, tf.float32))
        if self.map is not None:
            embeddings = tf.matmul(embeddings, tf.convert_to_tensor(self.map))
        directions = (tf.math.l2_normalize(values, axis=1) for values in (embeddings, targets))
        cosine = tf.reduce_sum(tf.multiply(*directions), axis=1)
        return self.with_loss(loss=self.weight * (1.0 - cosine), teacher_cosine=cosine)
