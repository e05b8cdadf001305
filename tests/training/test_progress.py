from types import SimpleNamespace

import tensorflow as tf

from training import progress
from training.progress import StepClock, log_first_step


def test_pauses_do_not_count(monkeypatch):
    times = iter([0.0, 1.0, 11.0, 14.0, 24.0])
    monkeypatch.setattr(progress, "time", SimpleNamespace(perf_counter=lambda: next(times)))
    clock = StepClock(3)
    with clock.paused():  # from 1 to 11
        pass
    assert clock.steps_per_second(7) == 1.0
    assert clock.steps_per_second(7) == 1.0  # no step was done: the clock is not even looked at
    assert clock.steps_per_second(12) == 0.5


def test_only_the_first_step_is_timed(caplog):
    caplog.set_level("INFO")
    step = log_first_step(lambda images, identities: {"total": tf.constant(images + identities)})
    assert [float(step(1, number)["total"]) for number in range(3)] == [1.0, 2.0, 3.0]
    assert [message.split(":")[0] for message in caplog.messages] == ["First step"]
