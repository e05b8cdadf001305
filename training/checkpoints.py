"""Writing and restoring the whole state of a training run."""

import json
import logging
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import tensorflow as tf

from common.files import atomic_folder, file_sha256, remove_folder, write_json
from nets.importers.training_checkpoint import (
    MANIFEST_NAME,
    STATE_NAME,
    VERSION,
    checkpoint_folders,
    newest_checkpoint,
)

logger = logging.getLogger(__name__)


class Checkpoints:
    """The newest checkpoints of one run, in one folder.

    A checkpoint gets its name only when all of its files are on disk, with their checksums beside
    them, so a kill or a power cut leaves whole checkpoints only. `tf.train.CheckpointManager` does not sync,
    keeps what a kill leaves, and starts from step 0 if its state file is lost.

    Row 15 of docs/fidelity.md: step and best scores are kept in the checkpoint, not in its name.

    Args:
        folder: str or Path; made if it is not there.
        state: `tf.train.Checkpoint` of everything that training changes.
        net: dict, the arguments of `nets.backbone.Backbone`.
        num_identities: int.
        loss: str, name of the loss.
        keep: int > 0, how many of the newest checkpoints stay. Defaults to `3`.
        recipe: dict, what else decides which variables there are; `None` for nothing. A checkpoint with
            `"ema"` in it holds the moving average of the net as `average`.

    Attributes:
        saved_step: int, of the newest checkpoint that this object wrote or went on from; `None` before.
    """

    def __init__(self, folder, state, net, num_identities, loss, keep=3, recipe=None):
        self.folder = Path(folder)
        self.state = state
        # As it is read back: tuples are lists.
        self.run = json.loads(json.dumps({"net": net, "num_identities": num_identities, "loss": loss}))
        if recipe:
            self.run["recipe"] = recipe
        self.keep = keep
        self.saved_step = None
        self._checksums = None  # of its files

    def save(self, step, best_steps=None, **scores):
        """Writes a checkpoint and removes the oldest beyond `keep`.

        Without a step there is nothing new to learn: for the `saved_step` only the scores are written.

        Args:
            step: int, steps done.
            best_steps: dict from validators to the step of their best score: checkpoints of these steps
                stay beside the newest. Defaults to none.
            **scores: what else to keep, as JSON.

        Returns:
            Path of the checkpoint.

        Raises:
            OSError: it could not be written, for instance for lack of space; the older ones stay.
        """
        best_steps = best_steps or {}
        target = self.folder / _name(step)
        manifest = {"version": VERSION, "step": step, **self.run, "best_steps": best_steps, **scores}
        if step == self.saved_step and (target / MANIFEST_NAME).is_file():
            write_json(target / MANIFEST_NAME, {**manifest, "sha256": self._checksums})
        else:
            self._write(target, manifest)
        self._remove_old(target, best_steps)
        return target

    def discard(self, step):
        """Removes the checkpoint of a step, whose weights turned out to be of no use."""
        if (self.folder / _name(step)).is_dir():
            remove_folder(self.folder / _name(step))
        self.saved_step = None

    def _write(self, target, manifest):
        # It replaces one that is damaged, or that belongs to a run that was set back to an older step.
        with atomic_folder(target) as folder:
            try:
                self.state.write(str(folder / STATE_NAME))
            except tf.errors.OpError as error:
                raise OSError(f"{target}: cannot write the checkpoint: {error.message}") from None
            checksums = {file.name: file_sha256(file) for file in sorted(folder.iterdir())}
            write_json(folder / MANIFEST_NAME, {**manifest, "sha256": checksums})
        self.saved_step, self._checksums = manifest["step"], checksums

    def _remove_old(self, target, best_steps):
        # Later ones are damaged, or this run would have started there: they must not crowd this one out.
        until_now = [folder for folder in checkpoint_folders(self.folder) if folder.name <= target.name]
        best = {_name(step) for step in best_steps.values()}
        for old in until_now[self.keep :]:
            if old.name not in best:
                remove_folder(old)

    def restore(self, path=None):
        """Loads the newest checkpoint that can be read.

        Args:
            path: a checkpoint, or a folder of checkpoints, to start from while this run has none of its
                own: the same command goes on from its own ones later.

        Returns:
            dict, the checkpoint's manifest; `None` if there is no checkpoint.

        Raises:
            FileNotFoundError: there is no checkpoint at `path`.
            ValueError: it is of another net, loss or number of identities, or none can be read: a run
                never starts from 0 beside checkpoints that it cannot use.
        """
        start = time.perf_counter()
        for leftover in self.folder.glob(".step_*"):
            shutil.rmtree(leftover, ignore_errors=True)  # several workers do it at once
        newest = newest_checkpoint(self.folder)
        is_own = newest is not None
        if newest is None and path is not None:
            newest = newest_checkpoint(path)
            if newest is None:
                raise FileNotFoundError(
                    f"{path}: expected a checkpoint or a folder of checkpoints, received none"
                )
        if newest is None:
            return None
        folder, manifest = newest
        for what, expected in {"recipe": None, **self.run}.items():
            if manifest.get(what) != expected:
                raise ValueError(
                    f"{folder}: this run needs {what} = {expected}, the checkpoint has {manifest.get(what)}; "
                    "give the flags of that run, or another --ckpt_path"
                )
        self.state.read(str(folder / STATE_NAME)).assert_consumed()
        if is_own:
            self.saved_step, self._checksums = manifest["step"], manifest["sha256"]
        seconds = time.perf_counter() - start
        logger.info("going on from step %d of %s, read in %.1f s", manifest["step"], folder, seconds)
        return manifest


