"""Writes, restores and removes the training checkpoints and SavedModels of a run."""

from __future__ import annotations

import itertools
import json
import logging
import re
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from common.files import atomic_folder, file_sha256, one_line, remove_folder, write_json
from nets.importers import training_checkpoint as files
from nets.importers.training_checkpoint import checkpoint_folders, checkpoint_name, newest_checkpoint

logger = logging.getLogger(__name__)

NUM_KEPT = 3  # newest checkpoints of a run

_MODEL_NAME = re.compile(r"iter_([0-9]+)(?:_[a-z0-9_]+_[01]\.[0-9]{5})*")
# Folders that were being written, replaced or removed when the process was killed.
_LEFTOVER_NAME = re.compile(rf"\.(?:{files.NAME.pattern}|{_MODEL_NAME.pattern})(?:\.[^.]+)?\.(?:tmp|old)")


class Checkpoints:
    """The checkpoints of one run, in one folder: the newest, and those of the best scores.

    A checkpoint gets its name only when all its files, with their checksums, are on disk. So every checkpoint
    is complete, even after a kill or a power cut. `tf.train.CheckpointManager` cannot promise that: it does
    not sync, keeps partial files after a kill, and starts from step 0 if its state file is lost.

    Row 15 of docs/fidelity.md: step and best scores are stored in the checkpoint, not in its name.

    Args:
        folder: folder of the checkpoints.
        state: everything that training changes.
        net: arguments of `nets.backbone.Backbone`.
        num_identities: number of identities of the loss layer.
        loss: name of the loss.
        recipe: options that add variables; see `training.options.OptimizerOptions.recipe`. With `"ema"` in
            it, a checkpoint holds the moving average of the net as `average`.
        started_from: what `training.input_checks.start_record` returns, or `None` if the run was started by
            an older version, which did not record it.
        teacher: SHA-256 of the model whose embeddings the net learns, if there is one.
        allow_changes: also restore checkpoints of another net, loss, teacher or number of identities, as long
            as the variables have the same names and shapes.
        scratch: temporary folder of a worker that is not the chief. TensorFlow reads the variables of all
            workers together, so this worker takes part in writing, but it keeps nothing.

    Attributes:
        saved_step: step of the newest checkpoint that this object wrote or resumed from, or `None`.
    """

    def __init__(
        self,
        folder: Path,
        state: tf.train.Checkpoint,
        net: dict[str, Any],
        num_identities: int,
        loss: str,
        recipe: dict[str, Any] | None = None,
        started_from: dict[str, Any] | None = None,
        teacher: str | None = None,
        allow_changes: bool = False,
        scratch: Path | None = None,
    ):
        self.folder = folder
        self.state = state
        # Through JSON, so that tuples become lists, as in the manifests that this is compared with.
        self._run = json.loads(json.dumps({"net": net, "num_identities": num_identities, "loss": loss}))
        if recipe:
            self._run["recipe"] = recipe
        if teacher:
            self._run["teacher"] = teacher
        self._start = {} if started_from is None else {"started_from": started_from}
        self._allow_changes = allow_changes
        self._scratch = scratch
        self.saved_step: int | None = None
        self._checksums: dict[str, str] = {}  # of the files of the checkpoint `saved_step`

    def save(self, step: int, best_steps: dict[str, int] | None = None, **scores: Any) -> Path:
        """Writes a checkpoint and removes old ones. If `step` is `saved_step`, it only writes the scores.

        Args:
            step: number of steps done.
            best_steps: step of the best score of each validator. Checkpoints of these steps are kept, like
                the newest ones.
            **scores: other values to store in the manifest, as JSON.

        Returns:
            The folder of the checkpoint.

        Raises:
            OSError: the checkpoint cannot be written, for instance because the disk is full. Older
                checkpoints are kept.
        """
        best_steps = best_steps or {}
        target = self.folder / checkpoint_name(step)
        run = {**self._run, **self._start}
        manifest = {"version": files.VERSION, "step": step, **run, "best_steps": best_steps, **scores}
        if self._scratch is not None:
            if step != self.saved_step:
                self._write(self._scratch / target.name, manifest)
                shutil.rmtree(self._scratch / target.name)
            return target
        if step == self.saved_step and (target / files.MANIFEST_NAME).is_file():
            write_json(target / files.MANIFEST_NAME, {**manifest, "sha256": self._checksums})
        else:
            self._write(target, manifest)
        # Checkpoints of later steps are damaged: otherwise this run would have resumed from one. So they do
        # not count among the newest.
        until_now = list(
            itertools.dropwhile(lambda folder: folder != target, checkpoint_folders(self.folder))
        )
        best = {checkpoint_name(best_step) for best_step in best_steps.values()}
        for old in until_now[NUM_KEPT:]:
            if old.name not in best:
                remove_folder(old)
        return target

    def discard(self, step: int) -> None:
        """Removes the checkpoint of a step whose weights turned out to be useless."""
        self.saved_step = None
        if self._scratch is None and (self.folder / checkpoint_name(step)).is_dir():
            remove_folder(self.folder / checkpoint_name(step))

    def restore(self, path: Path | None = None, own: Path | None = None) -> dict[str, Any] | None:
        """Loads the newest checkpoint that can be read.

        Args:
            path: a checkpoint, or a folder of checkpoints, to use if this run has none of its own.
            own: a checkpoint of this run to use instead of its newest.

        Returns:
            The manifest of the checkpoint, or `None` if there is no checkpoint.

        Raises:
            FileNotFoundError: there is no checkpoint at `path`.
            ValueError: the checkpoint belongs to another net, loss, teacher or number of identities, or no
                checkpoint can be read. A run never starts from step 0 in a folder with checkpoints that it
                cannot use.
        """
        start = time.perf_counter()
        if self._scratch is None:
            _remove_leftovers(self.folder)
        newest_own = newest_checkpoint(own or self.folder)
        newest = newest_own or (None if path is None else newest_checkpoint(path))
        if newest is None:
            if path is None:
                return None
            raise FileNotFoundError(f"{path}: expected a checkpoint or a folder of checkpoints")
        folder, manifest = newest
        changed = {}
        for key, expected in {"recipe": None, "teacher": None, **self._run}.items():
            if manifest.get(key) != expected:
                changed[key] = f"this run needs {key} = {expected}, the checkpoint has {manifest.get(key)}"
        if "recipe" in changed or (changed and not self._allow_changes):
            advice = "Give the flags of that run, or another --ckpt_path."
            raise ValueError(f"{folder}: {'; '.join(changed.values())}. {advice}")
        try:
            self.state.read(str(folder / files.STATE_NAME)).assert_consumed()
        except (ValueError, AssertionError) as error:
            if not changed:
                raise
            reason = f"the variables differ as well: {str(error).partition(chr(10))[0]}"
            raise ValueError(f"{folder}: {'; '.join(changed.values())}; {reason}") from None
        if newest_own:
            self.saved_step, self._checksums = manifest["step"], manifest["sha256"]
        seconds = time.perf_counter() - start
        logger.info("Resuming from step %d of %s, read in %.1f s", manifest["step"], folder, seconds)
        return manifest

    def _write(self, target, manifest):
        with atomic_folder(target) as folder:
            try:
                self.state.write(str(folder / files.STATE_NAME))
            except tf.errors.OpError as error:
                raise OSError(f"{target}: cannot write the checkpoint: {one_line(error.message)}") from None
            checksums = {file.name: file_sha256(file) for file in sorted(folder.iterdir())}
            write_json(folder / files.MANIFEST_NAME, {**manifest, "sha256": checksums})
        self.saved_step, self._checksums = manifest["step"], checksums


