"""A learning rate that falls without steps."""

import math

import keras
import tensorflow as tf

from training.schedule import LinearRise


@keras.saving.register_keras_serializable(package="margin_centre_face")
class FallingSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """From a peak to an end by a cosine or a power, with an optional linear rise at the start.

    During the first `warmup_steps` it is `peak * (step + 1) / warmup_steps`, as with `StepSchedule`. From
    there to `num_steps`, with `p` rising from 0 to 1, it is

        end + (peak - end) * (1 + cos(pi * p)) / 2      "cosine"
        end + (peak - end) * (1 - p) ** power           "polynomial"

    and `end` afterwards.

    References:
    - [SGDR](https://arxiv.org/abs/1608.03983), for the cosine, without restarts
    - arcface_torch, `lr_scheduler.py::PolynomialLRWarmup`; its `train_v2.py` leaves `power` at 1

    Args:
        shape: `"cosine"` or `"polynomial"`.
        peak: float > 0.
        num_steps: int > `warmup_steps`, the step at which `end` is reached.
        end: float in `[0, peak]`. Defaults to `0.0`.
        warmup_steps: int >= 0. Defaults to `0`.
        power: float > 0, of the polynomial. Defaults to `2.0`.

    Raises:
        ValueError: an argument is out of range.

    Example:

    >>> schedule = FallingSchedule("polynomial", 1.0, 10)
    >>> [round(float(schedule(step)), 2) for step in (0, 5, 10)]
    [1.0, 0.25, 0.0]
    """

    def __init__(self, shape, peak, num_steps, end=0.0, warmup_steps=0, power=2.0):
        if shape not in ("cosine", "polynomial"):
            raise ValueError(f"shape: expected 'cosine' or 'polynomial', received {shape!r}")
        if not peak > 0:
            raise ValueError(f"--lr: expected a rate > 0, received {peak}")
        if not 0 <= end <= peak:
            raise ValueError(f"--lr_end: expected a rate in [0, {peak}], received {end}")
        if not power > 0:
            raise ValueError(f"--lr_power: expected a number > 0, received {power}")
        if not num_steps > warmup_steps:
            raise ValueError(
                f"--warmup_steps: expected fewer than the run's {num_steps} steps, received {warmup_steps}"
            )
        self.shape = shape
        self.peak = peak
        self.num_steps = num_steps
        self.end = end
        self.warmup_steps = warmup_steps
        self.power = power
        self._warmup = LinearRise(1.0, warmup_steps)

    def __call__(self, step):
        # Steps of long runs are no float32 numbers; their distance to the end, as a share, is.
        left = tf.cast(self.num_steps - tf.cast(step, tf.int64), tf.float32)
        share = tf.clip_by_value(left / float(self.num_steps - self.warmup_steps), 0.0, 1.0)
        fall = (1.0 - tf.cos(math.pi * share)) / 2.0 if self.shape == "cosine" else share**self.power
        return (self.end + (self.peak - self.end) * fall) * self._warmup(step + 1)

    def get_config(self):
        """Arguments of the constructor."""
        return {
            "shape": self.shape,
            "peak": self.peak,
            "num_steps": self.num_steps,
            "end": self.end,
            "warmup_steps": self.warmup_steps,
            "power": self.power,
        }
