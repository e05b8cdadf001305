"""Three ways to train the centres of a head: all rows, a sample of rows, or shards.

A step computes gradients (`sources`, `to_dense`), sums them over the replicas, adds the decay (`add_decay`),
clips them and updates the weights (`for_optimizer`). Between these calls all gradients are dense tensors in a
list, and `extra` is a dict of what the centres need besides.
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
    """Makes the object that fits the head.

    Args:
        head: built loss layer, with shards if it is `sharded`.
        optimizer: built optimizer; samples and shards need momentum SGD.
        variables: what a step trains, the head's variables among them.
        decayed_variables: those of `variables` that decay.
        weight_decay: at least 0.
    """
    if getattr(head, "sharded", False):
        return ShardedCentres(head, optimizer, variables, decayed_variables, weight_decay)
    if getattr(head, "sample_rate", 1.0) < 1.0:
        return SampledCentres(head, optimizer, variables, decayed_variables, weight_decay)
    return WholeCentres(variables, decayed_variables)


class WholeCentres:
    """Centres that a step trains like all other weights, or a head without centres.

    Attributes:
        decayed_whole: the variables that decay in every step, as a whole.
    """

    is_whole = True

    def __init__(self, variables: list[keras.Variable], decayed_variables: list[keras.Variable]):
        self.decayed_whole = decayed_variables
        self._variables = variables

    def sources(self) -> list[tf.Variable]:
        """Returns what to take gradients of, one for each of the variables; in replica context."""
        return [variable.value for variable in self._variables]

    def to_dense(self, gradients: Gradients) -> tuple[Gradients, Extra]:
        """Returns the gradients as dense tensors, and the extra."""
        return gradients, {}

    def add_decay(self, gradients: Gradients, extra: Extra) -> tuple[Gradients, Extra, tf.Tensor | float]:
        """Adds the decay of the centres to gradients that are summed over the replicas.

        Returns:
            `(gradients, extra, decay)`, where `decay` is float32 `weight_decay * sum(v^2) / 2`.
        """
        return gradients, extra, 0.0

    def for_optimizer(self, gradients: Gradients, extra: Extra) -> list[tf.Tensor | tf.IndexedSlices]:
        """Returns clipped gradients in the form that the optimizer takes."""
        return gradients


class _PartialCentres(WholeCentres):
    """Centres that a step trains apart from the other weights."""

    is_whole = False

    def __init__(self, head, optimizer, variables, decayed_variables, weight_decay):
        if not isinstance(optimizer, MomentumSGD):
            flag = "--shard_centres" if head.sharded else "--sample_rate"
            raise ValueError(f"{flag}: expected momentum SGD, received {type(optimizer).__name__}")
        others = [variable for variable in decayed_variables if variable is not head.centres]
        super().__init__(variables, others)
        self._decay = weight_decay if len(others) < len(decayed_variables) else 0.0
        self._place = [variable is head.centres for variable in variables].index(True)
        self._velocity: Any = optimizer.momentums[self._place]

    def _replaced(self, gradients, gradient):
        """Returns the list with another gradient in the place of the centres."""
        return [*gradients[: self._place], gradient, *gradients[self._place + 1 :]]


class SampledCentres(_PartialCentres):
    """Centres whose rows a step sees, decays and changes only in part.

    A gradient of rows stands in the list by its values. All replicas have the same rows in the same order, so
    their values can be summed, clipped and scaled like any other gradient.
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
    """Centres that are divided: every replica holds, decays and changes its own part.

    The gradient of a shard stays on its replica, in the extra. In the list of gradients stands the length of
    all shards' gradients: clipping scales it, and the shards' gradients are scaled by the same factor.
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
        with tf.control_dependencies([extra["gradient"]]):  # late, as in `Trainer._with_decay_and_norm`
            gradient = extra["gradient"] + self._decay * tf.convert_to_tensor(centres)
        sums = [2.0 * tf.nn.l2_loss(gradient), self._decay * tf.nn.l2_loss(centres)]
        squares, decay = tf.distribute.get_replica_context().all_reduce("SUM", sums)
        length = tf.sqrt(squares)
        return self._replaced(gradients, length), {"gradient": gradient, "length": length}, decay

    def for_optimizer(self, gradients, extra):
        """Updates the shard; its place in the list gets a 0."""
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
        ValueError: there is one, or some belong to other processes, whose shards no checkpoint would hold.
    """
    num_replicas = strategy.num_replicas_in_sync
    devices = list(strategy.extended.worker_devices) if num_replicas > 1 else []
    if len(devices) != num_replicas:
        raise ValueError(
            f"--shard_centres: expected several devices of one process, received "
            f"{max(len(devices), 1)} of {num_replicas}"
        )
    return devices
