"""Fine-tunes a net with the triplet loss.

    python -m train_triplet --model_path=output/models/iter_258000_lfw_0.99133_ytf_0.95900

Sources that are not converted yet are converted first. A run that was stopped goes on with the
same command.
"""

import argparse
from pathlib import Path

from common.flags import parse_flags
from dataset.config import read_config
from dataset.convert.convert_sources import convert_sources
from losses.variants import MININGS
from training.options import FAITHFUL, add_shared_flags
from training.program import run_program


def main(argv=None):
    """The program; returns its exit code."""
    return run_program("train_triplet", train, _parse_arguments(argv))


def train(args, strategy=None):
    """Trains as the flags say.

    Row 11 of docs/fidelity.md: the original restored trainable variables only, so that the
    statistics of batch normalisation and the last gamma started anew. Here the whole net is
    restored; optimizer and step start fresh.

    References:
    - margin-centre-face, `train_triplet.py`

    Args:
        args: parsed flags.
        strategy: `tf.distribute.Strategy`. Defaults to that of `--strategy`.

    Returns:
        int, exit code.
    """
    config = read_config(args.config)
    # TensorFlow only now: --help and a wrong path answer at once.
    from dataset.sampling.by_identity import IdentitySampler
    from dataset.sampling.combine import CombinedSources
    from export.saved_model import export_saved_model
    from losses.triplet import TripletLoss
    from training.distribution import make_strategy
    from training.session import Session

    strategy = strategy or make_strategy(kind=args.strategy)
    head = TripletLoss(args.mining, args.triplet_margin, args.triplet_weight, args.squared)
    session = Session(args, config, strategy, start_from=args.model_path)
    sources = CombinedSources(convert_sources(config, args.source))
    sampler = IdentitySampler(
        sources.labels,
        args.batch_size,
        args.sample_per_class,
        args.seed,
        args.source_weights,
        with_replacement=args.with_replacement,
    )
    return session.run(sources, sampler, head, "triplet", export_saved_model)


def _parse_arguments(argv):
    parser = argparse.ArgumentParser(prog="python -m train_triplet", description=__doc__.splitlines()[0])
    add_shared_flags(parser, sources=["vgg"], output_folder="./output/vgg-triplet")
    parser.add_argument(
        "--model_path", type=Path, help="net to fine-tune, in any form, until --ckpt_path has a checkpoint"
    )
    loss = parser.add_argument_group("loss")
    loss.add_argument("--triplet_margin", type=float, default=0.3, help="of the distances")
    loss.add_argument("--triplet_weight", type=float, default=10.0, help="of the loss, beside the decay")
    loss.add_argument("--sample_per_class", type=int, default=4, help="images of each identity in a batch")
    loss.add_argument("--mining", choices=MININGS, default="batch_hard", help="which triplets count")
    loss.add_argument(
        "--squared", action=argparse.BooleanOptionalAction, default=False, help="distances, squared"
    )
    loss.add_argument(
        "--with_replacement",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="draw identities by their images, and both with replacement (row 13)",
    )
    return parse_flags(parser, argv, {**FAITHFUL, "with_replacement": True})


if __name__ == "__main__":
    raise SystemExit(main())
