"""Momentum as TensorFlow 1 had it."""

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="margin_centre_face")
class MomentumSGD(keras.optimizers.SGD):
    """Stochastic gradient descent with `v = momentum * v + g; w -= learning_rate * v`.

    Keras puts the learning rate into the velocity, so that a drop of the rate acts on new
    gradients only; here, as in the original, it scales the whole velocity (row 30 of
    docs/fidelity.md). The two agree while the rate is constant.

    Of a `tf.IndexedSlices`, which must hold every row once, only its rows of variable and velocity
    change: the others' velocities neither act nor fade, as in Partial FC.

    References:
    - `tf.compat.v1.train.MomentumOptimizer`
    - `arcface_torch/partial_fc_v2.py::PartialFC_V2`, for the rows

    Args:
        learning_rate: float or `keras.optimizers.schedules.LearningRateSchedule`.
        momentum: float in `(0, 1]`. Defaults to `0.9`.
        **kwargs: of `keras.optimizers.SGD`.

    Raises:
        ValueError: Nesterov momentum, which the original does not have, or `momentum` out of range.
    """

    def __init__(self, learning_rate=0.001, momentum=0.9, **kwargs):
        super().__init__(learning_rate, momentum=momentum, **kwargs)
        if self.nesterov or not momentum:
            raise ValueError(f"expected momentum > 0 without Nesterov, received {momentum}, {self.nesterov}")

    def update_step(self, gradient, variable, learning_rate):
        """Updates one variable; called by Keras."""
        velocity = self.momentums[self._get_variable_index(variable)]
        if isinstance(gradient, tf.IndexedSlices):
            self._update_rows(gradient, variable, velocity, tf.cast(learning_rate, variable.dtype))
            return
        # TensorFlow 1's own kernel: both lines in one pass over the weights, in place.
        tf.raw_ops.ResourceApplyMomentum(
            var=variable.handle,
            accum=velocity.value.handle,
            lr=tf.cast(learning_rate, variable.dtype),
            grad=tf.cast(gradient, variable.dtype),
            momentum=tf.constant(self.momentum, variable.dtype),
        )

    def _update_rows(self, gradient, variable, velocity, learning_rate):
        rows = gradient.indices
        values = self.momentum * tf.gather(velocity.value, rows) + gradient.values
        self.assign(velocity, tf.IndexedSlices(values, rows))
        self.assign_sub(variable, tf.IndexedSlices(learning_rate * values, rows))
