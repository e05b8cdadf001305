"""A moving average of the weights."""

from __future__ import annotations

import keras
import tensorflow as tf


class WeightAverage:
    """A second net, whose weights are the moving average of the trained net's weights.

    After step `t`, counted from 1, `average += (1 - d) * (weights - average)` with
    `d = min(decay, (1 + t) / (10 + t))`. The smaller `d` of the first steps keeps the random initial weights
    out of the average.

    All floating-point variables are averaged, also the statistics of batch normalisation: the last statistics
    belong to the last weights and to few batches (`momentum` 0.9), not to the mean of the weights of
    thousands of steps. Counters, such as those of dropout, stay as they are.

    The average is a net of its own on one device, so scoring it cannot change the net that is trained.
    Weights are the same on all replicas; statistics are read as the mean over the replicas.

    References:
        - `tf.train.ExponentialMovingAverage`, for the rise of the decay
        - [EfficientNet](https://arxiv.org/abs/1905.11946), the authors' `utils.py::get_ema_vars`, which also
          averages the statistics

    Args:
        backbone: the average starts with its weights.
        decay: in `(0, 1)`.

    Attributes:
        net: the averaged net, of the same class as the backbone. Checkpoints store it.
    """

    def __init__(self, backbone: keras.Model, decay: float):
        self.decay = decay
        self.net = type(backbone).from_config(backbone.get_config())
        self.net.set_weights(backbone.get_weights())
        pairs = zip(self.net.variables, backbone.variables, strict=True)
        self._pairs = [(to.value, of.value) for to, of in pairs if to.value.dtype.is_floating]
        self._update = tf.function(self._move)

    def update(self, step: int | keras.Variable) -> None:
        """Moves the average towards the weights after `step` steps, the newest included."""
        self._update(tf.cast(tf.convert_to_tensor(step), tf.float32))

    def _move(self, step):
        decay = tf.minimum(self.decay, (1.0 + step) / (10.0 + step))
        for average, weights in self._pairs:
            average.assign_add((1.0 - decay) * (tf.convert_to_tensor(weights) - average))
