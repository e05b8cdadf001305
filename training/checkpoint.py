"""Writing and restoring the whole state of a training run."""

import json
import logging
import os
import shutil
from pathlib import Path

import tensorflow as tf

from dataset.atomic import sync_folder
from nets.checkpoint import MANIFEST_NAME, STATE_NAME, VERSION, checkpoint_folders, newest_checkpoint, sha256

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
        keep: int > 0, how many checkpoints stay. Defaults to `3`.
    """

    def __init__(self, folder, state, net, num_identities, loss, keep=3):
        self.folder = Path(folder)
        self.state = state
        # As it is read back: tuples are lists.
        self.run = json.loads(json.dumps({"net": net, "num_identities": num_identities, "loss": loss}))
        self.keep = keep

    def save(self, step, **scores):
        """Writes a checkpoint and removes the oldest beyond `keep`.

        Args:
            step: int, steps done.
            **scores: what else to keep, as JSON.

        Returns:
            Path of the checkpoint.

        Raises:
            OSError: it could not be written, for instance for lack of space; the older ones stay.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        target = self.folder / f"step_{step:08d}"
        temporary = self.folder / f".{target.name}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            try:
                self.state.write(str(temporary / STATE_NAME))
            except tf.errors.OpError as error:
                raise OSError(f"{temporary}: cannot write the checkpoint: {error.message}") from None
            files = sorted(temporary.iterdir())
            manifest = {
                "version": VERSION,
                "step": step,
                **self.run,
                **scores,
                "sha256": {file.name: sha256(file) for file in files},
            }
            (temporary / MANIFEST_NAME).write_text(json.dumps(manifest, indent=1) + "\n")
            for file in [*files, temporary / MANIFEST_NAME]:
                with file.open("rb") as opened:
                    os.fsync(opened.fileno())
            sync_folder(temporary)
            if target.exists():  # damaged, or of a run that was set back to an older step
                shutil.rmtree(target)
            temporary.rename(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        sync_folder(self.folder)
        # Later ones are damaged, or this run would have started there: they must not crowd this one out.
        until_now = [folder for folder in checkpoint_folders(self.folder) if folder.name <= target.name]
        for old in until_now[self.keep :]:
            shutil.rmtree(old)
        return target

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
        for leftover in self.folder.glob(".step_*.tmp"):
            shutil.rmtree(leftover)
        newest = newest_checkpoint(self.folder)
        if newest is None and path is not None:
            newest = newest_checkpoint(path)
            if newest is None:
                raise FileNotFoundError(
                    f"{path}: expected a checkpoint or a folder of checkpoints, received none"
                )
        if newest is None:
            return None
        folder, manifest = newest
        for what, expected in self.run.items():
            if manifest.get(what) != expected:
                raise ValueError(
                    f"{folder}: this run needs {what} = {expected}, the checkpoint has {manifest.get(what)}; "
                    "give the flags of that run, or another --ckpt_path"
                )
        self.state.read(str(folder / STATE_NAME)).assert_consumed()
        logger.info("going on from step %d of %s", manifest["step"], folder)
        return manifest
