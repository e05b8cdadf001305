import dataclasses
import json
import os
import signal

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nets.importers.training_checkpoint import newest_checkpoint
from tests.eval.made_calibration import calibration
from tests.training.small_loop import Batches, intervals, make_loop, names
from tests.training.small_trainer import batch, make_trainer, weights
from training.distribution import make_strategy


def test_a_run_logs_saves_validates_and_exports(tmp_path, caplog):
    caplog.set_level("INFO")
    loop, trainer = make_loop(tmp_path, accuracies=[0.6, 0.85, 0.7, 0.9])
    assert loop.run() == 0
    assert trainer.step == 6
    # Step 2 improved above the threshold, and step 6 is the end. Step 4 did not improve.
    assert names(tmp_path / "models") == ["iter_2_lfw_0.85000", "iter_6_lfw_0.90000"]
    assert (tmp_path / "models" / "iter_6_lfw_0.90000" / "step").read_text() == "6"
    assert names(tmp_path / "ckpt") == ["step_00000002", "step_00000003", "step_00000006"]
    assert "Precision on lfw : 0.85000+-0.00000" in caplog.text
    lines = [line for line in caplog.messages if line.startswith("step") and "images/s" in line]
    assert len(lines) == 3
    for word in (
        "step 4/6",
        "epoch 1.00",
        "cross_entropy",
        "centre",
        "accuracy",
        "margin_accuracy",
        "cosine",
        "ETA",
    ):
        assert any(line.startswith("step 4/6  ") and word in line for line in caplog.messages), word
    assert max(len(line) for line in caplog.messages if line.startswith("step ")) < 140

    events = EventAccumulator(str(tmp_path / "summary"))
    events.Reload()
    assert {
        "train/total",
        "train/cosine",
        "train/learning_rate",
        "validation/lfw",
        "speed/images_per_second",
    } <= {
        *events.Tags()["scalars"],
        *events.Tags()["tensors"],
    }
    scores = [
        (e.step, round(float(tf.make_ndarray(e.tensor_proto)), 2)) for e in events.Tensors("validation/lfw")
    ]
    assert scores == [(0, 0.6), (2, 0.85), (4, 0.7), (6, 0.9)]


def test_logged_losses_are_means_of_the_steps(tmp_path, caplog):
    caplog.set_level("INFO")
    reference = make_trainer(make_strategy())
    totals = [float(reference.train_step(*batch(step, 8))["total"]) for step in range(4)]
    make_loop(tmp_path, max_steps=4)[0].run()
    lines = [line for line in caplog.messages if "images/s" in line]
    for line, expected in zip(lines, (totals[:2], totals[2:]), strict=True):
        assert f"total {np.mean(expected):.4g}  " in line


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_saves_and_the_same_command_resumes(tmp_path, number, caplog):
    caplog.set_level("INFO")
    unbroken, expected = make_loop(tmp_path / "unbroken", max_steps=7)
    assert unbroken.run() == 0

    def stop(images):
        os.kill(os.getpid(), number)
        return images

    loop, trainer = make_loop(tmp_path / "broken", max_steps=7, batches=Batches({4: stop}))
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    assert loop.run() == 128 + number
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert trainer.step == 5  # The current step was finished.
    assert "Saved step 5 to" in caplog.text and "Run the same command again to resume." in caplog.text
    assert not (tmp_path / "broken" / "models").exists()

    loop, resumed = make_loop(tmp_path / "broken", max_steps=7)
    assert loop.run() == 0
    for one, two in zip(weights(expected), weights(resumed), strict=True):
        np.testing.assert_array_equal(one, two)


def test_best_scores_survive_a_stop(tmp_path):
    make_loop(tmp_path, max_steps=2, accuracies=[0.9, 0.7])[0].run()
    make_loop(tmp_path, max_steps=4, accuracies=[0.85])[0].run()
    # 0.85 is above the threshold but no improvement on 0.9, so only the end is exported.
    assert names(tmp_path / "models") == ["iter_2_lfw_0.70000", "iter_4_lfw_0.85000"]
    assert make_loop(tmp_path)[0].checkpoints.restore()["best"] == {"lfw": 0.9}


