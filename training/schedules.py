"""Computes values that change with the step: learning rate and margin."""

from __future__ import annotations

import keras
import tensorflow as tf
from keras.optimizers import schedules

from training.options import ScheduleOptions


def make_schedule(
    options: ScheduleOptions, batch_size: int, num_steps: int
) -> schedules.LearningRateSchedule:
    """Makes the learning rate schedule of a run.

    `lr` and `lr_end` are rates for 512 images per step. They are scaled in proportion to the batch size, and
    `lr_steps` in inverse proportion. Cosine and polynomial fall from the end of the warm-up to the end of the
    run.

    Args:
        options: the flags.
        batch_size: number of images per step.
        num_steps: length of the run.

    References:
        - `tf.compat.v1.train.piecewise_constant`, as in `train_centre.py` of margin-centre-face; row 1 of
          docs/fidelity.md
        - [Accurate, Large Minibatch SGD](https://arxiv.org/abs/1706.02677), for the linear scaling
        - [SGDR](https://arxiv.org/abs/1608.03983), for the cosine, without restarts
        - arcface_torch, `lr_scheduler.py::PolynomialLRWarmup`, with `power` 1

    Raises:
        ValueError: the warm-up is as long as the run.
    """
    if options.schedule == "steps" or options.lr is None:
        # Keras needs at least one boundary.
        boundaries = options.boundaries(batch_size) or [1]
        values = options.lr_values if options.lr_steps else 2 * options.lr_values
        return Warmup(schedules.PiecewiseConstantDecay(boundaries, list(values)), options.warmup_steps)
    length = num_steps - options.warmup_steps
    if length < 1:
        raise ValueError(
            f"--warmup_steps is {options.warmup_steps}. Give fewer than the run's {num_steps} steps."
        )
    scale = batch_size / 512
    peak, end = options.lr * scale, options.lr_end * scale
    if options.schedule == "cosine":
        fall = schedules.CosineDecay(peak, length, end / peak)
    else:
        fall = schedules.PolynomialDecay(peak, length, end, options.lr_power)
    return Warmup(fall, options.warmup_steps, delay=options.warmup_steps)


@keras.saving.register_keras_serializable(package="margin_centre_face")
class Warmup(schedules.LearningRateSchedule):
    """Multiplies another schedule by `min(1, (step + 1) / warmup_steps)`.

    References:
        - [Accurate, Large Minibatch SGD](https://arxiv.org/abs/1706.02677)

    Args:
        schedule: the other schedule.
        warmup_steps: at least 0.
        delay: number of steps after which the other schedule starts. Defaults to `0`.
    """

    def __init__(self, schedule: schedules.LearningRateSchedule, warmup_steps: int, delay: int = 0):
        self.schedule = schedule
        self.warmup_steps = warmup_steps
        self.delay = delay
        self._rise = LinearRise(1.0, warmup_steps)

    def __call__(self, step: int | tf.Tensor) -> tf.Tensor:
        step = tf.cast(step, tf.int64)
        return self.schedule(tf.maximum(step - self.delay, 0)) * self._rise(step + 1)

    def get_config(self) -> dict:
        schedule = keras.saving.serialize_keras_object(self.schedule)
        return {"schedule": schedule, "warmup_steps": self.warmup_steps, "delay": self.delay}

    @classmethod
    def from_config(cls, config: dict) -> Warmup:
        return cls(**{**config, "schedule": keras.saving.deserialize_keras_object(config["schedule"])})


class LinearRise:
    """A value that rises from 0 in equal steps, and is constant after `num_steps`.

    Args:
        value: the final value.
        num_steps: at least 0. With 0 the value is constant from the start.

    Example:

    >>> rise = LinearRise(0.5, 10)
    >>> [float(rise(step)) for step in (0, 5, 20)]
    [0.0, 0.25, 0.5]
    """

    def __init__(self, value: float, num_steps: int):
        self.value = value
        self.num_steps = num_steps

    def __call__(self, step: int | tf.Tensor) -> tf.Tensor:
        """Returns the float32 value after `step` steps."""
        if self.num_steps == 0:
            return tf.constant(self.value, tf.float32)
        return self.value * tf.minimum(tf.cast(step, tf.float32) / self.num_steps, 1.0)
