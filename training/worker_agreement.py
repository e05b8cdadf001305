"""What the workers of one run have to agree on."""

import numpy as np
import tensorflow as tf


def worker_rows(strategy, batch_size, parts=1):
    """Which images of every global batch this process computes.

    Every part of a batch is shared out over all replicas in their order, so that each part is made up
    of the same images whatever the number of replicas and workers.

    Args:
        strategy: of `training.strategy.make_strategy`.
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
        strategy: of `training.strategy.make_strategy`.

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
