"""Builds the loss layer of train_centre, after a check that its centres fit into memory."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import tensorflow as tf

from common.files import readable_size
from losses.build import build_loss
from losses.centre_layer import CentreLayer
from nets.importers.tf1_weights import checkpoint_prefix, load_tf1_checkpoint
from training.centres import shard_devices
from training.memory import device_memory, require_memory
from training.options import CentreTrainingOptions, LossOptions
from training.schedules import LinearRise
from training.session import Session

logger = logging.getLogger(__name__)


def check_loss(options: CentreTrainingOptions, strategy: tf.distribute.Strategy) -> None:
    """Raises `ValueError` if the flags of the loss are wrong. Call it before the sources are converted."""
    if options.loss.has_centres:
        _build(options, num_identities=1)
    if options.centres.shard_centres:
        shard_devices(strategy)


def build_centre_head(options: CentreTrainingOptions, session: Session, num_identities: int) -> CentreLayer:
    """Makes and builds the loss layer.

    A new run takes its centres from `--model_path`. Without that flag they start at random.

    Args:
        options: the flags.
        session: the run, with strategy, net and memory of the GPUs.
        num_identities: number of identities of all sources.

    Raises:
        ValueError: the centres do not fit into memory, or `--model_path` has none of the right shape.
    """
    strategy, start = session.strategy, options.start
    num_replicas = strategy.num_replicas_in_sync
    with strategy.scope():
        head = _build(options, num_identities)
        free = device_memory(strategy, session.gpu_memory)
        need = require_memory(
            head.num_centres,
            session.backbone.output_shape[-1],
            options.data.batch_size // num_replicas,
            options.centres.sample_rate,
            free,
            num_replicas if options.centres.shard_centres else 1,
        )
        available = "unknown" if free is None else readable_size(free)
        logger.info("%d centres need %s on each device; free: %s", head.num_centres, need, available)
        head.build(session.backbone.output_shape)
    if options.centres.shard_centres:
        head.shard(shard_devices(strategy))
    if session.is_new and start.model_path:
        _load_centres(head, start.model_path)
    elif session.is_new and start.init_from:
        logger.info("The centres of %d identities start fresh.", num_identities)
    return head


def margin_schedules(head: CentreLayer, options: LossOptions, first_step: int) -> dict[str, Callable]:
    """Returns `StepOptions.schedules` for this head: the margin, or `{}` if the loss has none."""
    if not options.has_margin:
        return {}
    if first_step < options.margin_warmup_steps:
        logger.info(
            "The margin rises from 0 to %g until step %d. Until then the loss rises with it, because the "
            "task gets harder. Watch accuracy and cosine instead.",
            *(head.margin, options.margin_warmup_steps),
        )
    return {"margin": LinearRise(head.margin, options.margin_warmup_steps)}


def _build(options, num_identities):
    return build_loss(
        options.loss.loss,
        num_identities,
        options.data.seed,
        sample_rate=options.centres.sample_rate,
        sharded=options.centres.shard_centres,
        **options.loss.arguments(),
    )


def _load_centres(head: CentreLayer, path: Path) -> None:
    centres = load_tf1_checkpoint(path).centres if checkpoint_prefix(path) else None
    if centres is None or centres.shape != head.centres_shape:
        received = "none" if centres is None else f"shape {centres.shape}"
        raise ValueError(
            f"{path}: expected centres of shape {head.centres_shape}, received {received}. "
            "To take only the net, give --init_from."
        )
    head.assign_centres(centres)
    logger.info("Loaded the centres of %d identities from %s.", centres.shape[1], path)
