"""The scale that keeps float16 gradients from vanishing."""

import tensorflow as tf

from nets.importers.training_checkpoint import STATE_NAME

INITIAL_SCALE = 2.0**15
GROWTH_STEPS = 2000


class LossScale(tf.Module):
    """A factor of the loss that halves after an overflow and doubles after many steps without one.

    Gradients of float16 layers are 0 below 6e-8 and infinite over 65,504; multiplied by a power of two
    they use the range in between, and no digit changes. It is for the trainer to leave out the update
    of a step whose gradients are not finite. Keras's `LossScaleOptimizer` decides that on each replica
    alone, so that replicas part where one overflows.

    References:
    - [Mixed Precision Training](https://arxiv.org/abs/1710.03740)
    - `keras.optimizers.LossScaleOptimizer`, for the initial scale and the steps until it grows

    Args:
        initial: float, a power of 2. Defaults to `2**15`.
        growth_steps: int > 0, steps without an overflow after which the scale doubles. Defaults to `2000`.

    Attributes:
        scale: float32 variable, at least 1.
        good_steps: int32 variable, steps since the scale changed. Both are saved with the run.
    """

    def __init__(self, initial=INITIAL_SCALE, growth_steps=GROWTH_STEPS):
        super().__init__()
        first = tf.VariableAggregation.ONLY_FIRST_REPLICA
        self.scale = tf.Variable(initial, trainable=False, dtype=tf.float32, aggregation=first)
        self.good_steps = tf.Variable(0, trainable=False, dtype=tf.int32, aggregation=first)
        self.growth_steps = growth_steps

    def update(self, is_finite):
        """Moves the scale after a step; call it outside of replicas.

        Args:
            is_finite: bool tensor, whether all gradients of all replicas were finite.
        """
        scale, good_steps = tf.identity(self.scale), tf.identity(self.good_steps) + 1
        grows = is_finite & (good_steps >= self.growth_steps)
        # At 1 there is nothing to gain: gradients that are infinite there are infinite.
        self.scale.assign(
            tf.where(is_finite, tf.where(grows, scale * 2.0, scale), tf.maximum(scale / 2.0, 1.0))
        )
        self.good_steps.assign(tf.where(is_finite & ~grows, good_steps, 0))


def check_loss_scale(folder, precision):
    """Refuses a checkpoint that has a loss scale where the run has none, or the other way round.

    Args:
        folder: Path of a checkpoint.
        precision: str, the run's `--precision`.

    Raises:
        ValueError: it does not fit.
    """
    names = [name for name, _ in tf.train.list_variables(str(folder / STATE_NAME))]
    has_scale = any(name.startswith("loss_scale/") for name in names)
    if has_scale != (precision == "mixed_float16"):
        expected, received = ("without", "with") if has_scale else ("with", "without")
        raise ValueError(
            f"{folder}: expected a checkpoint {expected} a loss scale for --precision {precision}, "
            f"received one {received}; go on with the precision it was trained with, or take the net alone"
        )
