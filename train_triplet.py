"""Fine-tunes a net with the triplet loss.

    python -m train_triplet --model_path=output/models/iter_258000_lfw_0.99133_ytf_0.95900

The program first converts sources that are not converted yet. To resume a stopped run, run the same command
again.
`training/options.py` defines the flags.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dataset.config import read_config
from dataset.convert.sources import convert_sources
from nets.start_tensorflow import start_tensorflow
from training.input_checks import find_input_problems
from training.options import TripletTrainingOptions, parse_triplet_options
from training.program import run_program

if TYPE_CHECKING:
    import tensorflow as tf


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program and returns its exit code."""
    return run_program("train_triplet", train, parse_triplet_options(argv, find_input_problems))


def train(options: TripletTrainingOptions, strategy: tf.distribute.Strategy | None = None) -> int:
    """Fine-tunes a net and returns the exit code. `strategy` defaults to that of `--strategy`.

    Row 11 of docs/fidelity.md: the original restores only the trainable variables, so the statistics of batch
    normalisation and the last gamma start fresh. Here the whole net is restored. Optimizer and step start
    fresh.

    References:
        - margin-centre-face, `train_triplet.py`
    """
    config = read_config(options.data.config)
    # TensorFlow takes seconds to import. It is imported late so that --help and wrong paths answer at once.
    start_tensorflow()
    from dataset.sampling.by_identity import IdentitySampler
    from dataset.sampling.combine import CombinedSources
    from export.saved_model import export_saved_model
    from losses.triplet import TripletLoss
    from training.session import Session

    data, triplet = options.data, options.triplet
    session = Session(options, config, strategy, start_from=options.start.model_path)
    head = TripletLoss(triplet.mining, triplet.triplet_margin, triplet.triplet_weight, triplet.squared)
    sources = CombinedSources(convert_sources(config, data.source))
    sampler = IdentitySampler(
        sources.labels,
        data.batch_size,
        triplet.sample_per_class,
        data.seed,
        data.source_weights,
        with_replacement=triplet.with_replacement,
    )
    return session.run(sources, sampler, head, export_saved_model)


if __name__ == "__main__":
    raise SystemExit(main())
