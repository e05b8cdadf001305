"""A pipeline in the middle of its run."""

import itertools


class RunningPipeline:
    """Takes batches from a data set that runs already.

    A context manager: it starts the data set, takes batches until what fills and tunes it is over, and
    ends it. Of a short run a tenth is its start, and the work on batches that nobody takes any more.

    Args:
        dataset: endless `tf.data.Dataset`.
        batches: int > 0, how many each call takes.
        warm_up: int >= 0, how many are taken before.
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
    """Takes all of them and keeps none."""
    for _ in batches:
        pass
