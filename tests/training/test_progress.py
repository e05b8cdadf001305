import math
from types import SimpleNamespace

import pytest
import tensorflow as tf

from training import progress
from training.progress import Progress, StepClock, log_first_step, progress_lines


def test_the_rate_leaves_out_pauses(monkeypatch):
    times = iter([0.0, 1.0, 11.0, 14.0, 24.0])
    monkeypatch.setattr(progress, "time", SimpleNamespace(perf_counter=lambda: next(times)))
    clock = StepClock(3)
    with clock.paused():  # from 1 to 11
        pass
    assert clock.steps_per_second(7) == 1.0
    assert clock.steps_per_second(7) == 1.0  # No step was done, so the clock is not read.
    assert clock.steps_per_second(12) == 0.5


def test_only_the_first_step_is_timed(caplog):
    caplog.set_level("INFO")
    step = log_first_step(lambda images, identities: {"loss": tf.constant(images + identities)})
    assert [float(step(1, number)["loss"]) for number in range(3)] == [1.0, 2.0, 3.0]
    assert [message.split(":")[0] for message in caplog.messages] == ["First step"]


@pytest.mark.parametrize("name", ["loss", "gradient_norm"])
@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_first_step_that_is_not_finite(name, value):
    """Row 14 of docs/fidelity.md: a gradient can be infinite although the loss is finite."""
    good = {"loss": 1.0, "gradient_norm": 2.0}
    progress = Progress()
    for terms in (good, {**good, name: value}, {**good, "loss": math.nan}):
        progress.add({key: tf.constant(term) for key, term in terms.items()})
    step, terms, received = progress.fetch(9)
    assert (step, received) == (8, name)
    assert terms[name] == pytest.approx(value, nan_ok=True)


def test_total_uses_the_decay_of_the_last_step():
    progress = Progress()
    for terms in ({"loss": 1.0}, {"loss": 4.0, "weight_decay": 0.5, "total": 4.5}):
        progress.add({name: tf.constant(value) for name, value in {**terms, "gradient_norm": 1.0}.items()})
    assert progress.fetch(2) is None
    means = progress.means("show")
    assert means == {"loss": 2.5, "gradient_norm": 1.0, "weight_decay": 0.5, "total": 3.0}


def test_progress_lines_are_short():
    parts = [f"a_rather_long_name_{number} {-1.234e-05 * number:.4g}" for number in range(14)]
    lines = progress_lines("step 1234567/2345678", parts)
    assert len(lines) > 1 and max(map(len, lines)) < 140
    assert all(line.startswith("step 1234567/2345678  a_") for line in lines)
    assert [part for line in lines for part in line.split("  ")[1:]] == parts
    assert progress_lines("step 1", ["x" * 200]) == ["step 1  " + "x" * 200]
