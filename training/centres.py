"""Three ways to train the centres of a head: all rows, a sample of rows, or shards.

A step computes gradients (`sources`, `to_dense`), sums them over the replicas, adds the decay (`add_decay`),
clips them and updates the weights (`for_optimizer`). Between these calls, a list holds all gradients as dense
tensors, and the dict `extra` holds anything else that the centres need.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from losses.checkpoint_layout import save_as, save_transposed
from losses.shards import Shards
from training.optimizers import MomentumSGD, apply_momentum

Gradients = list[tf.Tensor]
Extra = dict[str, tf.Tensor]


def make_centres(
    head: keras.layers.Layer,
    optimizer: keras.optimizers.Optimizer,
    variables: list[keras.Variable],
    decayed_variables: list[keras.Variable],
    weight_decay: float,
) -> WholeCentres:
    """Makes the object that trains the centres of a head.

    Args:
        head: built loss layer, with shards if it is `sharded`.
        optimizer: built optimizer.
        variables: all variables that a step trains, including those of the head.
        decayed_variables: the variables that have weight decay.
        weight_decay: strength of the decay, at least 0.

    Raises:
        ValueError: the centres are sampled or sharded, and the optimizer is not momentum SGD.
    """
    if getattr(head, "sharded", False):
        return ShardedCentres(head, optimizer, variables, decayed_variables, weight_decay)
    if getattr(head, "sample_rate", 1.0) < 1.0:
        return SampledCentres(head, optimizer, variables, decayed_variables, weight_decay)
    return WholeCentres(variables, decayed_variables)


class WholeCentres:
    """Trains all centres in every step, like other weights. Also works for a head without centres.

    Attributes:
        decayed_whole: variables that decay as a whole in every step.
    """

    is_whole = True

    def __init__(self, variables: list[keras.Variable], decayed_variables: list[keras.Variable]):
        self.decayed_whole = decayed_variables
        self._variables = variables

    def sources(self) -> list[tf.Variable]:
        """Returns one tensor per variable, for which to compute the gradient. Call it in replica context."""
        return [variable.value for variable in self._variables]

    def to_dense(self, gradients: Gradients) -> tuple[Gradients, Extra]:
        """Returns `(gradients, extra)` with the gradients as dense tensors."""
        return gradients, {}

    def add_decay(self, gradients: Gradients, extra: Extra) -> tuple[Gradients, Extra, tf.Tensor | float]:
        """Adds the decay of the centres to gradients that are summed over the replicas.

        Returns:
            `(gradients, extra, decay)`, where `decay` is `weight_decay * sum(v^2) / 2`, float32.
        """
        return gradients, extra, 0.0

    def for_optimizer(self, gradients: Gradients, extra: Extra) -> list[tf.Tensor | tf.IndexedSlices]:
        """Returns clipped gradients in the form that the optimizer takes."""
        return gradients


class _PartialCentres(WholeCentres):
    """Trains the centres separately from the other weights."""

    is_whole = False

    def __init__(self, head, optimizer, variables, decayed_variables, weight_decay):
        if not isinstance(optimizer, MomentumSGD):
            flag = "--shard_centres" if head.sharded else "--sample_rate"
            raise ValueError(f"{flag} needs --optimizer sgd, received {type(optimizer).__name__}")
        others = [variable for variable in decayed_variables if variable is not head.centres]
        super().__init__(variables, others)
        self._decay = weight_decay if len(others) < len(decayed_variables) else 0.0
        self._place = [variable is head.centres for variable in variables].index(True)
        self._velocity: Any = optimizer.momentums[self._place]

    def _replaced(self, gradients, gradient):
        """Returns the list with another gradient at the position of the centres."""
        return [*gradients[: self._place], gradient, *gradients[self._place + 1 :]]


class SampledCentres(_PartialCentres):
    """Trains a sample of the rows of the centres in each step. The other rows do not change or decay.

    The list of gradients holds the values of the sampled rows, and `extra` holds the row numbers. All
    replicas have the same rows in the same order, so the values can be summed, clipped and scaled like any
    other gradient.
    """

    def __init__(self, head, optimizer, variables, decayed_variables, weight_decay):
        super().__init__(head, optimizer, variables, decayed_variables, weight_decay)
        head.set_sampling_step(lambda: tf.convert_to_tensor(optimizer.iterations))
        save_transposed(self._velocity)

    def to_dense(self, gradients):
        slices = gradients[self._place]
        return self._replaced(gradients, slices.values), {"rows": slices.indices}

    def add_decay(self, gradients, extra):
        centres = tf.gather(self._variables[self._place].value, extra["rows"])
        gradient = gradients[self._place] + self._decay * centres
        return self._replaced(gradients, gradient), extra, self._decay * tf.nn.l2_loss(centres)

    def for_optimizer(self, gradients, extra):
        return self._replaced(gradients, tf.IndexedSlices(gradients[self._place], extra["rows"]))


class ShardedCentres(_PartialCentres):
    """Trains centres that are divided over the replicas. Each replica holds and changes its own shard.

    The gradient of a shard stays on its replica, in `extra`. The list of gradients holds the norm of all
    shards' gradients instead. Clipping scales this norm, and then the shards' gradients by the same factor.
    """

    def __init__(self, head, optimizer, variables, decayed_variables, weight_decay):
        super().__init__(head, optimizer, variables, decayed_variables, weight_decay)
        self._optimizer = optimizer
        self._shards = head.shards
        devices = [shard.device for shard in head.shards.variables]
        self.velocities = Shards(tf.zeros(head.centres_shape), devices)
        save_as(self._velocity, head.centres_shape, self.velocities.joined, self.velocities.assign)

    def sources(self):
        return self._replaced(super().sources(), self._shards.own())

    def to_dense(self, gradients):
        return self._replaced(gradients, tf.zeros([])), {"gradient": gradients[self._place]}

    def add_decay(self, gradients, extra):
        centres = self._shards.own()
        with tf.control_dependencies([extra["gradient"]]):  # delays it, as in `Trainer._with_decay_and_norm`
            gradient = extra["gradient"] + self._decay * tf.convert_to_tensor(centres)
        sums = [2.0 * tf.nn.l2_loss(gradient), self._decay * tf.nn.l2_loss(centres)]
        squares, decay = tf.distribute.get_replica_context().all_reduce("SUM", sums)
        length = tf.sqrt(squares)
        return self._replaced(gradients, length), {"gradient": gradient, "length": length}, decay

    def for_optimizer(self, gradients, extra):
        """Updates this replica's shard, and returns a gradient of 0 in its place."""
        factor = tf.math.divide_no_nan(gradients[self._place], extra["length"])
        apply_momentum(
            self._shards.own(),
            self.velocities.own(),
            factor * extra["gradient"],
            self._optimizer.learning_rate,
            self._optimizer.momentum,
        )
        return self._replaced(gradients, tf.zeros([]))


def shard_devices(strategy: tf.distribute.Strategy) -> list[str]:
    """Returns the devices that share the centres, one per replica.

    Raises:
        ValueError: there is only one device, or some devices belong to other processes. A checkpoint would
            not contain their shards.
    """
    num_replicas = strategy.num_replicas_in_sync
    devices = list(strategy.extended.worker_devices) if num_replicas > 1 else []
    if len(devices) != num_replicas:
        raise ValueError(
            f"--shard_centres: expected several devices of one process, received "
            f"{max(len(devices), 1)} of {num_replicas}. Leave out --shard_centres, or use one machine with "
            "several GPUs."
        )
    return devices
