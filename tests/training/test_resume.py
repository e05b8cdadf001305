"""Tests that the same command completes a run that kills, signals or full disks interrupted."""

import os
import signal

import numpy as np
import pytest
import tensorflow as tf

from nets.importers.training_checkpoint import newest_checkpoint
from tests.training.small_loop import Batches, intervals, make_loop, names, result, with_validator
from tests.training.small_trainer import batch, make_checkpoints, make_trainer, weights
from training.distribution import make_strategy
from training.progress import Summaries

ACCURACIES = {0: 0.6, 2: 0.85, 4: 0.7, 6: 0.9}
MODELS = ["iter_2_lfw_0.85000", "iter_6_lfw_0.90000"]


class Killed(BaseException):
    """Simulates a kill: nothing catches it."""


def scored_loop(folder, save=2, validate=2, **arguments):
    """Returns a loop of 6 steps, with accuracies that depend on the step."""
    every = intervals(show_info=2, summary=2, validate=validate, save=save, export=100)
    loop, trainer = make_loop(folder, every=every, **arguments)
    return with_validator(loop, lambda: result(ACCURACIES[trainer.step]))


def at_step(loop, step, happens, work):
    """Returns `work`, wrapped so that `happens` is called first at one step."""

    def wrapped(*given, **named):
        if loop.trainer.step == step:
            happens(named)
        return work(*given, **named)

    return wrapped


def interrupt(loop, when, step, happens):
    """Calls `happens` in the validation or the export of a step, or at the end of the step."""
    if when == "validation":
        with_validator(loop, at_step(loop, step, happens, loop.validators[0].score))
    elif when == "export":
        loop.models.export = at_step(loop, step, happens, loop.models.export)
    else:
        loop.checkpoints.save = at_step(
            loop, step, lambda named: None if named["owed"] else happens(named), loop.checkpoints.save
        )


def killed(_):
    raise Killed


def terminated(_):
    os.kill(os.getpid(), signal.SIGTERM)


def full(what):
    raise OSError(28, "No space left on device", what if isinstance(what, str) else None)


@pytest.mark.parametrize("steps", [(2,), (6,), (2, 6)])
@pytest.mark.parametrize("when", ["validation", "export", "end"])
def test_restart_completes_what_a_kill_interrupted(tmp_path, steps, when):
    for step in steps:
        loop = scored_loop(tmp_path)
        interrupt(loop, when, step, killed)
        with pytest.raises(Killed):
            loop.run()
        assert newest_checkpoint(tmp_path / "ckpt")[1]["step"] == step  # The step is not lost.
    assert scored_loop(tmp_path).run() == 0
    assert names(tmp_path / "models") == MODELS
    manifest = newest_checkpoint(tmp_path / "ckpt")[1]
    assert (manifest["best"], manifest["best_steps"], manifest["owed"]) == ({"lfw": 0.9}, {"lfw": 6}, [])
    # The model is not written again.
    (tmp_path / "models" / MODELS[1] / "step").write_text("left alone")
    assert scored_loop(tmp_path).run() == 0
    assert (tmp_path / "models" / MODELS[1] / "step").read_text() == "left alone"


def test_a_kill_after_the_first_save_of_the_last_step_loses_nothing(tmp_path):
    loop = scored_loop(tmp_path, validate=4)
    save = loop.checkpoints.save

    def save_and_die(step, **scores):
        save(step, **scores)
        if step == 6:
            raise Killed

    loop.checkpoints.save = save_and_die
    with pytest.raises(Killed):
        loop.run()
    assert scored_loop(tmp_path, validate=4).run() == 0
    assert names(tmp_path / "models") == MODELS[1:]


@pytest.mark.parametrize("when", ["validation", "export"])
def test_sigterm_after_a_step_saves_it(tmp_path, when):
    loop = scored_loop(tmp_path, save=3)
    interrupt(loop, when, 2, terminated)
    assert loop.run() == 128 + signal.SIGTERM
    manifest = newest_checkpoint(tmp_path / "ckpt")[1]
    # The validation is finished and its score is kept, but no export is started.
    assert (manifest["step"], manifest["best"]) == (2, {"lfw": 0.85})
    assert (tmp_path / "models").exists() == (when == "export")
    assert scored_loop(tmp_path).run() == 0
    assert names(tmp_path / "models") == MODELS


def test_sigterm_while_the_first_step_is_traced_saves_it(tmp_path):
    loop = scored_loop(tmp_path)
    head = loop.trainer.head.call

    def call(*given, **named):
        os.kill(os.getpid(), signal.SIGTERM)
        loop.trainer.head.call = head
        return head(*given, **named)

    loop.trainer.head.call = call
    assert loop.run() == 128 + signal.SIGTERM
    assert newest_checkpoint(tmp_path / "ckpt")[1]["step"] == loop.trainer.step == 1


def test_sigterm_while_a_restart_completes_a_step_saves_it(tmp_path):
    loop = scored_loop(tmp_path)
    interrupt(loop, "validation", 2, killed)
    with pytest.raises(Killed):
        loop.run()
    loop = scored_loop(tmp_path)
    interrupt(loop, "validation", 2, terminated)
    assert loop.run() == 128 + signal.SIGTERM
    assert loop.trainer.step == 2
    assert scored_loop(tmp_path).run() == 0
    assert names(tmp_path / "models") == MODELS


