"""The loop that both trainers run: batches, logs, validation, checkpoints, models."""

import contextlib
import dataclasses
import logging
import math
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import tensorflow as tf

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Intervals:
    """Steps between two of each; all > 0.

    Attributes:
        show_info: progress lines.
        summary: TensorBoard scalars.
        validate: validations.
        save: checkpoints to go on from.
        export: SavedModels that are written whatever their score.
    """

    show_info: int
    summary: int
    validate: int
    save: int
    export: int

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if getattr(self, field.name) < 1:
                raise ValueError(
                    f"interval {field.name}: expected at least 1 step, received {getattr(self, field.name)}"
                )


class TrainingLoop:
    """Trains until `max_steps`, and never loses more than the steps since the last checkpoint.

    SavedModels are called `iter_{step}_lfw_{accuracy:.5f}_ytf_{accuracy:.5f}`, as the original's
    checkpoints. They are written when a validation improves on its best so far and lies over
    its threshold, at every export interval, and at the end.

    A loss or gradient that is not finite stops the run before such weights are saved
    (row 14 of docs/fidelity.md: the original prints any exception and goes on).

    References:
    - margin-centre-face, `train_centre.py` (intervals, names, when to save)

    Args:
        trainer: `training.trainer.Trainer`.
        batches: object with `start_at(step)`, such as `dataset.pipeline.TrainingBatches`.
        checkpoints: `training.checkpoint.Checkpoints` of `trainer.state`.
        validators: dict from names to functions that return an `eval.verification.VerificationResult`.
            The scores of `"lfw"` and `"ytf"` come into the models' names.
        export: function of a Path that writes a SavedModel there.
        intervals: `Intervals`.
        max_steps: int > 0.
        batch_size: int > 0.
        steps_per_epoch: float > 0, for the progress line.
        summary_path: folder for TensorBoard.
        models_path: folder for SavedModels.
        thresholds: dict from validator to the accuracy over which an improvement is saved.
        max_models: int > 0, SavedModels to keep; the best of each validator always stays.
    """

    def __init__(
        self,
        trainer,
        batches,
        checkpoints,
        validators,
        export,
        *,
        intervals,
        max_steps,
        batch_size,
        steps_per_epoch,
        summary_path,
        models_path,
        thresholds,
        max_models,
    ):
        self.trainer = trainer
        self.batches = batches
        self.checkpoints = checkpoints
        self.validators = validators
        self.export = export
        self.intervals = intervals
        self.max_steps = max_steps
        self.batch_size = batch_size
        self.steps_per_epoch = steps_per_epoch
        self.models_path = Path(models_path)
        self.thresholds = thresholds
        self.max_models = max_models
        self._writer = tf.summary.create_file_writer(str(summary_path))
        self._step = 0
        self._scores = {}  # of the newest validation, and the step it was made at
        self._validated_at = None
        self._best = {}
        self._best_steps = {}
        self._pending = []  # terms of steps that have not been looked at yet
        self._shown = []
        self._summarised = []
        self._clock = None
        self._signal = None

    def run(self, model_path=None):
        """Goes on from the newest checkpoint, or starts.

        Args:
            model_path: a checkpoint, or a folder of them, to start from while the run has none of its own.

        Returns:
            int, exit code: 0, or 128 + the number of the signal that ended it.

        Raises:
            FloatingPointError: loss or gradient is not finite; names step and checkpoints.
            ValueError: a batch cannot be read; what was learned until then is saved.
        """
        self._restore(model_path)
        if self._step >= self.max_steps:
            logger.info("step %d of %d: nothing left to train", self._step, self.max_steps)
            return 0
        if not self._step:
            self._validate()
        self._clock = _Clock(self._step)
        with self._signals():
            try:
                self._train()
            except (ValueError, OSError):
                # Of the data or the disk, not of the weights: what was learned so far is kept.
                self._save()
                raise
            return self._finish()

    def _train(self):
        for images, identities in self.batches.start_at(self._step):
            self._pending.append(self.trainer.train_step(images, identities))
            self._step += 1
            self._after_step()
            if self._signal is not None or self._step >= self.max_steps:
                return

    def _restore(self, model_path):
        manifest = self.checkpoints.restore(model_path)
        self._step = self.trainer.step
        if manifest is not None:
            self._best = manifest["best"]
            self._best_steps = manifest.get("best_steps", {})  # checkpoints once came without
            self._scores = manifest["scores"]

    def _after_step(self):
        due = {
            field.name: self._step % getattr(self.intervals, field.name) == 0
            for field in dataclasses.fields(self.intervals)
        }
        if due["show_info"]:
            self._show()
        if due["summary"]:
            self._summarise()
        if not (due["validate"] or due["save"] or due["export"]):
            return
        with self._clock.paused():
            improved = due["validate"] and self._validate()
            if improved or due["save"] or due["export"]:
                self._save()
            if improved or due["export"]:
                self._export()

    def _finish(self):
        self._summarise()
        if self._signal is not None:
            logger.info("stopped by %s", signal.Signals(self._signal).name)
            folder = self._save()
            logger.info("saved step %d to %s; the same command goes on from there", self._step, folder)
            return 128 + self._signal
        if self._validated_at != self._step:
            self._validate()
        self._save()
        self._export()
        return 0

    def _look(self):
        """Fetches what the last steps gave, all at once so that the device is not held up in between."""
        first = self._step - len(self._pending) + 1
        looked_at = [{name: float(value) for name, value in terms.items()} for terms in self._pending]
        self._pending = []
        for step, terms in enumerate(looked_at, first):
            bad = [name for name in ("total", "gradient_norm") if not math.isfinite(terms[name])]
            if bad:
                raise FloatingPointError(
                    f"step {step}: expected a finite {bad[0]}, received {terms[bad[0]]}; "
                    f"checkpoints in {self.checkpoints.folder} are from before; try a lower learning rate, "
                    "a longer warm-up or --clip_norm"
                )
        self._shown += looked_at
        self._summarised += looked_at

    def _show(self):
        self._look()
        rate = self._clock.steps_per_second(self._step)
        logger.info(
            "step %d/%d  epoch %.2f  %s  %.1f images/s  ETA %s",
            self._step,
            self.max_steps,
            self._step / self.steps_per_epoch,
            "  ".join(f"{name} {value:.4g}" for name, value in _means(self._shown).items()),
            rate * self.batch_size,
            _duration((self.max_steps - self._step) / rate),
        )
        self._shown = []

    def _summarise(self):
        self._look()
        scalars = {f"train/{name}": value for name, value in _means(self._summarised).items()}
        scalars["speed/images_per_second"] = self._clock.steps_per_second(self._step) * self.batch_size
        self._write_scalars(scalars)
        self._summarised = []

    def _validate(self):
        """Scores all sets; True where one improved on its best and lies over its threshold."""
        improved = False
        for name, validator in self.validators.items():
            result = validator()
            logger.info("step %d  %s  threshold %.5f", self._step, result.summary(name), result.threshold)
            self._write_scalars({f"validation/{name}": result.accuracy})
            self._scores[name] = result.accuracy
            if result.accuracy > self._best.get(name, 0.0):
                self._best[name] = result.accuracy
                self._best_steps[name] = self._step
                improved |= result.accuracy > self.thresholds[name]
        self._validated_at = self._step
        return improved

    def _save(self):
        self._look()
        return self.checkpoints.save(
            self._step, best=self._best, best_steps=self._best_steps, scores=self._scores
        )

    def _export(self):
        lfw, ytf = (self._scores.get(name, 0.0) for name in ("lfw", "ytf"))
        path = self.models_path / f"iter_{self._step}_lfw_{lfw:.5f}_ytf_{ytf:.5f}"
        if path.exists():  # of a run that was killed after this step
            shutil.rmtree(path)
        self.export(path)
        logger.info("model: %s", path)
        self._remove_old_models()

    def _remove_old_models(self):
        models = {int(path.name.split("_")[1]): path for path in self.models_path.glob("iter_*_lfw_*_ytf_*")}
        for step in sorted(models)[: -self.max_models]:
            if step not in self._best_steps.values():
                shutil.rmtree(models[step])

    def _write_scalars(self, scalars):
        with self._writer.as_default(step=self._step):
            for name, value in scalars.items():
                tf.summary.scalar(name, value)
        self._writer.flush()

    @contextlib.contextmanager
    def _signals(self):
        """SIGINT and SIGTERM end the run after the step at hand; a second one ends it at once."""

        def handle(number, _frame):
            if self._signal is not None:
                raise KeyboardInterrupt
            self._signal = number

        old = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)


class _Clock:
    """Steps per second since it was last asked, validations and savings left out."""

    def __init__(self, step):
        self._step = step
        self._start = time.perf_counter()
        self._rate = math.nan

    def steps_per_second(self, step):
        if step > self._step:
            now = time.perf_counter()
            self._rate = (step - self._step) / (now - self._start)
            self._step, self._start = step, now
        return self._rate

    @contextlib.contextmanager
    def paused(self):
        stopped = time.perf_counter()
        yield
        self._start += time.perf_counter() - stopped


def _means(steps):
    return {name: float(np.mean([terms[name] for terms in steps])) for name in steps[0]} if steps else {}


def _duration(seconds):
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
