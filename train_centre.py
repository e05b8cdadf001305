"""Trains a net with the angular margin and the centre term.

    python -m train_centre --net_depth 50 --batch_size 64

Sources that are not converted yet are converted first. A run that was stopped goes on with the
same command.
"""

import argparse

from dataset.config import read_config
from dataset.convert import convert_sources
from training.flags import add_shared_flags
from training.program import run_program


def main(argv=None):
    """The program; returns its exit code."""
    return run_program("train_centre", train, _parse_arguments(argv))


def train(args, strategy=None):
    """Trains as the flags say.

    References:
    - margin-centre-face, `train_centre.py`

    Args:
        args: parsed flags.
        strategy: `tf.distribute.Strategy`. Defaults to all GPUs, or the one device there is.

    Returns:
        int, exit code.
    """
    config = read_config(args.config)
    # TensorFlow only now: --help and a wrong path answer at once.
    from dataset.combine import CombinedSources
    from dataset.sampler import ShuffledSampler
    from export.saved_model import export_saved_model
    from losses.angular_centre import AngularCentreLoss
    from training.schedule import LinearRise
    from training.session import Session

    session = Session(args, config, strategy)
    sources = CombinedSources(convert_sources(config, args.source))
    sampler = ShuffledSampler(sources.sizes, args.batch_size, args.seed, args.source_weights)
    with session.strategy.scope():
        head = AngularCentreLoss(
            sources.num_identities, args.margin, args.scale, args.centre_weight, seed=args.seed
        )
        head.build(session.backbone.output_shape)
    schedules = {"margin": LinearRise(args.margin, args.margin_warmup_steps)}
    return session.run(sources, sampler, head, [head.centres], export_saved_model, schedules)


def _parse_arguments(argv):
    parser = argparse.ArgumentParser(prog="python -m train_centre", description=__doc__.splitlines()[0])
    add_shared_flags(parser)
    loss = parser.add_argument_group("loss")
    loss.add_argument("--margin", type=float, default=0.5, help="radians")
    loss.add_argument("--scale", type=float, default=64.0, help="of the cosines")
    loss.add_argument("--centre_weight", type=float, default=0.3, help="of the centre term")
    loss.add_argument(
        "--margin_warmup_steps", type=int, default=0, help="the margin rises from 0 over so many steps"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    raise SystemExit(main())
