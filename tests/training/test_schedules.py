"""Compares the learning rates that flags select with NumPy."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from training.centre_head import margin_schedules
from training.options import LossOptions, ScheduleOptions
from training.schedules import Warmup, make_schedule


def falling(shape, peak, num_steps, end=0.0, warmup_steps=0, power=2.0):
    options = ScheduleOptions(schedule=shape, lr=peak, lr_end=end, warmup_steps=warmup_steps, lr_power=power)
    return make_schedule(options, 512, num_steps)


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
def test_rates_agree_with_numpy(case):
    schedule, (_, _, num_steps, _, warmup_steps, _) = falling(*case), case
    steps = {0, 1, warmup_steps - 1, warmup_steps, warmup_steps + 1, num_steps // 2, num_steps - 1, num_steps}
    for step in sorted(steps | {num_steps + 9}):
        if step >= 0:
            expected = reference(case[0], step, *case[1:])
            np.testing.assert_allclose(schedule(step), expected, rtol=2e-5, atol=1e-9, err_msg=str(step))


@pytest.mark.parametrize("shape", ["cosine", "polynomial"])
def test_rates_rise_in_the_warmup_and_then_fall_to_the_end(shape):
    schedule = falling(shape, 0.5, 20, end=0.25, warmup_steps=4)
    rates = [float(schedule(step)) for step in range(25)]
    np.testing.assert_allclose(rates[:5], [0.125, 0.25, 0.375, 0.5, 0.5], rtol=1e-6)
    assert rates[20:] == [0.25] * 5 and rates[19] > 0.25
    assert (np.diff(rates[4:21]) < 0).all()


def test_polynomial_agrees_with_arcface_torch():
    """The expected rates follow the recursion of `PolynomialLRWarmup`, which counts from 1."""
    warmup, total, power = 5, 40, 2.0
    schedule, rate = falling("polynomial", 0.1, total, warmup_steps=warmup, power=power), 0.1
    for last_epoch in range(1, total):
        if last_epoch <= warmup:
            rate = 0.1 * last_epoch / warmup
            step = last_epoch - 1
        else:
            left = 1 - (last_epoch - warmup) / (total - warmup)
            rate *= (left / (1 - (last_epoch - 1 - warmup) / (total - warmup))) ** power
            step = last_epoch
        np.testing.assert_allclose(schedule(step), rate, rtol=1e-4)


def test_rates_change_at_the_steps():
    options = ScheduleOptions(lr_values=(1.0, 0.1, 0.01), lr_steps=(4, 8), warmup_steps=2)
    schedule = make_schedule(options, 512, 100)
    received = [float(schedule(step)) for step in (0, 1, 2, 4, 5, 8, 9, 10**6)]
    expected = np.array([0.5, 1.0, 1.0, 1.0, 0.1, 0.1, 0.01, 0.01], np.float32)
    np.testing.assert_array_equal(received, expected)


def test_one_rate_without_steps_is_constant():
    schedule = make_schedule(ScheduleOptions(lr_values=(0.3,), lr_steps=()), 64, 100)
    assert [float(schedule(step)) for step in (0, 1, 2, 10**6)] == [np.float32(0.3)] * 4


def test_rates_are_for_512_images():
    schedule = falling("cosine", 0.1, 50, end=0.01, warmup_steps=3)
    options = ScheduleOptions(schedule="cosine", lr=0.1, lr_end=0.01, warmup_steps=3)
    for step in (0, 10, 60):
        np.testing.assert_allclose(make_schedule(options, 64, 50)(step), schedule(step) / 8, rtol=1e-6)


@pytest.mark.parametrize("shape", ["steps", "polynomial"])
def test_a_schedule_is_read_back_from_its_configuration(shape):
    options = {} if shape == "steps" else {"lr": 0.3, "lr_end": 0.1, "lr_power": 1.5}
    schedule = make_schedule(ScheduleOptions(schedule=shape, warmup_steps=3, **options), 64, 30)
    copy = keras.optimizers.schedules.deserialize(keras.optimizers.schedules.serialize(schedule))
    assert isinstance(copy, Warmup)
    assert [float(copy(step)) for step in range(40)] == [float(schedule(step)) for step in range(40)]


def test_a_schedule_gives_the_same_rates_in_a_graph():
    schedule = falling("cosine", 0.1, 50, 0.001, 7)
    compiled = tf.function(schedule)
    for step in (0, 6, 7, 49, 50):
        np.testing.assert_allclose(compiled(tf.constant(step, tf.int64)), schedule(step), rtol=1e-6)


def test_a_warmup_as_long_as_the_run_is_an_error():
    with pytest.raises(ValueError, match=r"--warmup_steps is 9\. .* 9 steps"):
        falling("cosine", 0.1, 9, warmup_steps=9)


@pytest.mark.parametrize(("first_step", "is_explained"), [(0, True), (99, True), (100, False)])
def test_rising_margin_is_explained(first_step, is_explained, caplog):
    caplog.set_level("INFO")
    head = SimpleNamespace(margin=0.5)
    schedules = margin_schedules(head, LossOptions(margin_warmup_steps=100), first_step)
    assert float(schedules["margin"](50)) == 0.25
    explained = (
        "rises from 0 to 0.5 until step 100" in caplog.text and "the loss rises with it" in caplog.text
    )
    assert explained == is_explained
    assert margin_schedules(head, LossOptions(loss="softmax"), 0) == {}