def _name(step):
    return f"step_{step:08d}"


class SavedModels:
    """SavedModels in one folder, called `iter_{step}_lfw_{accuracy:.5f}_ytf_{accuracy:.5f}`.

    Whatever kills the run, a folder of such a name is a whole model.

    References:
    - margin-centre-face, `train_centre.py` (names, what is kept)

    Args:
        folder: made by the first export.
        export: writes a model to a path, whole or not at all.
        keep: how many of the newest stay; the best of each validator always does.
        in_names: validators whose accuracy is in the names; it is 0 where there is none.
    """

    def __init__(self, folder: Path, export: Callable[[Path], None], keep: int, in_names: Sequence[str]):
        self.folder = folder
        self.export = export
        self.keep = keep
        self._in_names = in_names

    def write(self, step: int, scores: dict[str, float], best_steps: dict[str, int]) -> Path:
        """Writes the model of a step, in place of one that is there already, and removes old ones.

        Args:
            step: steps done.
            scores: accuracy of each validator.
            best_steps: step of the best score of each validator.

        Returns:
            Path of the model.

        Raises:
            OSError: it could not be written.
        """
        pattern = "".join(f"_{name}_*" for name in self._in_names)
        # Of a run that was killed after this step; on several devices its score may differ.
        for old in self.folder.glob(f"iter_{step}{pattern}"):
            remove_folder(old)
        name = "".join(f"_{name}_{scores.get(name, 0.0):.5f}" for name in self._in_names)
        path = self.folder / f"iter_{step}{name}"
        self.export(path)
        models = {int(model.name.split("_")[1]): model for model in self.folder.glob(f"iter_*{pattern}")}
        for old_step in sorted(models)[: -self.keep]:
            if old_step not in best_steps.values():
                remove_folder(models[old_step])
        return path

    def remove_leftovers(self) -> None:
        """Removes what a kill left of models that were being written or removed."""
        for leftover in self.folder.glob(".iter_*"):
            shutil.rmtree(leftover)


class FollowerCheckpoints(Checkpoints):
    """Reads the chief's checkpoints, and takes part in writing them without keeping a file.

    The variables of several workers are read by all of them together: a worker that did not write would
    leave the chief waiting.

    Args:
        *args, **kwargs: as `training.checkpoints.Checkpoints`; `folder` is the chief's.
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
