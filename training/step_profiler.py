"""A TensorBoard profile of a few steps."""

import logging
from pathlib import Path

import tensorflow as tf

logger = logging.getLogger(__name__)

# Steps of this run, counted from 1: the first ones trace graphs and fill buffers.
FIRST, LAST = 10, 20


class StepProfiler:
    """Profiles steps 10 to 20 of a run, those two included. Changes no result.

    Args:
        folder: the profile is written to `plugins/profile` in it, where TensorBoard's profile plugin
            (`pip install tensorboard-plugin-profile`) looks for it.
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        self._count = 0
        self._is_on = False

    def wrap(self, train_step):
        """The same function from a batch to terms; the steps of this run are counted through it."""

        def step(images, identities):
            self._count += 1
            if self._count == FIRST:
                tf.profiler.experimental.start(str(self.folder))
                self._is_on = True
            with tf.profiler.experimental.Trace("train", step_num=self._count, _r=1):
                terms = train_step(images, identities)
            if self._count == LAST:
                for value in terms.values():
                    float(value)  # the device may be steps behind
                self.close()
            return terms

        return step

    def close(self):
        """Writes the profile, if one is being taken."""
        if self._is_on:
            tf.profiler.experimental.stop()
            self._is_on = False
            logger.info("profile of steps %d to %d of this run: %s", FIRST, self._count, self.folder)
