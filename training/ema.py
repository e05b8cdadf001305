"""Averages the weights of a net over the steps (`--ema`)."""

from __future__ import annotations

import functools

import keras
import tensorflow as tf


class WeightAverage:
    """A second net, whose weights are the moving average of the trained net's weights.

    After step `t`, counted from 1, `average += (1 - d) * (weights - average)` with
    `d = min(decay, (1 + t) / (10 + t))`. The smaller `d` of the first steps keeps the random initial weights
    out of the average.

    All floating-point variables are averaged, including the statistics of batch normalisation. Those
    of the last step would not fit: they come from few batches (`momentum` 0.9) and belong to the last
    weights, not to the average over thousands of steps. Counters, such as those of dropout, are not averaged.

    The average is a separate net, so scoring it cannot change the net that is trained. Every replica averages
    its own variables, so nothing travels between devices. Weights are equal on all replicas. The statistics
    are read as the mean over the replicas, like those of the trained net.

    References:
        - `tf.train.ExponentialMovingAverage`, for the rise of the decay
        - [EfficientNet](https://arxiv.org/abs/1905.11946), the authors' `utils.py::get_ema_vars`, which also
          averages the statistics

    Args:
        strategy: the strategy in whose scope the backbone was made.
        backbone: the net that is trained. The average starts with its weights.
        decay: share of the average that a step keeps, in `(0, 1)`.

    Attributes:
        net: the averaged net, of the same class as the backbone. Checkpoints store it.
    """

    def __init__(self, strategy: tf.distribute.Strategy, backbone: keras.Model, decay: float):
        self.decay = decay
        with strategy.scope():
            self.net = type(backbone).from_config(backbone.get_config())
            self.net.set_weights(backbone.get_weights())
        pairs = zip(self.net.variables, backbone.variables, strict=True)
        pairs = [(to.value, source.value) for to, source in pairs if to.value.dtype.is_floating]
        local = strategy.experimental_local_results  # the variables of each replica of this process
        replica_pairs = [zip(local(average), local(weights), strict=True) for average, weights in pairs]
        # On a GPU it takes longer to start these many small operations than to run them. XLA joins them.
        compiles = bool(tf.config.list_logical_devices("GPU"))
        self._moves = [
            tf.function(functools.partial(self._move, pairs_of_replica), jit_compile=compiles)
            for pairs_of_replica in zip(*replica_pairs, strict=True)
        ]
        self._devices = [average.device for average in local(pairs[0][0])]
        self._local = local

    def update(self, step: int | keras.Variable) -> None:
        """Moves the average towards the weights.

        Args:
            step: number of steps done, including the newest.
        """
        steps = self._local(step.value) if isinstance(step, keras.Variable) else [step] * len(self._moves)
        for device, move, own_step in zip(self._devices, self._moves, steps, strict=True):
            with tf.device(device):
                move(tf.cast(own_step, tf.float32))

    def _move(self, pairs, step):
        decay = tf.minimum(self.decay, (1.0 + step) / (10.0 + step))
        for average, weights in pairs:
            average.assign_add((1.0 - decay) * (tf.convert_to_tensor(weights) - average))
