"""The SavedModels that a run writes while it trains."""

import shutil
from pathlib import Path

from dataset.atomic import remove_folder


class SavedModels:
    """Models called `iter_{step}_lfw_{accuracy:.5f}_ytf_{accuracy:.5f}`, in one folder.

    Whatever kills the run, a folder of such a name is a whole model.

    References:
    - margin-centre-face, `train_centre.py` (names, what is kept)

    Args:
        folder: str or Path; made by the first export.
        export: function of a Path that writes a model there, whole or not at all.
        keep: int > 0, how many of the newest stay; the best of each validator always does.
    """

    def __init__(self, folder, export, keep):
        self.folder = Path(folder)
        self.export = export
        self.keep = keep

    def write(self, step, scores, best_steps):
        """Writes the model of a step, in place of one that is there already, and removes old ones.

        Args:
            step: int, steps done.
            scores: dict from validators to accuracies; those of `"lfw"` and `"ytf"` come into the name.
            best_steps: dict from validators to the step of their best score.

        Returns:
            Path of the model.

        Raises:
            OSError: it could not be written.
        """
        lfw, ytf = (scores.get(name, 0.0) for name in ("lfw", "ytf"))
        # Of a run that was killed after this step; on several devices its score may differ.
        for old in self.folder.glob(f"iter_{step}_lfw_*_ytf_*"):
            remove_folder(old)
        path = self.folder / f"iter_{step}_lfw_{lfw:.5f}_ytf_{ytf:.5f}"
        self.export(path)
        models = {int(model.name.split("_")[1]): model for model in self.folder.glob("iter_*_lfw_*_ytf_*")}
        for old_step in sorted(models)[: -self.keep]:
            if old_step not in best_steps.values():
                remove_folder(models[old_step])
        return path

    def remove_leftovers(self):
        """Removes what a kill left of models that were being written or removed."""
        for leftover in self.folder.glob(".iter_*"):
            shutil.rmtree(leftover)
