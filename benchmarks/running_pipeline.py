"""Takes batches from an input pipeline that has been running for a while."""

import itertools


class RunningPipeline:
    """Takes batches from a data set that has warmed up.

    As a context manager, it starts the data set, takes batches until its buffers are full and its tuning is
    done, and ends it. Otherwise the start, and batches that are prepared but never taken, would make up a
    tenth of a short measurement.

    Args:
        dataset: endless `tf.data.Dataset`.
        batches: int > 0, number of batches that each call takes.
        warm_up: int >= 0, number of batches to take first.
    """

    def __init__(self, dataset, batches, warm_up):
        self.dataset = dataset
        self.batches = batches
        self.warm_up = warm_up
        self._iterator = None

    def __enter__(self):
        self._iterator = iter(self.dataset)
        consume(itertools.islice(self._iterator, self.warm_up))
        return self

    def __exit__(self, *exception):
        self._iterator = None

    def __call__(self):
        consume(itertools.islice(self._iterator, self.batches))


def consume(batches):
    """Takes all batches and drops them."""
    for _ in batches:
        pass