def test_best_scores_of_another_protocol_are_not_kept(tmp_path, caplog):
    """They cannot be compared. Scores of a set that is not validated, and of an old checkpoint, are kept."""
    arguments = {"every": intervals(show_info=10, summary=10, validate=1, save=10, export=10)}
    first, second = {"sha256": "1"}, {"sha256": "2"}
    make_loop(tmp_path, max_steps=2, accuracies=[0.5, 0.9, 0.9], protocol=first, **arguments)[0].run()
    make_loop(tmp_path, max_steps=3, scored="ytf_videos", protocol=second, **arguments)[0].run()
    make_loop(tmp_path, max_steps=4, accuracies=[0.6], protocol=first, **arguments)[0].run()
    manifest = newest_checkpoint(tmp_path / "ckpt")[1]
    assert manifest["best"]["lfw"] == 0.9 and "has changed" not in caplog.text
    make_loop(tmp_path, max_steps=5, accuracies=[0.85], protocol=second, **arguments)[0].run()
    manifest = newest_checkpoint(tmp_path / "ckpt")[1]
    assert (manifest["best"]["lfw"], manifest["best_steps"]["lfw"]) == (0.85, 5)
    assert "validation on lfw has changed" in caplog.text
    # This is a new best score, so it is exported.
    assert "iter_5_lfw_0.85000" in names(tmp_path / "models")


def test_card_says_what_each_score_is(tmp_path):
    every = intervals(show_info=10, summary=10, validate=2, save=10, export=3)
    loop, _ = make_loop(tmp_path, max_steps=3, accuracies=[0.5, 0.7, 0.6], protocol={"pairs": 9}, every=every)
    loop.run()
    card = json.loads((tmp_path / "models" / "iter_3_lfw_0.60000" / "model_card.json").read_text())
    score = {"accuracy": 0.6, "interval": [0.6, 0.6], "scored_at_step": 3, "protocol": {"pairs": 9}}
    assert card == {"step": 3, "precision": "float32", "scores": {"lfw": score}}


def test_card_has_the_thresholds_of_its_own_step(tmp_path):
    """If two sets have thresholds of one kind, the first set wins."""
    every = intervals(show_info=10, summary=10, validate=2, save=10, export=1)
    loop, _ = make_loop(tmp_path, max_steps=4, accuracies=[0.5] * 6, every=every)

    def measures(name):
        def measure(embeddings):
            assert embeddings.shape == (2, 2)
            return calibration(name=f"{name} at {loop._step}")

        return measure

    (validator,) = loop.validators
    loop.validators = [
        dataclasses.replace(validator, name=name, calibrate=measures(name)) for name in ("lfw", "other")
    ]
    loop.run()
    sets = {}
    for step in range(1, 5):
        card = json.loads((tmp_path / "models" / f"iter_{step}_lfw_0.50000" / "model_card.json").read_text())
        sets[step] = [found["set"] for found in card.get("calibrations", {}).values()]
    assert sets == {1: [], 2: ["lfw at 2"], 3: [], 4: ["lfw at 4"]}


def test_finished_run_is_not_trained_again(tmp_path, caplog):
    caplog.set_level("INFO")
    make_loop(tmp_path, max_steps=2)[0].run()
    assert make_loop(tmp_path, max_steps=2)[0].run() == 0
    assert "step 2 of 2: nothing left to train" in caplog.text


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    batches = Batches({4: lambda images: images * np.nan})
    loop, _ = make_loop(tmp_path, batches=batches)
    with pytest.raises(FloatingPointError, match=r"step 5: .* loss.* nan"):
        loop.run()
    # The step that was due to be saved with such weights is not saved.
    assert names(tmp_path / "ckpt") == ["step_00000003"]
    assert not (tmp_path / "models").exists()


def test_weights_are_saved_when_a_batch_cannot_be_read(tmp_path):
    def unreadable(_):
        raise ValueError("shard: record at byte 12: expected")

    loop, _ = make_loop(tmp_path, batches=Batches({5: unreadable}))
    with pytest.raises(ValueError, match="record at byte 12"):
        loop.run()
    assert names(tmp_path / "ckpt")[-1] == "step_00000005"


def test_old_models_are_removed_except_the_best(tmp_path):
    every = intervals(show_info=10, summary=10, validate=1, save=10, export=1)
    accuracies = [0.5, 0.6, 0.9, 0.7, 0.6, 0.5]
    loop, _ = make_loop(tmp_path, max_steps=5, accuracies=accuracies, every=every, max_models=1)
    loop.run()
    assert names(tmp_path / "models") == ["iter_2_lfw_0.90000", "iter_5_lfw_0.50000"]


def test_best_model_stays_when_its_name_has_another_score(tmp_path):
    arguments = {
        "every": intervals(show_info=10, summary=10, validate=1, save=10, export=1),
        "max_models": 1,
        "scored": "ytf_videos",
    }
    make_loop(tmp_path, max_steps=3, accuracies=[0.5, 0.6, 0.9, 0.7], **arguments)[0].run()
    # The same holds in the second part of a run that was stopped.
    make_loop(tmp_path, max_steps=5, accuracies=[0.6, 0.5], **arguments)[0].run()
    models = ["iter_2", "iter_5"]
    assert names(tmp_path / "models") == models
