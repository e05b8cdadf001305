"""Runs one worker of a small run: the loop, checkpoints and a validation that reads the whole net.

    python -m tests.training.worker_program --folder DIR --max_steps N [--stop_at STEP] --strategy ...

At STEP the worker with index 1 sends itself SIGTERM. Prints the loss of every step as JSON.
"""

import argparse
import dataclasses
import json
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

from common.options import option, parse_options
from training.options import DeviceOptions, OutputOptions
from training.workers.cluster import own_folders


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Options of this program."""

    folder: Path = option()
    max_steps: int = option()
    stop_at: int | None = option(None)
    device: DeviceOptions


def main():
    options = parse_options(argparse.ArgumentParser(), Options)
    folder = options.folder
    output = OutputOptions(
        ckpt_path=folder / "ckpt",
        summary_path=folder / "summary",
        saved_model_path=folder / "models",
        log_file_path=folder / "logs",
        **{f"{name}_interval": 2 for name in ("show_info", "summary", "validate", "save", "ckpt")},
    )
    with own_folders(options.device, output) as output:
        return run(options, output)


def run(options, output):
    import numpy as np
    import tensorflow as tf

    from eval.scoring.verification import VerificationResult
    from nets.layers.batch_norm import synchronise_batch_norm
    from tests.training.small_trainer import NET, batch, make_trainer
    from training.checkpoints import Checkpoints, SavedModels
    from training.distribution import WorkerAgreement, make_strategy, worker_rows
    from training.loop import TrainingLoop
    from training.monitoring import RunMonitor
    from training.validation import Validator

    device = options.device
    strategy = make_strategy(kind=device.strategy)
    trainer = make_trainer(strategy, accumulate=device.accumulate)
    if device.sync_bn:
        synchronise_batch_norm(trainer.backbone)
    rows = worker_rows(strategy, 8, device.accumulate)
    losses = []
    train_step = trainer.train_step

    def step(images, identities, **options):
        terms = train_step(images, identities, **options)
        losses.append(float(terms["loss"]))
        return terms

    trainer.train_step = step

    class Batches:
        sampler = SimpleNamespace(batch_size=8, batches_per_epoch=4)
        bad_images: ClassVar = {}

        def start_at(self, number):
            while True:
                if number == options.stop_at and device.worker_index == 1:
                    os.kill(os.getpid(), signal.SIGTERM)
                images, identities = batch(number, 8)
                yield tf.gather(images, rows), tf.gather(identities, rows)
                number += 1

    def validate():  # 5 images: not a multiple of replicas
        embeddings = trainer.backbone(batch(99, 5)[0], training=False).numpy()
        score = float(np.abs(embeddings).mean())
        return VerificationResult(score, 0.0, 0.0, (score,), (0.0,)), embeddings

    def export(path, card):
        path.mkdir(parents=True)
        np.savez(path / "weights.npz", *trainer.backbone.get_weights())

    checkpoints = Checkpoints(
        output.ckpt_path, trainer.state, NET, 6, "angular_centre", scratch=output.worker_folder
    )
    loop = TrainingLoop(
        trainer,
        Batches(),
        checkpoints,
        SavedModels(output.saved_model_path, export, 100, ("lfw",)),
        [Validator("lfw", 0.0, validate)],
        output,
        options.max_steps,
        RunMonitor(max_minutes=None),
        WorkerAgreement(strategy),
    )
    loop.restore()
    code = loop.run()
    print(json.dumps({"losses": losses, "step": trainer.step, "score": loop._scores}))
    return code


if __name__ == "__main__":
    sys.exit(main())
