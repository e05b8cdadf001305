"""What changes with the step: learning rate and margin."""

import math

import keras
import tensorflow as tf


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


@keras.saving.register_keras_serializable(package="margin_centre_face")
class StepSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """A value per stretch of steps, with an optional linear rise at the start.

    `values[i]` holds while `boundaries[i - 1] < step <= boundaries[i]`. During the first `warmup_steps`
    it is multiplied by `(step + 1) / warmup_steps`.

    References:
    - `tf.compat.v1.train.piecewise_constant`, as `train_centre.py` uses it
    - [Accurate, Large Minibatch SGD](https://arxiv.org/abs/1706.02677), for the warm-up
    - Row 1 of docs/fidelity.md: the original's counter advances by two per step.

    Args:
        boundaries: increasing sequence of int > 0.
        values: sequence of float > 0, one more than boundaries.
        warmup_steps: int >= 0. Defaults to `0`.

    Raises:
        ValueError: the boundaries do not increase, or the number of values does not fit.

    Example:

    >>> schedule = StepSchedule([10], [0.1, 0.01])
    >>> [round(float(schedule(step)), 2) for step in (0, 10, 11)]
    [0.1, 0.1, 0.01]
    """

    def __init__(self, boundaries, values, warmup_steps=0):
        if list(boundaries) != sorted(set(boundaries)) or min(boundaries, default=1) < 1:
            raise ValueError(f"boundaries: expected increasing steps > 0, received {list(boundaries)}")
        if len(values) != len(boundaries) + 1:
            raise ValueError(
                f"values: expected {len(boundaries) + 1}, one more than boundaries, received {list(values)}"
            )
        self.boundaries = list(boundaries)
        self.values = list(values)
        self.warmup_steps = warmup_steps
        self._warmup = LinearRise(1.0, warmup_steps)

    def __call__(self, step):
        step = tf.cast(step, tf.int64)
        stretch = tf.reduce_sum(tf.cast(step > tf.constant(self.boundaries, tf.int64), tf.int32))
        return tf.gather(tf.constant(self.values, tf.float32), stretch) * self._warmup(step + 1)

    def get_config(self):
        """Arguments of the constructor."""
        return {"boundaries": self.boundaries, "values": self.values, "warmup_steps": self.warmup_steps}


class LinearRise:
    """From 0 to a value in equal steps, constant from there on.

    Args:
        value: float, reached after `num_steps`.
        num_steps: int >= 0; 0 is the value from the start.

    Raises:
        ValueError: `num_steps` is negative.

    Example:

    >>> rise = LinearRise(0.5, 10)
    >>> [float(rise(step)) for step in (0, 5, 20)]
    [0.0, 0.25, 0.5]
    """

    def __init__(self, value, num_steps):
        if num_steps < 0:
            raise ValueError(f"num_steps: expected at least 0, received {num_steps}")
        self.value = value
        self.num_steps = num_steps

    def __call__(self, step):
        if self.num_steps == 0:
            return tf.constant(self.value, tf.float32)
        return self.value * tf.minimum(tf.cast(step, tf.float32) / self.num_steps, 1.0)