class SavedModels:
    """SavedModels in one folder, called `iter_{step}_lfw_{accuracy:.5f}_ytf_{accuracy:.5f}`.

    Validations that are off do not appear in the name. A folder with such a name is a complete model, even
    after a kill.

    References:
        - margin-centre-face, `train_centre.py` (names, which models are kept)

    Args:
        folder: folder of the models.
        export: function that writes a model and its card to a path, completely or not at all.
        keep: number of newest models to keep, at least 1. The best of each validator is always kept.
        in_names: validators whose accuracy appears in the names.
    """

    def __init__(
        self,
        folder: Path,
        export: Callable[[Path, dict[str, Any]], object],
        keep: int,
        in_names: Sequence[str],
    ):
        self.folder = folder
        self.export = export
        self.keep = keep
        self._in_names = in_names

    def write(
        self, step: int, scores: dict[str, float], best_steps: dict[str, int], card: dict[str, Any]
    ) -> Path:
        """Writes the model of a step, replaces an earlier model of this step, and removes old models.

        Args:
            step: number of steps done.
            scores: accuracy of each validator, a fraction.
            best_steps: step of the best score of each validator. Models of these steps are kept.
            card: the model card, as JSON.

        Returns:
            The folder of the model.
        """
        # A run that was killed after this step may have left a model. Its score, and so its name, can differ
        # when it was trained on several devices.
        for old_step, old in model_folders(self.folder):
            if old_step == step:
                remove_folder(old)
        accuracies = "".join(f"_{name}_{scores[name]:.5f}" for name in self._in_names if name in scores)
        path = self.folder / f"iter_{step}{accuracies}"
        self.export(path, card)
        for old_step, old in model_folders(self.folder)[: -self.keep]:
            if old_step not in best_steps.values():
                remove_folder(old)
        return path

    def remove_leftovers(self) -> None:
        """Removes partial models that a killed run left behind."""
        _remove_leftovers(self.folder)


def model_folders(path: Path) -> list[tuple[int, Path]]:
    """Lists the SavedModels that runs have written to a folder, with their steps, oldest first.

    A copy with another name, such as `iter_20_lfw_0.99000_keep`, is left out.
    """
    named = [
        (_MODEL_NAME.fullmatch(folder.name), folder) for folder in path.glob("iter_*") if folder.is_dir()
    ]
    return sorted((int(match[1]), folder) for match, folder in named if match)


def _remove_leftovers(path):
    for leftover in path.glob(".*"):
        if _LEFTOVER_NAME.fullmatch(leftover.name):
            shutil.rmtree(leftover)
