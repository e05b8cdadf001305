"""AdaFace: a margin that adapts to the quality of the image."""

import math
from typing import Any

import keras
import tensorflow as tf

from .cosines import angle
from .loss_layer import require
from .margin_softmax import MarginSoftmaxLoss
from .replicas import global_batch

# `eps` and the range of norms in the authors' code, head.py::AdaFace.
EPSILON = 1e-3
NORM_RANGE = (1e-3, 100.0)


@keras.saving.register_keras_serializable(package="margin_centre_face")
class AdaFaceLoss(MarginSoftmaxLoss):
    """Separates identities by a margin that depends on the length of the embedding.

    Images of high quality give long embeddings. The loss stresses hard samples among long embeddings and easy
    samples among short ones. Do not normalise the embeddings before you pass them.

    This is a `MarginSoftmaxLoss`. Let `theta` be the angle between an embedding and its own centre, `|x|` the
    length of the embedding, clipped to `[0.001, 100]`, and `mean` and `std` the moving statistics of the
    lengths. The target is

        z = clip(concentration * (|x| - mean) / (std + 0.001), -1, 1)
        cos(theta - margin * z) - margin * z - margin

    The shifted angle is clipped to `[0.001, pi - 0.001]`. No gradient flows through `z`. A training step
    moves the statistics towards those of the global batch before it uses them.

    References: [AdaFace](https://arxiv.org/abs/2204.00964), and the authors' code, `head.py::AdaFace`

    Args:
        num_identities: number of identities, at least 1.
        margin: radians in `[0, pi)`.
        scale: factor of the cosines before the softmax, greater than 0.
        concentration: `h` in the paper, greater than 0.
        momentum: share of the old statistics that a step keeps, in `[0, 1)`.
        **kwargs: arguments of `CentreLayer`. An `AdaFaceLoss` cannot be sharded.

    Call arguments:
        embeddings, identities, margin: see `LossLayer`.
        training: whether to update the statistics. Defaults to `True`.

    Returns:
        The terms of `MarginSoftmaxLoss`, and `norm`: the length of the embedding, not clipped.
    """

    compares_replicas = True  # for the statistics of the global batch

    def __init__(
        self,
        num_identities: int,
        margin: float = 0.4,
        scale: float = 64.0,
        concentration: float = 0.333,
        momentum: float = 0.99,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_identities, margin, scale, **kwargs)
        require(concentration > 0, "concentration", "a number > 0", concentration)
        require(0 <= momentum < 1, "momentum", "a number in [0, 1)", momentum)
        self.concentration = concentration
        self.momentum = momentum
        # All replicas compute the statistics of the global batch, so they write the same value.
        statistic: dict[str, Any] = {"trainable": False, "aggregation": "only_first_replica"}
        statistic |= {"shape": (), "dtype": "float32", "autocast": False}
        # The initial values are those of the authors' code.
        mean, std = keras.initializers.Constant(20.0), keras.initializers.Constant(100.0)
        self.norm_mean = self.add_weight(initializer=mean, name="norm_mean", **statistic)
        self.norm_std = self.add_weight(initializer=std, name="norm_std", **statistic)

    def call(
        self, embeddings: Any, identities: Any, margin: Any = None, training: bool = True
    ) -> dict[str, tf.Tensor]:
        if training:
            norm = self.norm(tf.cast(embeddings, tf.float32))
            self._update_statistics(global_batch(tf.clip_by_value(norm, *NORM_RANGE)))
        return super().call(embeddings, identities, margin)

    def norm(self, embeddings: tf.Tensor) -> tf.Tensor:
        return tf.norm(tf.stop_gradient(embeddings), axis=1)

    def target(self, cosine: tf.Tensor, margin: tf.Tensor, norm: tf.Tensor) -> tf.Tensor:
        excess = tf.clip_by_value(norm, *NORM_RANGE) - tf.convert_to_tensor(self.norm_mean)
        std = tf.convert_to_tensor(self.norm_std)
        scaler = tf.clip_by_value(self.concentration * excess / (std + EPSILON), -1.0, 1.0)
        shifted = tf.clip_by_value(angle(cosine) - margin * scaler, EPSILON, math.pi - EPSILON)
        return tf.cos(shifted) - margin * scaler - margin

    def _update_statistics(self, norms):
        mean = tf.reduce_mean(norms)
        # Unbiased, as in the authors' code; there the deviation of a single embedding is NaN, here it is 0.
        degrees = tf.maximum(tf.cast(tf.size(norms), tf.float32) - 1.0, 1.0)
        std = tf.sqrt(tf.reduce_sum(tf.square(norms - mean)) / degrees)
        for statistic, value in ((self.norm_mean, mean), (self.norm_std, std)):
            old = tf.convert_to_tensor(statistic)
            statistic.value.assign(self.momentum * old + (1.0 - self.momentum) * value)
