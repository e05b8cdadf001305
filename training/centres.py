"""What a step does otherwise where a head trains a sample of its centres."""

import tensorflow as tf

from losses.shards import Shards
from losses.transposed import save_as, save_transposed
from training.optimizers import MomentumSGD


class ShardedCentres:
    """Gradients, decay and momentum of centres that no two replicas have in common.

    Its methods are those of `training.centres.SampledCentres`. A shard's gradient stays on its
    replica; where a step sums, measures and clips gradients, the length of all shards' gradients stands for
    them, and what clipping makes of it tells what to make of them.

    Args:
        head: loss layer that is `sharded`, its shards made.
        optimizer: Keras optimizer, built.
        variables: list of Keras variables, what a step trains; `head.centres` among them.
        decayed_variables: list of Keras variables.
        weight_decay: float >= 0.

    Attributes:
        decayed_whole: those of `decayed_variables` that are no shards.

    Raises:
        ValueError: the optimizer is another than momentum.
    """

    def __init__(self, head, optimizer, variables, decayed_variables, weight_decay):
        if not isinstance(optimizer, MomentumSGD):
            raise ValueError(f"--shard_centres: expected momentum SGD, received {type(optimizer).__name__}")
        self.decayed_whole = [variable for variable in decayed_variables if variable is not head.centres]
        self._rate = weight_decay if len(self.decayed_whole) < len(decayed_variables) else 0.0
        self._variables = variables
        self._optimizer = optimizer
        self._centres = head.shards
        self._place = [variable is head.centres for variable in variables].index(True)
        devices = [variable.device for variable in head.shards.variables]
        self._velocities = Shards(tf.zeros(head.centres_shape), devices)
        slot = optimizer.momentums[self._place]
        save_as(slot, head.centres_shape, self._velocities.joined, self._velocities.assign)

    is_needed = True

    def sources(self):
        """What gradients are taken of, one for each of the variables; in replica context."""
        sources = [variable.value for variable in self._variables]
        sources[self._place] = self._centres.own()
        return sources

    def split(self, gradients):
        """The gradients with a 0 in place of the shard's, and that in a dict."""
        gradients = list(gradients)
        shard, gradients[self._place] = gradients[self._place], tf.zeros([])
        return gradients, {"gradient": shard}

    def decayed(self, gradients, kept):
        """The gradients with the length of all shards' in its place, decay included; and the decay."""
        centres = self._centres.own()
        with tf.control_dependencies([kept["gradient"]]):  # not at the beginning of a step, as in the trainer
            kept["gradient"] += self._rate * tf.convert_to_tensor(centres)
        sums = [2.0 * tf.nn.l2_loss(kept["gradient"]), self._rate * tf.nn.l2_loss(centres)]
        squares, decay = tf.distribute.get_replica_context().all_reduce("SUM", sums)
        gradients = list(gradients)
        gradients[self._place] = kept["length"] = tf.sqrt(squares)
        return gradients, decay

    def join(self, gradients, kept):
        """Updates the shard; returns the gradients for the optimizer, which is left the rest."""
        gradients = list(gradients)
        factor = tf.math.divide_no_nan(gradients[self._place], kept["length"])
        # As `MomentumSGD` does.
        tf.raw_ops.ResourceApplyMomentum(
            var=self._centres.own().handle,
            accum=self._velocities.own().handle,
            lr=tf.cast(self._optimizer.learning_rate, tf.float32),
            grad=factor * kept["gradient"],
            momentum=tf.constant(self._optimizer.momentum, tf.float32),
        )
        gradients[self._place] = tf.zeros([])
        return gradients


def shard_devices(strategy):
    """The devices that share the centres, one per replica.

    Raises:
        ValueError: there is one only, or some belong to other processes, whose shards a checkpoint
            would not hold.
    """
    num_replicas = strategy.num_replicas_in_sync
    devices = list(strategy.extended.worker_devices) if num_replicas > 1 else []
    if len(devices) != num_replicas:
        raise ValueError(
            f"--shard_centres: expected several devices of one process, received "
            f"{max(len(devices), 1)} of {num_replicas}"
        )
    return devices


class SampledCentres:
    """Gradients and decay of the weights of which a step sees some rows only.

    Gradients pass through a step as dense tensors: of `tf.IndexedSlices`, their values. All replicas have
    the same rows in the same order, so that values can be summed, clipped and scaled as any other
    gradient. With a head that samples nothing, all of this returns what it was given.

    Args:
        head: built loss layer; samples if it has `sampled_variables`.
        optimizer: Keras optimizer, built.
        variables: list of Keras variables, what a step trains.
        decayed_variables: list of Keras variables.
        weight_decay: float >= 0.

    Attributes:
        decayed_whole: those of `decayed_variables` that decay in every step, as a whole.

    Raises:
        ValueError: the optimizer would change rows that the step has not seen.
    """

    def __init__(self, head, optimizer, variables, decayed_variables, weight_decay):
        sampled = {id(variable) for variable in getattr(head, "sampled_variables", ())}
        self.decayed_whole = [variable for variable in decayed_variables if id(variable) not in sampled]
        self._variables = variables
        self._places = [place for place, variable in enumerate(variables) if id(variable) in sampled]
        decayed = {id(variable) for variable in decayed_variables}
        self._rates = {place: weight_decay * float(id(variables[place]) in decayed) for place in self._places}
        if not sampled:
            return
        if not isinstance(optimizer, MomentumSGD):
            raise ValueError(
                f"--sample_rate: expected momentum SGD, which leaves the other centres alone, received "
                f"{type(optimizer).__name__}"
            )
        head.follow(lambda: tf.convert_to_tensor(optimizer.iterations))
        for place in self._places:
            save_transposed(optimizer.momentums[place])

    @property
    def is_needed(self):
        """Whether the head samples at all."""
        return bool(self._places)

    def sources(self):
        """What gradients are taken of, one for each of the variables."""
        return [variable.value for variable in self._variables]

    def split(self, gradients):
        """Gradients as dense tensors.

        Returns:
            `(gradients, rows)`: a list of tensors, and a dict from places in it to the
            int32 `(num_sampled,)` rows that its entries belong to.
        """
        rows = {place: gradients[place].indices for place in self._places}
        values = list(gradients)
        for place in self._places:
            values[place] = gradients[place].values
        return values, rows

    def decayed(self, gradients, rows):
        """Adds the decay of the sampled rows to their gradients, summed over the replicas.

        Returns:
            `(gradients, decay)`: the list, and float32 `rate * sum(v^2) / 2` over the rows; 0.0 if
            nothing is sampled.
        """
        gradients, decay = list(gradients), 0.0
        for place, sample in rows.items():
            weights = tf.gather(self._variables[place].value, sample)
            gradients[place] += self._rates[place] * weights
            decay += self._rates[place] * tf.nn.l2_loss(weights)
        return gradients, decay

    def join(self, gradients, rows):
        """The gradients as an optimizer takes them: `tf.IndexedSlices` where there are rows."""
        gradients = list(gradients)
        for place, sample in rows.items():
            gradients[place] = tf.IndexedSlices(gradients[place], sample)
        return gradients
