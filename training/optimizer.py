"""Momentum as TensorFlow 1 had it."""

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="margin_centre_face")
class MomentumSGD(keras.optimizers.SGD):
    """Stochastic gradient descent with `v = momentum * v + g; w -= learning_rate * v`.

    Keras puts the learning rate into the velocity, so that a drop of the rate acts on new
    gradients only; here, as in the original, it scales the whole velocity (row 30 of
    docs/fidelity.md). The two agree while the rate is constant.

    References:
    - `tf.compat.v1.train.MomentumOptimizer`

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
        self.assign(velocity, self.momentum * tf.convert_to_tensor(velocity) + gradient)
        self.assign_sub(variable, tf.cast(learning_rate, variable.dtype) * tf.convert_to_tensor(velocity))
