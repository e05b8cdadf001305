"""Makes a training loop over a small net."""

import dataclasses
import json
from types import SimpleNamespace
from typing import ClassVar

import numpy as np

from eval.scoring.verification import VerificationResult
from tests.training.small_trainer import batch, make_checkpoints, make_trainer
from training.checkpoints import SavedModels
from training.distribution import WorkerAgreement, make_strategy
from training.loop import TrainingLoop
from training.monitoring import RunMonitor
from training.options import OutputOptions
from training.validation import Validator


def result(accuracy=0.5):
    """Returns a score and the embeddings of two images."""
    return VerificationResult(accuracy, 0.0, 0.3, (accuracy,), (0.3,)), np.eye(2)


def intervals(show_info, summary, validate, save, export):
    """Returns arguments of `OutputOptions`."""
    return {
        "show_info_interval": show_info,
        "summary_interval": summary,
        "validate_interval": validate,
        "save_interval": save,
        "ckpt_interval": export,
    }


class Batches:
    """Batches that depend only on their number. `at` maps numbers to functions that change the images."""

    sampler = SimpleNamespace(batch_size=8, batches_per_epoch=4.0)
    bad_images: ClassVar = {}

    def __init__(self, at=None):
        self.at = at or {}

    def start_at(self, step):
        while True:
            images, identities = batch(step, 8)
            if step in self.at:
                images = self.at[step](images)
            yield images, identities
            step += 1

    def records_of(self, step):
        return []


def make_loop(
    folder,
    max_steps=6,
    batches=None,
    accuracies=None,
    scored="lfw",
    protocol=None,
    max_minutes=None,
    max_models=100,
    every=None,
    **output,
):
    """Returns a loop, which has resumed if there is a checkpoint, and its trainer.

    Args:
        every: what `intervals` returns.
        **output: other arguments of `OutputOptions`.
    """
    strategy = make_strategy()
    trainer = make_trainer(strategy)
    accuracies = iter(accuracies or [])

    def export(path, card):
        path.mkdir(parents=True)
        (path / "step").write_text(str(trainer.step))
        (path / "model_card.json").write_text(json.dumps(card))

    every = every or intervals(show_info=2, summary=2, validate=2, save=3, export=100)
    loop = TrainingLoop(
        trainer,
        batches or Batches(),
        make_checkpoints(folder / "ckpt", trainer),
        SavedModels(folder / "models", export, max_models, [scored] if scored == "lfw" else []),
        [Validator(scored, 0.8, lambda: result(next(accuracies, 0.5)), protocol or {})],
        OutputOptions(summary_path=folder / "summary", log_file_path=folder / "logs", **every, **output),
        max_steps,
        RunMonitor(max_minutes),
        WorkerAgreement(strategy),
    )
    loop.restore()
    return loop, trainer


def with_validator(loop, score):
    """Returns the loop, with another function in its validator."""
    (validator,) = loop.validators
    loop.validators = [dataclasses.replace(validator, score=score)]
    return loop


def names(folder):
    """Returns the names of the files in a folder, sorted."""
    return sorted(path.name for path in folder.iterdir())
