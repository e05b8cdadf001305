import keras
import numpy as np
import pytest

from training.schedules import FallingSchedule


def reference(shape, step, peak, num_steps, end, warmup_steps, power):
    p = np.clip((step - warmup_steps) / (num_steps - warmup_steps), 0, 1)
    fall = (1 + np.cos(np.pi * p)) / 2 if shape == "cosine" else (1 - p) ** power
    rise = min(1, (step + 1) / warmup_steps) if warmup_steps else 1
    return (end + (peak - end) * fall) * rise


CASES = [
    ("cosine", 0.1, 50, 0.0, 0, 2.0),
    ("cosine", 0.1, 50, 0.001, 7, 2.0),
    ("polynomial", 0.02, 50, 0.0, 0, 2.0),
    ("polynomial", 3.0, 50, 0.5, 10, 1.0),
    ("polynomial", 0.1, 50, 0.0, 49, 0.5),
    ("polynomial", 0.1, 3_000_000_000, 0.0, 1000, 2.0),
]


@pytest.mark.parametrize("case", CASES)
def test_against_numpy(case):
    schedule, (_, _, num_steps, _, warmup_steps, _) = FallingSchedule(*case), case
    steps = {0, 1, warmup_steps - 1, warmup_steps, warmup_steps + 1, num_steps // 2, num_steps - 1, num_steps}
    for step in sorted(steps | {num_steps + 9}):
        if step >= 0:
            expected = reference(case[0], step, *case[1:])
            np.testing.assert_allclose(schedule(step), expected, rtol=2e-5, atol=1e-9, err_msg=str(step))


@pytest.mark.parametrize("shape", ["cosine", "polynomial"])
def test_boundaries(shape):
    schedule = FallingSchedule(shape, 0.5, 20, end=0.25, warmup_steps=4)
    rates = [float(schedule(step)) for step in range(25)]
    np.testing.assert_allclose(rates[:5], [0.125, 0.25, 0.375, 0.5, 0.5], rtol=1e-6)
    assert rates[20:] == [0.25] * 5 and rates[19] > 0.25
    assert (np.diff(rates[4:21]) < 0).all()


def test_polynomial_is_that_of_arcface_torch():
    """`PolynomialLRWarmup` as a loop over its own recursion; it counts from 1."""
    warmup, total, power = 5, 40, 2.0
    schedule, rate = FallingSchedule("polynomial", 0.1, total, warmup_steps=warmup, power=power), 0.1
    for last_epoch in range(1, total):
        if last_epoch <= warmup:
            rate = 0.1 * last_epoch / warmup
            step = last_epoch - 1
        else:
            left = 1 - (last_epoch - warmup) / (total - warmup)
            rate *= (left / (1 - (last_epoch - 1 - warmup) / (total - warmup))) ** power
            step = last_epoch
        np.testing.assert_allclose(schedule(step), rate, rtol=1e-4)


def test_round_trip():
    schedule = FallingSchedule("polynomial", 0.3, 30, end=0.1, warmup_steps=3, power=1.5)
    copy = keras.optimizers.schedules.deserialize(keras.optimizers.schedules.serialize(schedule))
    assert [float(copy(step)) for step in range(40)] == [float(schedule(step)) for step in range(40)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("linear", 0.1, 9), "shape: expected 'cosine' or 'polynomial', received 'linear'"),
        (("cosine", 0, 9), "--lr: expected a rate > 0, received 0"),
        (("cosine", 0.1, 9, 0.2), r"--lr_end: expected a rate in \[0, 0.1\], received 0.2"),
        (("cosine", 0.1, 9, 0.0, 9), "--warmup_steps: expected fewer than the run's 9 steps, received 9"),
        (("cosine", 0.1, 9, 0.0, -1), "num_steps: expected at least 0, received -1"),
        (("polynomial", 0.1, 9, 0.0, 0, 0), "--lr_power: expected a number > 0, received 0"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        FallingSchedule(*arguments)
