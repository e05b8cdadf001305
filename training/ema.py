"""A moving average of the weights."""

import tensorflow as tf


class WeightAverage:
    """A second net whose weights are the moving average of those that are trained.

    After step `t` (from 1) `average += (1 - d) * (weights - average)` with
    `d = min(decay, (1 + t) / (10 + t))`: a run's first averages are not those of its random start.

    All floating-point variables are averaged, the statistics of batch normalisation with the others:
    the last statistics belong to the last weights and to few batches (`momentum` 0.9), not to weights
    that are the mean of thousands of steps. What is no number (counters of dropout) is left alone.

    It is a net of its own, on one device: scoring it cannot touch the one that is trained. Replicas
    are read as everyone reads them: weights are the same on all, statistics are averaged over them.

    References:
    - `tf.train.ExponentialMovingAverage`, for the rise of the decay
    - [EfficientNet](https://arxiv.org/abs/1905.11946), the authors' `utils.py::get_ema_vars`, which averages
      the statistics, too

    Args:
        backbone: `keras.Model`; its weights are where the average starts.
        decay: float in `(0, 1)`.

    Attributes:
        net: the averaged net, of the same class. It is what a checkpoint has to hold.

    Raises:
        ValueError: `decay` is out of range.
    """

    def __init__(self, backbone, decay):
        if not 0 < decay < 1:
            raise ValueError(f"--ema: expected a decay in (0, 1), received {decay}")
        self.decay = decay
        self.net = type(backbone).from_config(backbone.get_config())
        self.net.set_weights(backbone.get_weights())
        pairs = zip(self.net.variables, backbone.variables, strict=True)
        self._pairs = [(to.value, of.value) for to, of in pairs if to.value.dtype.is_floating]
        self._update = tf.function(self._move)

    def update(self, step):
        """Moves the average towards the weights.

        Args:
            step: int or int variable, steps done, this one included.
        """
        self._update(tf.cast(tf.convert_to_tensor(step), tf.float32))

    def _move(self, step):
        decay = tf.minimum(self.decay, (1.0 + step) / (10.0 + step))
        for average, weights in self._pairs:
            average.assign_add((1.0 - decay) * (tf.convert_to_tensor(weights) - average))
