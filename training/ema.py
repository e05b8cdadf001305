"""A moving average of the weights."""

from __future__ import annotations

import functools

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

    The average is a net of its own, so scoring it cannot change the net that is trained. Every replica keeps
    the average of its own variables, so nothing travels between devices: weights are the same on all
    replicas, and the statistics of an average are read as the mean over the replicas, as the net's are.

    References:
        - `tf.train.ExponentialMovingAverage`, for the rise of the decay
        - [EfficientNet](https://arxiv.org/abs/1905.11946), the authors' `utils.py::get_ema_vars`, which also
          averages the statistics

    Args:
        strategy: that of the backbone.
        backbone: the average starts with its weights.
        decay: in `(0, 1)`.

    Attributes:
        net: the averaged net, of the same class as the backbone. Checkpoints store it.
    """

    def __init__(self, strategy: tf.distribute.Strategy, backbone: keras.Model, decay: float):
        self.decay = decay
        with strategy.scope():
            self.net = type(backbone).from_config(backbone.get_config())
            self.net.set_weights(backbone.get_weights())
        pairs = zip(self.net.variables, backbone.variables, strict=True)
        pairs = [(to.value, of.value) for to, of in pairs if to.value.dtype.is_floating]
        local = strategy.experimental_local_results  # the variables of each replica of this process
        of_pairs = [zip(local(average), local(weights), strict=True) for average, weights in pairs]
        # XLA makes one operation of many small ones, whose starts take longer on a GPU than their work.
        compiles = bool(tf.config.list_logical_devices("GPU"))
        self._moves = [
            tf.function(functools.partial(self._move, of_replica), jit_compile=compiles)
            for of_replica in zip(*of_pairs, strict=True)
        ]
        self._devices = [average.device for average in local(pairs[0][0])]
        self._local = local

    def update(self, step: int | keras.Variable) -> None:
        """Moves the average towards the weights after `step` steps, the newest included."""
        steps = self._local(step.value) if isinstance(step, keras.Variable) else [step] * len(self._moves)
        for device, move, own_step in zip(self._devices, self._moves, steps, strict=True):
            with tf.device(device):
                move(tf.cast(own_step, tf.float32))

    def _move(self, pairs, step):
        decay = tf.minimum(self.decay, (1.0 + step) / (10.0 + step))
        for average, weights in pairs:
            average.assign_add((1.0 - decay) * (tf.convert_to_tensor(weights) - average))
