"""Makes the distribution strategy, and divides batches among devices and workers."""

import logging
import os

import numpy as np
import tensorflow as tf

from common.files import one_line
from training.options import DeviceOptions, TrainingOptions

logger = logging.getLogger(__name__)


def worker_rows(strategy: tf.distribute.Strategy, batch_size: int, parts: int = 1) -> np.ndarray:
    """Returns which images of every global batch this process computes.

    Each part of a batch is divided among the replicas in order. So a part consists of the same images for any
    number of replicas and workers.

    Args:
        strategy: strategy of the run.
        batch_size: number of images of the global batch, a multiple of the number of replicas times `parts`.
        parts: number of parts that a step computes one after the other.

    Returns:
        Positions in the batch in increasing order: int64, shape `(batch_size / num_workers,)`.
    """
    num_workers, worker = _num_workers_and_index(strategy)
    return np.arange(batch_size).reshape(parts, num_workers, -1)[:, worker].ravel()


def replica_devices(strategy: tf.distribute.Strategy) -> tuple[str, ...]:
    """Returns the devices of this process's replicas, in order, or `()` for a single CPU."""
    if strategy.num_replicas_in_sync > 1:
        return tuple(strategy.extended.worker_devices)
    return tuple(device.name for device in tf.config.list_logical_devices("GPU")[:1])


class WorkerAgreement:
    """Makes all workers end a run at the same step.

    If one worker stopped alone, the others would wait forever in their next all-reduce. So the workers
    exchange their signals after every step, and if one has to stop, all stop. A single process exchanges
    nothing.

    Attributes:
        are_several: whether there is more than one worker.
    """

    def __init__(self, strategy: tf.distribute.Strategy):
        self.are_several = _num_workers_and_index(strategy)[0] > 1

        @tf.function(input_signature=[tf.TensorSpec((), tf.int32)])
        def gather(value):
            def share():
                context = tf.distribute.get_replica_context()
                # The vector is 0 except at the position of this replica, so the sum collects all values.
                row = tf.one_hot(
                    context.replica_id_in_sync_group, context.num_replicas_in_sync, value, 0, dtype=tf.int32
                )
                return context.all_reduce("SUM", row)

            return strategy.experimental_local_results(strategy.run(share))[0]

        self._gather = gather

    def agreed_signal(self, number: int | None) -> int | None:
        """Returns the signal that ends the run on all workers, or `None`.

        Args:
            number: the signal that this worker received, if any.
        """
        if not self.are_several:
            return number
        return int(self._gather(tf.constant(number or 0)).numpy().max()) or None


def _num_workers_and_index(strategy):
    resolver = strategy.cluster_resolver
    if resolver is None or not resolver.cluster_spec().as_dict():
        return 1, 0
    return resolver.cluster_spec().num_tasks("worker"), resolver.task_id


def make_strategy(devices: list[str] | None = None, kind: str = "auto") -> tf.distribute.Strategy:
    """Makes the one distribution strategy of a program.

    Call it once, before any other TensorFlow operation: the all-reduces of two strategies in one process
    clash, and workers have to connect before their first operation.

    Row 17 of docs/fidelity.md: the original is bound to GPU 3.

    Args:
        devices: device names such as `["GPU:0", "GPU:1"]`. Defaults to all GPUs.
        kind: `"auto"` mirrors over the devices if there are at least two, and otherwise uses one device;
            `"one"` uses one device; `"mirrored"` needs at least two; `"multiworker"` waits for all workers in
            `TF_CONFIG`.

    Raises:
        OSError: the workers cannot connect.
        ValueError: `"mirrored"` with fewer than two devices.
    """
    if kind == "multiworker":
        try:
            return tf.distribute.MultiWorkerMirroredStrategy()
        except tf.errors.OpError as error:  # A port is in use, or a worker has ended.
            raise OSError(
                f"the workers cannot connect: {one_line(error.message)}. Start all of them again."
            ) from None
    if "TF_CONFIG" in os.environ:
        logger.warning(
            "TF_CONFIG is set, and --strategy is %s: this process trains alone. To train with "
            "the other workers, give --strategy multiworker.",
            kind,
        )
    if devices is None:
        devices = [device.name for device in tf.config.list_logical_devices("GPU")]
    if kind == "mirrored" and len(devices) < 2:
        raise ValueError(f"--strategy mirrored: expected at least 2 GPUs, received {len(devices)}")
    if kind != "one" and len(devices) > 1:
        return tf.distribute.MirroredStrategy(devices)
    return tf.distribute.get_strategy()


def set_arithmetic(options: DeviceOptions) -> None:
    """Sets how GPUs compute, for the whole process. Call it before the first operation.

    Environment variables that are already set take precedence.
    """
    has_16_bits = options.precision != "float32"
    # In a 16-bit net, only the loss is in float32, and the loss must not be rounded.
    tf.config.experimental.enable_tensor_float_32_execution(options.tf32 == "on" and not has_16_bits)
    if has_16_bits:
        # Otherwise batch norm transposes 16-bit images before and after its kernel.
        os.environ.setdefault("TF_USE_CUDNN_BATCHNORM_SPATIAL_PERSISTENT", "1")
    if options.deterministic:
        tf.config.experimental.enable_op_determinism()
        # A step never scatters two values to the same place, so the order of sums does not matter. TensorFlow
        # does not know that: it would copy all logits to the host, and refuse the gradient of dropped tokens.
        for kind in ("SCATTER_OP_DETERMINISM", "SEGMENT_REDUCTION_OP_DETERMINISM_EXCEPTIONS"):
            os.environ.setdefault(f"TF_DISABLE_{kind}", "1")


def describe_strategy(strategy: tf.distribute.Strategy, options: TrainingOptions) -> str:
    """Returns a log line that says how devices share the batch, and what that means for the learning rate."""
    num_replicas = strategy.num_replicas_in_sync
    batch_size, num_parts = options.data.batch_size, options.device.accumulate
    parts = f" x {num_parts} parts" if num_parts > 1 else ""
    share = "the global batch" if options.device.sync_bn or num_replicas == 1 else "each device's share"
    if num_parts > 1:
        share = f"a part of {share}"
    if options.schedule.schedule == "steps":
        stretch = max(1, int(512 / batch_size))
        rates = f"--lr_values as given, for any batch and devices; --lr_steps x {stretch} (512 per batch)"
    else:
        rates = f"--lr x {batch_size / 512:g} (it is for a batch of 512), for any number of devices"
    return (
        f"global batch {batch_size} = {num_replicas} device(s){parts} x "
        f"{batch_size // num_replicas // num_parts} images; batch norm over {share}; {rates}"
    )
