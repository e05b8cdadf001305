"""Where a run computes."""

import logging
import os

import tensorflow as tf

from training.device_flags import STRATEGIES

logger = logging.getLogger(__name__)


def make_strategy(devices=None, kind="auto"):
    """The one `tf.distribute.Strategy` of a program.

    Call it once, and before anything else of TensorFlow: two strategies in one process clash in their
    all-reduce, and workers have to meet before their first operation.

    Row 17 of docs/fidelity.md: the original is bound to GPU 3.

    Args:
        devices: list of device names, such as `["GPU:0", "GPU:1"]`. Defaults to all GPUs.
        kind: `"auto"`, a `MirroredStrategy` over the devices, or the default strategy if there are
            fewer than two, on the GPU if there is one; `"one"`, the default strategy; `"mirrored"`, which
            refuses fewer than two devices; `"multiworker"`, a `MultiWorkerMirroredStrategy` of the workers
            in `TF_CONFIG`, which waits until all of them are there.

    Returns:
        A `tf.distribute.Strategy`.

    Raises:
        ValueError: an unknown kind, or fewer than two devices for `"mirrored"`.
    """
    if kind not in STRATEGIES:
        raise ValueError(f"--strategy: expected one of {', '.join(STRATEGIES)}, received {kind}")
    if kind == "multiworker":
        return tf.distribute.MultiWorkerMirroredStrategy()
    if "TF_CONFIG" in os.environ:
        logger.warning("TF_CONFIG is set, and --strategy is %s: this process trains alone", kind)
    if devices is None:
        devices = [device.name for device in tf.config.list_logical_devices("GPU")]
    if kind == "mirrored" and len(devices) < 2:
        raise ValueError(f"--strategy mirrored: expected at least 2 GPUs, received {len(devices)}")
    if kind != "one" and len(devices) > 1:
        return tf.distribute.MirroredStrategy(devices)
    return tf.distribute.get_strategy()


def describe_strategy(strategy, args):
    """One line for the log: how the batch is shared out, and what the learning rate makes of it.

    Args:
        strategy: of `make_strategy`.
        args: parsed flags.

    Returns:
        str.
    """
    num_replicas = strategy.num_replicas_in_sync
    share = args.batch_size // num_replicas // args.accumulate
    parts = f" x {args.accumulate} parts" if args.accumulate > 1 else ""
    of = "the global batch" if args.sync_bn or num_replicas == 1 else "each device's share"
    if args.accumulate > 1:
        of = f"a part of {of}"
    if args.schedule == "steps":
        stretch = max(1, int(512 / args.batch_size))
        rates = f"--lr_values as given, whatever batch and devices; --lr_steps x {stretch} (512 per batch)"
    else:
        rates = f"--lr x {args.batch_size / 512:g} (it is for a batch of 512), whatever the devices"
    return (
        f"global batch {args.batch_size} = {num_replicas} device(s){parts} x {share} images; batch norm over "
        f"{of}; {rates}"
    )
