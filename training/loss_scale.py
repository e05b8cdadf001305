"""Scales the loss, which keeps float16 gradients from vanishing."""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf

from nets.importers.training_checkpoint import STATE_NAME


class LossScale(tf.Module):
    """A factor of the loss that halves after an overflow and doubles after many steps without one.

    Gradients of float16 layers are 0 below 6e-8 and infinite above 65,504. Multiplying the loss by a power of
    two moves them into this range without a rounding error. The trainer skips the update of a step whose
    gradients are not finite. Keras's `LossScaleOptimizer` decides that on each replica separately, so the
    weights of the replicas would diverge when only one of them overflows.

    References:
        - [Mixed Precision Training](https://arxiv.org/abs/1710.03740)
        - `keras.optimizers.LossScaleOptimizer`, for the defaults

    Args:
        initial: power of 2. Defaults to `2**15`.
        growth_steps: steps without an overflow after which the scale doubles. Defaults to `2000`.

    Attributes:
        scale: float32 variable, at least 1; stored in checkpoints.
        good_steps: int32 variable, steps since the scale changed; stored in checkpoints.
    """

    def __init__(self, initial: float = 2.0**15, growth_steps: int = 2000):
        super().__init__()
        self.scale = tf.Variable(initial, trainable=False, dtype=tf.float32)
        self.good_steps = tf.Variable(0, trainable=False, dtype=tf.int32)
        self.growth_steps = growth_steps

    def update(self, is_finite: tf.Tensor) -> tf.Tensor:
        """Changes the scale after a step. Call it on each replica.

        Args:
            is_finite: bool scalar, whether the gradients summed over all replicas were finite.

        Returns:
            The scale of that step, float32 scalar.
        """
        scale, good_steps = tf.identity(self.scale), tf.identity(self.good_steps) + 1
        grows = is_finite & (good_steps >= self.growth_steps)
        # A scale below 1 cannot help: gradients that are infinite at 1 are infinite without a scale.
        self.scale.assign(
            tf.where(is_finite, tf.where(grows, scale * 2.0, scale), tf.maximum(scale / 2.0, 1.0))
        )
        self.good_steps.assign(tf.where(is_finite & ~grows, good_steps, 0))
        return scale


def check_loss_scale(folder: Path, precision: str) -> None:
    """Raises `ValueError` unless checkpoint and `--precision` both have a loss scale, or both have none."""
    names = [name for name, _ in tf.train.list_variables(str(folder / STATE_NAME))]
    has_scale = any(name.startswith("loss_scale/") for name in names)
    if has_scale != (precision == "mixed_float16"):
        received = "with" if has_scale else "without"
        raise ValueError(
            f"{folder}: the checkpoint was trained {received} a loss scale, which does not fit "
            f"--precision {precision}. Give the --precision of that run, or take only its net with "
            "--init_from."
        )