def test_a_full_disk_during_training_costs_no_steps(tmp_path, monkeypatch, caplog):
    unbroken = scored_loop(tmp_path / "unbroken", save=1)
    assert unbroken.run() == 0
    loop = scored_loop(tmp_path / "full", save=1)
    state, write = loop.checkpoints.state, loop.checkpoints.state.write

    def fails(path):
        write(path)
        if loop.trainer.step in (3, 4):
            raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    monkeypatch.setattr(state, "write", fails)
    interrupt(loop, "export", 2, full)
    assert loop.run() == 0
    for step in (3, 4):
        assert f"step {step}: " in caplog.text
        assert f"step_0000000{step}: cannot write the checkpoint: No space left" in caplog.text
    assert "step 2: [Errno 28] No space left on device. Training continues" in caplog.text
    # The best checkpoint, of step 2, stays until there is a better one.
    assert names(tmp_path / "full" / "ckpt") == ["step_00000002", "step_00000005", "step_00000006"]
    assert names(tmp_path / "full" / "models") == MODELS[1:]
    for one, two in zip(weights(unbroken.trainer), weights(loop.trainer), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("ended_by", ["end", "signal", "export", "both"])
def test_a_full_disk_at_the_end_is_an_error(tmp_path, ended_by):
    def stop(images):
        os.kill(os.getpid(), signal.SIGTERM)
        return images

    loop = scored_loop(tmp_path, batches=Batches({4: stop} if ended_by == "signal" else {}))
    if ended_by in ("export", "both"):
        interrupt(loop, "export", 6, lambda named: full("model"))
    if ended_by != "export":
        loop.checkpoints.save = at_step(loop, 5 if ended_by == "signal" else 6, full, loop.checkpoints.save)
    with pytest.raises(OSError, match="No space left on device") as raised:
        loop.run()
    # The run tries to write both checkpoint and model, even if the other one fails.
    assert ("model" in str(raised.value)) == (ended_by in ("export", "both"))
    assert str(raised.value).count("No space left") == (2 if ended_by == "both" else 1)
    assert names(tmp_path / "models") == (MODELS if ended_by == "end" else MODELS[:1])
    newest = newest_checkpoint(tmp_path / "ckpt")[1]["step"]
    assert newest == (6 if ended_by == "export" else 4)
    assert not list(tmp_path.glob("*/.*"))
    # When there is space again, the same command finishes the run.
    assert scored_loop(tmp_path).run() == 0
    assert names(tmp_path / "models") == MODELS


def test_full_disk_does_not_hide_a_data_error(tmp_path, caplog):
    def unreadable(_):
        raise ValueError("shard: record at byte 12: expected")

    loop = scored_loop(tmp_path, batches=Batches({3: unreadable}))
    loop.checkpoints.save = at_step(loop, 3, full, loop.checkpoints.save)
    with pytest.raises(ValueError, match="record at byte 12"):
        loop.run()
    assert "step 3: [Errno 28] No space left on device" in caplog.text


def test_training_continues_when_summaries_cannot_be_written(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file: "):
        Summaries(tmp_path / "file")
    summaries = Summaries(tmp_path / "summary")

    def fails():
        message = (
            "{{function_node __wrapped__WriteSummary}} No space left on device [Op:WriteSummary]\n\tFailed"
        )
        raise tf.errors.ResourceExhaustedError(None, None, message)

    with monkeypatch.context() as patch:
        patch.setattr(summaries._writer, "flush", fails)
        summaries.write(3, {"train/total": 1.0})
        summaries.write(4, {"train/total": 1.0})
    (line,) = caplog.messages
    assert line == f"step 3: {summaries.folder}: cannot write TensorBoard logs: No space left on device"
    summaries.write(5, {"train/total": 1.0})
    monkeypatch.setattr(summaries._writer, "flush", fails)
    summaries.write(6, {"train/total": 1.0})
    assert len(caplog.messages) == 2


def test_leftovers_of_models_are_removed(tmp_path):
    left = (".iter_2_lfw_0.10000.host-7.tmp", ".iter_1_lfw_0.10000.7.old")
    mine = [".iter_2_mine", ".iter_2_lfw_0.10000.keep", "mine"]
    for name in (*left, *mine):
        (tmp_path / "models" / name).mkdir(parents=True)
    assert scored_loop(tmp_path).run() == 0
    assert names(tmp_path / "models") == sorted([*MODELS, *mine])


def test_copies_of_models_are_kept(tmp_path):
    copies = ["iter_1_lfw_0.10000_keep", "iter_2_lfw_0.85000_keep", "iter_old"]
    for name in copies:
        (tmp_path / "models" / name).mkdir(parents=True)
    assert scored_loop(tmp_path, max_models=1).run() == 0
    assert names(tmp_path / "models") == sorted([MODELS[1], *copies])


def test_model_of_the_same_step_is_replaced(tmp_path):
    """If a step is repeated on several devices, its score may differ slightly."""
    (tmp_path / "models" / "iter_2_lfw_0.85001").mkdir(parents=True)
    assert scored_loop(tmp_path).run() == 0
    assert names(tmp_path / "models") == MODELS


def test_a_run_resumes_with_another_number_of_replicas(tmp_path, two_replicas):
    """The halves of each batch are equal, so that all replicas have the same batch statistics."""

    def train(trainer, steps):
        totals = []
        for step in steps:
            images, identities = (tf.concat([half, half], 0) for half in batch(step, 8))
            totals.append(float(trainer.train_step(images, identities)["total"]))
        return totals

    stayed = train(make_trainer(make_strategy()), range(9))
    moved = []
    for start, strategy in ((0, make_strategy()), (3, two_replicas), (6, make_strategy())):
        trainer = make_trainer(strategy)
        checkpoints = make_checkpoints(tmp_path, trainer)
        checkpoints.restore()
        assert trainer.step == start
        moved += train(trainer, range(start, start + 3))
        checkpoints.save(trainer.step)
    np.testing.assert_array_equal(moved[:3], stayed[:3])
    np.testing.assert_allclose(moved, stayed, rtol=2e-4)
