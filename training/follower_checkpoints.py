"""The part that other workers have in the chief's checkpoints."""

import shutil

from training.checkpoint import Checkpoints


class FollowerCheckpoints(Checkpoints):
    """Reads the chief's checkpoints, and takes part in writing them without keeping a file.

    The variables of several workers are read by all of them together: a worker that did not write would
    leave the chief waiting.

    Args:
        *args, **kwargs: as `training.checkpoint.Checkpoints`; `folder` is the chief's.
        temporary: Path of a folder of this worker's own.
    """

    def __init__(self, *args, temporary, **kwargs):
        super().__init__(*args, **kwargs)
        self._temporary = temporary

    def discard(self, step):
        self.saved_step = None  # the chief does the rest

    def save(self, step, best_steps=None, **scores):
        """Reads what `Checkpoints.save` does, when that does, and keeps nothing.

        Returns:
            Path of the chief's folder.
        """
        if step != self.saved_step:
            own = self._temporary / "checkpoint"
            self._write(own, {"step": step})
            shutil.rmtree(own)
        return self.folder
