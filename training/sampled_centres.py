"""What a step does otherwise where a head trains a sample of its centres."""

import tensorflow as tf

from losses.transposed import save_transposed
from training.optimizer import MomentumSGD


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
