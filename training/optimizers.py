"""Makes the optimizer that flags ask for, and computes momentum as TensorFlow 1 does."""

from typing import Any

import keras
import tensorflow as tf

from training.options import OptimizerOptions

LearningRate = float | keras.optimizers.schedules.LearningRateSchedule


def make_optimizer(options: OptimizerOptions, learning_rate: LearningRate) -> keras.optimizers.Optimizer:
    """Makes the optimizer. Call it in the strategy's scope.

    The optimizer's `weight_decay` is `None` if the decay belongs to the loss, as with SGD.

    References:
        - [AdamW](https://arxiv.org/abs/1711.05101)
        - [LAMB](https://arxiv.org/abs/1904.00962); Keras leaves its decay out of the trust ratio and scales
          it by the rate alone, as in AdamW
    """
    if options.optimizer == "sgd":
        return MomentumSGD(learning_rate, options.momentum)
    make: Any = keras.optimizers.AdamW if options.optimizer == "adamw" else keras.optimizers.Lamb
    return make(
        learning_rate,
        beta_1=options.momentum,
        beta_2=0.999,
        epsilon=1e-8 if options.optimizer == "adamw" else 1e-6,  # as in the papers; Keras uses 1e-7
        weight_decay=options.weight_decay,
    )


def decay_in_loss(
    optimizer: keras.optimizers.Optimizer,
    weight_decay: float,
    variables: list[keras.Variable],
    decayed_variables: list[keras.Variable],
) -> float:
    """Returns the weight of the decay in the loss: 0 if the optimizer decays the weights itself.

    It also tells such an optimizer which variables do not decay.

    Args:
        optimizer: not built yet.
        weight_decay: strength of the decay, at least 0.
        variables: all variables that are trained.
        decayed_variables: the variables that have weight decay.
    """
    if optimizer.weight_decay is None:
        return weight_decay
    decayed = {id(variable) for variable in decayed_variables}
    kept = [variable for variable in variables if id(variable) not in decayed]
    optimizer.exclude_from_weight_decay(var_list=kept)
    return 0.0


def update(
    optimizer: keras.optimizers.Optimizer,
    variables: list[keras.Variable],
    gradients: list[tf.Tensor | tf.IndexedSlices],
) -> None:
    """Applies gradients that are summed over the replicas. Call it on each replica.

    Every replica updates its own copy of the variables. Keras's `apply_gradients` would sum the gradients
    again, and would leave the replica context for the update, which compiled code cannot do.

    Args:
        optimizer: built optimizer. Its step is not counted; see `count_step`.
        variables: variables that the optimizer was built with.
        gradients: one for each variable.
    """
    learning_rate: Any = optimizer.learning_rate
    for variable, gradient in zip(variables, gradients, strict=True):
        # Keras has no public way to ask which variables are excluded from the decay.
        if optimizer.weight_decay is not None and optimizer._use_weight_decay(variable):
            value = tf.convert_to_tensor(variable)
            variable.value.assign_sub(value * optimizer.weight_decay * learning_rate)
        optimizer.update_step(gradient, variable, learning_rate)


def count_step(optimizer: keras.optimizers.Optimizer) -> None:
    """Counts a step of the optimizer. Call it on each replica: each has its own copy of `iterations`."""
    iterations: Any = optimizer.iterations  # missing in Keras's type stubs
    tf.raw_ops.AssignAddVariableOp(
        resource=iterations.value.handle, value=tf.ones([], iterations.value.dtype)
    )


@keras.saving.register_keras_serializable(package="margin_centre_face")
class MomentumSGD(keras.optimizers.SGD):
    """Stochastic gradient descent with `v = momentum * v + g; w -= learning_rate * v`.

    Keras multiplies the gradient by the learning rate before it enters the velocity, so a lower rate only
    affects new gradients. Here, as in the original, the rate scales the whole velocity (row 30 of
    docs/fidelity.md). Both agree while the rate is constant.

    A gradient may be a `tf.IndexedSlices` that holds every row once. Then only these rows of variable and
    velocity change, as in Partial FC.

    References:
        - `tf.compat.v1.train.MomentumOptimizer`
        - `arcface_torch/partial_fc_v2.py::PartialFC_V2`, for the rows

    Args:
        learning_rate: a number or a schedule.
        momentum: in `(0, 1]`.
        **kwargs: arguments of `keras.optimizers.SGD`, except Nesterov momentum: the original has none.
    """

    def __init__(self, learning_rate: Any = 0.001, momentum: float = 0.9, **kwargs: Any):
        super().__init__(learning_rate, momentum=momentum, **kwargs)
        if self.nesterov or not momentum:
            raise ValueError(f"expected momentum > 0 without Nesterov, received {momentum}, {self.nesterov}")

    def update_step(self, gradient, variable, learning_rate):
        """Updates one variable; called by Keras."""
        # Keras has no public way from a variable to its velocity. The tests of the trainer fail if this
        # changes.
        velocity = self.momentums[self._get_variable_index(variable)]
        if isinstance(gradient, tf.IndexedSlices):
            self._update_rows(gradient, variable, velocity, tf.cast(learning_rate, variable.dtype))
            return
        apply_momentum(variable, velocity.value, gradient, learning_rate, self.momentum)

    def _update_rows(self, gradient, variable, velocity, learning_rate):
        rows = gradient.indices
        values = self.momentum * tf.gather(velocity.value, rows) + gradient.values
        self.assign(velocity, tf.IndexedSlices(values, rows))
        self.assign_sub(variable, tf.IndexedSlices(learning_rate * values, rows))


def apply_momentum(
    variable: tf.Variable,
    velocity: tf.Variable,
    gradient: tf.Tensor,
    learning_rate: float | tf.Tensor,
    momentum: float,
) -> None:
    """Computes `v = momentum * v + g; w -= learning_rate * v` in place, with TensorFlow 1's own kernel."""
    tf.raw_ops.ResourceApplyMomentum(
        var=variable.handle,
        accum=velocity.handle,
        lr=tf.cast(learning_rate, variable.dtype),
        grad=tf.cast(gradient, variable.dtype),
        momentum=tf.constant(momentum, variable.dtype),
    )
