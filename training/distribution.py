"""Where a run computes."""

import logging
import os

import numpy as np
import tensorflow as tf

from training.options import STRATEGIES, TrainingOptions

logger = logging.getLogger(__name__)


def worker_rows(strategy, batch_size, parts=1):
    """Which images of every global batch this process computes.

    Every part of a batch is shared out over all replicas in their order, so that each part is made up
    of the same images whatever the number of replicas and workers.

    Args:
        strategy: of `training.distribution.make_strategy`.
        batch_size: int, a multiple of replicas times `parts`.
        parts: int > 0, of `training.trainer.Trainer`'s `accumulate`. Defaults to `1`.

    Returns:
        int array, increasing; all of `[0, batch_size)` with one process.
    """
    num_workers, worker = _place(strategy)
    return np.arange(batch_size).reshape(parts, num_workers, -1)[:, worker].ravel()


class WorkerAgreement:
    """Has all workers end a run at the same step.

    A worker that stopped alone would leave the others waiting in their next all-reduce. So the workers'
    signals are put together after every step: one that is told to stop takes all with it. With one
    process nothing is exchanged.

    Args:
        strategy: of `training.distribution.make_strategy`.

    Attributes:
        are_several: bool, whether there is more than one worker.
    """

    def __init__(self, strategy):
        self._strategy = strategy
        num_workers, _ = _place(strategy)
        self.are_several = num_workers > 1

        @tf.function(input_signature=[tf.TensorSpec((), tf.int32)])
        def gather(value):
            def share():
                context = tf.distribute.get_replica_context()
                # Every replica writes its own place of a vector of zeros.
                row = tf.one_hot(
                    context.replica_id_in_sync_group, context.num_replicas_in_sync, value, 0, dtype=tf.int32
                )
                return context.all_reduce("SUM", row)

            return strategy.experimental_local_results(strategy.run(share))[0]

        self._gather = gather

    def agreed_signal(self, number):
        """The signal that ends the run: this worker's, or that of another.

        Args:
            number: int, the signal that this worker got; `None` for none.

        Returns:
            The same on every worker.
        """
        if not self.are_several:
            return number
        return int(self._gather(tf.constant(number or 0)).numpy().max()) or None


def _place(strategy):
    """Number of workers, and which one this is."""
    resolver = strategy.cluster_resolver
    if resolver is None or not resolver.cluster_spec().as_dict():
        return 1, 0
    return resolver.cluster_spec().num_tasks("worker"), resolver.task_id


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


def describe_strategy(strategy: tf.distribute.Strategy, options: TrainingOptions) -> str:
    """Describes in one log line how devices share the batch, and what that means for the learning rate."""
    num_replicas = strategy.num_replicas_in_sync
    batch_size, num_parts = options.data.batch_size, options.device.accumulate
    parts = f" x {num_parts} parts" if num_parts > 1 else ""
    share = "the global batch" if options.device.sync_bn or num_replicas == 1 else "each device's share"
    if num_parts > 1:
        share = f"a part of {share}"
    if options.schedule.schedule == "steps":
        stretch = max(1, int(512 / batch_size))
        rates = f"--lr_values as given, whatever batch and devices; --lr_steps x {stretch} (512 per batch)"
    else:
        rates = f"--lr x {batch_size / 512:g} (it is for a batch of 512), whatever the devices"
    return (
        f"global batch {batch_size} = {num_replicas} device(s){parts} x "
        f"{batch_size // num_replicas // num_parts} images; batch norm over {share}; {rates}"
    )
