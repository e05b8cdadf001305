"""TensorBoard scalars of a run."""

import logging

import tensorflow as tf

logger = logging.getLogger(__name__)


class Summaries:
    """Writes scalars, each call to disk at once; a full disk costs points, not the run.

    Args:
        folder: str or Path; made if it is not there.

    Raises:
        OSError: nothing can be written there.
    """

    def __init__(self, folder):
        self.folder = folder
        try:
            self._writer = tf.summary.create_file_writer(str(folder))
        except tf.errors.OpError as error:
            raise OSError(f"{folder}: cannot write TensorBoard logs: {error.message}") from None

    def write(self, step, scalars):
        """Writes one point of each.

        Args:
            step: int, steps done.
            scalars: dict from names to floats.
        """
        try:
            with self._writer.as_default(step=step):
                for name, value in scalars.items():
                    tf.summary.scalar(name, value)
            self._writer.flush()
        except tf.errors.OpError as error:
            logger.error("step %d: %s: cannot write TensorBoard logs: %s", step, self.folder, error.message)
