"""Trains a net with a margin loss.

    python -m train_centre --net_depth 50 --batch_size 64

The program first converts sources that are not converted yet. To resume a stopped run, run the same command
again.
`training/options.py` defines the flags.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dataset.config import read_config
from dataset.convert.sources import convert_sources
from nets.start_tensorflow import start_tensorflow
from training.input_checks import find_input_problems
from training.options import CentreTrainingOptions, describe_preset, parse_centre_options
from training.program import run_program

if TYPE_CHECKING:
    import tensorflow as tf

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program and returns its exit code."""
    return run_program("train_centre", train, parse_centre_options(argv, find_input_problems))


def train(options: CentreTrainingOptions, strategy: tf.distribute.Strategy | None = None) -> int:
    """Trains a net and returns the exit code. `strategy` defaults to that of `--strategy`.

    References:
        - margin-centre-face, `train_centre.py`
    """
    config = read_config(options.data.config)
    # TensorFlow takes seconds to import. It is imported late so that --help and wrong paths answer at once.
    start_tensorflow()
    from dataset.sampling.combine import CombinedSources
    from dataset.sampling.shuffled import ShuffledSampler
    from export.saved_model import export_saved_model
    from nets.importers.training_checkpoint import checkpoint_folders
    from training.centre_head import build_centre_head, check_loss, margin_schedules
    from training.session import Session
    from training.teacher import NoLoss

    if options.preset:
        logger.info(
            "--preset %s: %s. Flags that you give win.", options.preset, describe_preset(options.preset)
        )
    model_path, init_from = options.start.model_path, options.start.init_from
    is_checkpoint = bool(model_path and checkpoint_folders(model_path))
    session = Session(
        options,
        config,
        strategy,
        resume_from=model_path if is_checkpoint else None,
        start_from=init_from or (None if is_checkpoint else model_path),
    )
    check_loss(options, session.strategy)
    data = options.data
    sources = CombinedSources(convert_sources(config, data.source))
    sampler = ShuffledSampler(
        sources.sizes, data.batch_size, data.seed, data.source_weights, reshuffle=options.reshuffle
    )
    if options.loss.has_centres:
        head = build_centre_head(options, session, sources.num_identities)
    else:
        head = NoLoss()
    schedules = margin_schedules(head, options.loss, session.first_step)
    return session.run(sources, sampler, head, export_saved_model, schedules)


if __name__ == "__main__":
    raise SystemExit(main())
