"""Trains a net with a margin loss: the angular margin and the centre term, or another.

    python -m train_centre --net_depth 50 --batch_size 64

Sources that are not converted yet are converted first. A run that was stopped goes on with the
same command.
"""

import argparse
import logging
from pathlib import Path

from common.flags import parse_flags
from dataset.config import read_config
from dataset.convert.convert_sources import convert_sources
from losses.variants import ARGUMENTS, LOSSES
from training.options import FAITHFUL, PRESETS, add_shared_flags, describe_preset
from training.program import run_program

logger = logging.getLogger(__name__)


def main(argv=None):
    """The program; returns its exit code."""
    return run_program("train_centre", train, _parse_arguments(argv))


def train(args, strategy=None):
    """Trains as the flags say.

    References:
    - margin-centre-face, `train_centre.py`

    Args:
        args: parsed flags.
        strategy: `tf.distribute.Strategy`. Defaults to that of `--strategy`.

    Returns:
        int, exit code.
    """
    config = read_config(args.config)
    if args.model_path and args.init_from:
        raise ValueError("expected --model_path or --init_from, received both")
    # TensorFlow only now: --help and a wrong path answer at once.
    from dataset.sampling.combine import CombinedSources
    from dataset.sampling.shuffled import ShuffledSampler
    from export.saved_model import export_saved_model
    from losses.build import build_loss
    from nets.importers.training_checkpoint import checkpoint_folders
    from training.centres import shard_devices
    from training.distribution import make_strategy
    from training.schedules import LinearRise
    from training.session import Session

    if args.preset:
        logger.info("--preset %s: %s, but for what is given", args.preset, describe_preset(args.preset))
    strategy = strategy or make_strategy(kind=args.strategy)
    given = {name: getattr(args, name) for name in ARGUMENTS}
    given |= {name: getattr(args, name) for name in ("label_smoothing", "sample_rate")}
    given["sharded"] = args.shard_centres
    build_loss(args.loss, num_identities=1, **given)  # what is wrong with them is found before converting
    has_margin = "margin" in LOSSES[args.loss]["arguments"]
    if args.margin_warmup_steps and not has_margin:
        raise ValueError(f"--margin_warmup_steps: --loss {args.loss} has no margin")
    goes_on = bool(args.model_path and checkpoint_folders(args.model_path))
    session = Session(
        args,
        config,
        strategy,
        resume_from=args.model_path if goes_on else None,
        start_from=args.init_from or (None if goes_on else args.model_path),
    )
    if args.shard_centres:
        shard_devices(session.strategy)  # as above
    sources = CombinedSources(convert_sources(config, args.source))
    sampler = ShuffledSampler(
        sources.sizes, args.batch_size, args.seed, args.source_weights, reshuffle=args.reshuffle
    )
    with session.strategy.scope():
        head = build_loss(args.loss, sources.num_identities, args.seed, **given)
        _check_memory(head, session, args)
        head.build(session.backbone.output_shape)
    if args.shard_centres:
        head.shard(shard_devices(session.strategy))
    if session.starts_anew and args.model_path:
        _take_centres(head, args.model_path)
    elif session.starts_anew and args.init_from:
        logger.info("the centres of %d identities start fresh", sources.num_identities)
    schedules = {"margin": LinearRise(head.margin, args.margin_warmup_steps)} if has_margin else {}
    return session.run(sources, sampler, head, args.loss, export_saved_model, schedules)


def _check_memory(head, session, args):
    from training.memory import device_memory, require_memory

    free = device_memory(session.strategy)
    dim = session.backbone.output_shape[-1]
    share = args.batch_size // session.strategy.num_replicas_in_sync
    num_shards = session.strategy.num_replicas_in_sync if args.shard_centres else 1
    need = require_memory(head.num_centres, dim, share, args.sample_rate, free, num_shards)
    of = "an unknown amount" if free is None else f"{free / 1e9:.1f} GB"
    logger.info("%d centres need %s on each device, of %s that is free", head.num_centres, need, of)


def _take_centres(head, path):
    from nets.importers.tf1_weights import checkpoint_prefix, load_tf1_checkpoint

    centres = load_tf1_checkpoint(path).centres if checkpoint_prefix(path) else None
    received = "none" if centres is None else f"shape {centres.shape}"
    if centres is None or centres.shape != head.centres_shape:
        raise ValueError(
            f"{path}: expected centres of shape {head.centres_shape}, received {received}; "
            "--init_from takes the net alone"
        )
    head.assign_centres(centres)
    logger.info("centres of %s: %d identities", path, centres.shape[1])


def _parse_arguments(argv):
    parser = argparse.ArgumentParser(prog="python -m train_centre", description=__doc__.splitlines()[0])
    add_shared_flags(parser, sources=["vgg", "ms1m"], output_folder="./output")
    parser.add_argument(
        "--reshuffle",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="the images anew for every epoch (row 12)",
    )
    start = parser.add_argument_group("start", "of a run that has no checkpoint in --ckpt_path yet")
    start.add_argument(
        "--model_path", type=Path,
        help="go on from a training checkpoint, or from net and centres of a TensorFlow 1 checkpoint",
    )  # fmt: skip
    start.add_argument(
        "--init_from", type=Path, help="take the net of any model; centres, optimizer and step start fresh"
    )
    loss = parser.add_argument_group("loss", "not given: what each loss has as its own")
    loss.add_argument("--loss", choices=LOSSES, default="angular_centre", help="which one")
    loss.add_argument("--margin", type=float, help="radians; of a cosine for cosface and adaface")
    loss.add_argument("--scale", type=float, help="of the cosines")
    loss.add_argument("--centre_weight", type=float, help="of the centre term (0.3)")
    loss.add_argument("--margin_a", type=float, help="of combined: factor of the angle")
    loss.add_argument("--margin_b", type=float, help="of combined: taken off the cosine")
    loss.add_argument("--num_sub_centres", type=int, help="of sub_centre: per identity")
    loss.add_argument(
        "--label_smoothing", type=float, default=0.0, metavar="SHARE", help="of the labels, to all identities"
    )
    loss.add_argument(
        "--margin_warmup_steps", type=int, default=0, help="the margin rises from 0 over so many steps"
    )
    centres = parser.add_argument_group("many identities", "see docs/many_identities.md")
    centres.add_argument(
        "--sample_rate", type=float, default=1.0, metavar="R",
        help="share of the identities that a step sees: the batch's and others at random",
    )  # fmt: skip
    centres.add_argument(
        "--shard_centres", action="store_true", help="each device holds a part of the centres"
    )
    parser.add_argument(
        "--preset", choices=PRESETS, help="a whole recipe: flags that are given win over its own"
    )
    return parse_flags(parser, argv, {**FAITHFUL, "reshuffle": False}, PRESETS)


if __name__ == "__main__":
    raise SystemExit(main())
