"""A small run of one worker: the loop, checkpoints and a validation that reads the whole net.

    python -m tests.training.worker_program FOLDER MAX_STEPS [--stop_at STEP] --strategy ... --workers ...

At STEP the worker with index 1 sends itself SIGTERM. Prints the loss of every step as JSON.
"""

import argparse
import json
import os
import signal
import sys
from pathlib import Path

from training.options import add_device_flags
from training.workers import own_folders


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("max_steps", type=int)
    parser.add_argument("--stop_at", type=int)
    add_device_flags(parser)
    args = parser.parse_args()
    args.ckpt_path, args.summary_path = args.folder / "ckpt", args.folder / "summary"
    args.saved_model_path, args.log_file_path = args.folder / "models", args.folder / "logs"
    with own_folders(args):
        return run(args)


def run(args):
    import numpy as np
    import tensorflow as tf

    from eval.scoring.verification import VerificationResult
    from nets.layers.batch_norm import synchronise_batch_norm
    from tests.training.test_checkpoint import NET
    from tests.training.test_trainer import batch, make_trainer
    from training.checkpoints import Checkpoints, FollowerCheckpoints
    from training.distribution import WorkerAgreement, make_strategy, worker_rows
    from training.loop import TrainingLoop
    from training.progress import Intervals

    strategy = make_strategy(kind=args.strategy)
    trainer = make_trainer(strategy, accumulate=args.accumulate)
    if args.sync_bn:
        synchronise_batch_norm(trainer.backbone)
    rows = worker_rows(strategy, 8, args.accumulate)
    losses = []
    train_step = trainer.train_step

    def step(images, identities):
        terms = train_step(images, identities)
        losses.append(float(terms["loss"]))
        return terms

    trainer.train_step = step

    class Batches:
        def start_at(self, number):
            while True:
                if number == args.stop_at and args.worker_index == 1:
                    os.kill(os.getpid(), signal.SIGTERM)
                images, identities = batch(number, 8)
                yield tf.gather(images, rows), tf.gather(identities, rows)
                number += 1

    def validate():  # 5 images: not a multiple of replicas
        score = float(np.abs(trainer.backbone(batch(99, 5)[0], training=False)).mean())
        return VerificationResult(score, 0.0, 0.0, (score,), (0.0,))

    def export(path):
        path.mkdir(parents=True)
        np.savez(path / "weights.npz", *trainer.backbone.get_weights())

    given = (args.ckpt_path, trainer.state, NET, 6, "angular_centre")
    if args.worker_folder is None:
        checkpoints = Checkpoints(*given)
    else:
        checkpoints = FollowerCheckpoints(*given, temporary=args.worker_folder)
    loop = TrainingLoop(
        trainer,
        Batches(),
        checkpoints,
        {"lfw": validate},
        export,
        intervals=Intervals(2, 2, 2, 2, 2),
        max_steps=args.max_steps,
        batch_size=8,
        steps_per_epoch=4,
        summary_path=args.summary_path,
        models_path=args.saved_model_path,
        thresholds={"lfw": 0.0},
        max_models=100,
        workers=WorkerAgreement(strategy),
    )
    code = loop.run()
    print(json.dumps({"losses": losses, "step": trainer.step, "score": loop._scores}))
    return code


if __name__ == "__main__":
    sys.exit(main())
