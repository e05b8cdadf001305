"""The training loop of both programs: steps, logs, validation, checkpoints and SavedModels."""

from __future__ import annotations

import functools
import logging
import signal
from collections.abc import Callable
from pathlib import Path

from dataset.pipeline import TrainingBatches
from eval.embedding.extractor import NotFiniteError
from eval.embedding.model_card import ModelCard
from eval.scoring.calibration import Calibration
from eval.scoring.metrics import accuracy_interval
from export.card import describe_scores
from training.checkpoints import Checkpoints, SavedModels
from training.distribution import WorkerAgreement
from training.monitoring import (
    RunMonitor,
    StopSignals,
    check_embeddings,
    first_non_finite,
    profiled,
    write_bad_step,
)
from training.options import OutputOptions
from training.progress import (
    Progress,
    StepClock,
    Summaries,
    format_duration,
    log_first_step,
    progress_lines,
)
from training.trainer import Trainer
from training.validation import Validator

logger = logging.getLogger(__name__)

_TIME_IS_UP = 1000  # a sentinel outside the range of signal numbers
_ADVICE = "Try a lower learning rate, a longer warm-up or --clip_norm."


class TrainingLoop:
    """Trains until `max_steps`. A run that is stopped loses at most the steps since its last checkpoint.

    A checkpoint also records whether a validation or a SavedModel is still pending at its step. If the run is
    killed before that is done, the next start does it. If the disk is full during training, the loop skips
    checkpoints and models and continues. At the end of the run, a full disk is an error, raised after the
    loop has tried to write both the checkpoint and the model.

    The loop writes a SavedModel when a validation reaches a new best above its threshold, at every export
    interval, and at the end. A loss or gradient that is not finite stops the run before such weights are
    saved (row 14 of docs/fidelity.md: the original prints any exception and continues).

    References:
        - margin-centre-face, `train_centre.py` (intervals, names, when to save)

    Args:
        trainer: trains the steps.
        batches: the training data.
        checkpoints: checkpoints of `trainer.state`.
        models: SavedModels of the run.
        validators: validation sets, scored in this order.
        output: intervals and folders.
        max_steps: stop after this step.
        monitor: time limit and warnings.
        workers: agreement of all workers on when to stop.
    """

    def __init__(
        self,
        trainer: Trainer,
        batches: TrainingBatches,
        checkpoints: Checkpoints,
        models: SavedModels,
        validators: list[Validator],
        output: OutputOptions,
        max_steps: int,
        monitor: RunMonitor,
        workers: WorkerAgreement,
    ):
        self.trainer = trainer
        self.batches = batches
        self.checkpoints = checkpoints
        self.models = models
        self.validators = validators
        self.output = output
        self.max_steps = max_steps
        self.monitor = monitor
        self.workers = workers
        self._batch_size = batches.sampler.batch_size
        self._step = 0
        self._scores = {}  # newest accuracy by validator
        self._validated_at = None  # step of these scores
        self._best = {}
        self._best_steps = {}
        self._intervals = {}  # confidence interval of each newest accuracy
        self._scored_at = {}  # step of each newest accuracy
        self._protocols = {validator.name: validator.protocol for validator in validators}
        # Each calibrates thresholds with the embeddings of the last validation.
        self._calibrations: list[Callable[[], Calibration]] = []
        self._pending: list[str] = []  # "validate" and "export" that are still to do at this step
        self._progress = Progress()
        self._signals = StopSignals()
        self._reason: int | None = None  # why the run ends: a signal, or `_TIME_IS_UP`
        self._errors: dict[Callable, OSError] = {}  # failed writes at the end of the run

    def restore(self, resume_from: Path | None = None, own: Path | None = None) -> None:
        """Loads the newest checkpoint if there is one.

        Args:
            resume_from: a checkpoint, or a folder of checkpoints, to use if the run has none of its own.
            own: the checkpoint of the run that all workers agreed on. Defaults to the newest.

        Raises: like `training.checkpoints.Checkpoints.restore`.
        """
        manifest = self.checkpoints.restore(resume_from, own)
        self._step = self.trainer.step
        if manifest is not None:
            # Checkpoints of early versions lack the keys that have a default here.
            self._best = manifest["best"]
            self._best_steps = manifest.get("best_steps", {})
            self._scores = manifest["scores"]
            self._intervals = manifest.get("intervals", {})
            self._scored_at = manifest.get("scored_at", {})
            self._pending = manifest.get("owed", [])
            self._forget_other_protocols(manifest.get("protocols", {}))

    def run(self) -> int:
        """Trains from the step that was restored, or from the start.

        Returns:
            The exit code: 0 at the end or when the time is up; 128 + the number of the signal if a signal
            ended the run.

        Raises:
            FloatingPointError: loss, gradient, weights or embeddings of a validation are not finite.
            ValueError: a batch cannot be read. The weights before that batch are saved.
            OSError: the last checkpoint or model cannot be written. Older ones are kept.
        """
        self.models.remove_leftovers()
        self._summaries = Summaries(self.output.summary_path)
        if not self._step:
            self._validate()
        with self._signals.handled():
            is_done = self._step >= self.max_steps
            self._run_pending(required=is_done)
            if is_done:
                self._raise_errors()
                logger.info("step %d of %d: nothing left to train", self._step, self.max_steps)
                return 0
            self._clock = StepClock(self._step)
            try:
                with profiled(self.trainer.train_step, self.output.profile_path) as train_step:
                    self._train(log_first_step(train_step))
            except (ValueError, OSError):
                # The data or the disk failed, but the weights are good: save them. With several workers all
                # have to take part in saving, and the others do not know of the error.
                if not self.workers.are_several:
                    self._try_to(self._save)
                raise
            return self._finish()

    def _train(self, train_step):
        if self._should_stop():
            return
        for batch in self.batches.start_at(self._step):
            due = self.output.due(self._step + 1)
            is_shown = bool(due & {"show_info", "summary"}) or self._step + 1 >= self.max_steps
            self._progress.add(train_step(*batch, with_decay=is_shown))
            self._step += 1
            self._after_step(due)
            if self._should_stop() or self._step >= self.max_steps:
                return

    def _should_stop(self):
        """Tells whether a signal or the time limit ends the run now. All workers get the same answer."""
        reason = self._signals.received or (_TIME_IS_UP if self.monitor.is_time_up() else None)
        self._reason = self.workers.agreed_signal(reason)
        return self._reason is not None

    def _forget_other_protocols(self, protocols):
        """Drops the scores of validation sets that have changed: new scores cannot be compared with them."""
        for name, protocol in protocols.items():
            if protocol != self._protocols.setdefault(name, protocol):
                for scores in (
                    self._best,
                    self._best_steps,
                    self._scores,
                    self._intervals,
                    self._scored_at,
                ):
                    scores.pop(name, None)
                logger.warning("validation on %s has changed: its earlier scores are dropped", name)

    def _after_step(self, due):
        if "show_info" in due:
            self._show()
        if "summary" in due:
            self._summarise()
        kinds = (("validate", "validate"), ("export", "ckpt"))
        self._pending = [work for work, interval in kinds if interval in due]
        # `_finish` handles the last step. A checkpoint of that step with nothing pending would mean that the
        # run is complete.
        if not (self._pending or "save" in due) or self._step >= self.max_steps:
            return
        with self._clock.paused():
            if due & {"save", "ckpt"}:
                self._try_to(self._save)
            self._run_pending()

    def _run_pending(self, required=False):
        """Runs the pending validation and export. `required` is passed to `_try_to`."""
        if "validate" in self._pending:
            improved = self._validate()
            self._pending = ["export"] if improved or "export" in self._pending else []
            is_best = self._step in self._best_steps.values()
            if self._pending or is_best or self.checkpoints.saved_step == self._step:
                self._try_to(self._save, required)
        # Several workers stop only when they agree.
        is_stopping = self._reason if self.workers.are_several else self._signals.received
        if "export" in self._pending and is_stopping is None and self._try_to(self._export, required):
            self._try_to(self._save, required)

    def _try_to(self, write, required=False):
        """Calls `write` and tells whether it succeeded.

        An error is only logged, unless the write is required: then `_raise_errors` raises it later.
        """
        try:
            write()
        except OSError as error:
            if self.workers.are_several:  # The others may not have failed, and would wait for this worker.
                raise
            if required:
                self._errors[write] = error
            else:
                logger.error(
                    "step %d: %s. Training continues; older checkpoints and models are kept.",
                    *(self._step, error),
                )
            return False
        self._errors.pop(write, None)
        return True

    def _raise_errors(self):
        if self._errors:
            problems = "; ".join(str(error) for error in self._errors.values())
            advice = "Fix this, and run the same command again to finish."
            raise OSError(f"step {self._step}: {problems}. {advice}")

    def _finish(self):
        self._summarise()
        is_time_up = self._reason == _TIME_IS_UP
        if self._reason is None or (is_time_up and self._step >= self.max_steps):
            self._reason = None
            self._pending = ["export"] if self._validated_at == self._step else ["validate", "export"]
            self._try_to(self._save, required=True)
            self._run_pending(required=True)
            self._raise_errors()
            return 0
        if is_time_up:
            logger.info("Stopped after %g minutes.", self.monitor.max_minutes)
        else:
            logger.info("Stopped by %s.", signal.Signals(self._reason).name)
        folder = self._save()
        logger.info("Saved step %d to %s. Run the same command again to resume.", self._step, folder)
        return 0 if is_time_up else 128 + self._reason

    def _check_finite(self):
        bad = self._progress.fetch(self._step)
        if bad is not None:
            step, terms, name = bad
            report = write_bad_step(self.output.log_file_path, step, terms, self.batches)
            raise FloatingPointError(
                f"step {step}: expected a finite {name}, received {terms[name]}. "
                f"The checkpoints in {self.checkpoints.folder} are from earlier steps. {report} {_ADVICE}"
            )

    def _show(self):
        self._check_finite()
        rate = self._clock.steps_per_second(self._step)
        means = self._progress.means("show")
        parts = [
            f"epoch {self._step / self.batches.sampler.batches_per_epoch:.2f}",
            f"{rate * self._batch_size:.1f} images/s",
            f"ETA {format_duration((self.max_steps - self._step) / rate)}",
            *(f"{name} {means[name]:.4g}" for name in sorted(means, key=lambda name: name != "total")),
        ]
        for line in progress_lines(f"step {self._step}/{self.max_steps}", parts):
            logger.info("%s", line)
        self.monitor.log_bad_images(self._step, self.batches)

    def _summarise(self):
        self._check_finite()
        scalars = {f"train/{name}": value for name, value in self._progress.means("summarise").items()}
        scalars["speed/images_per_second"] = self._clock.steps_per_second(self._step) * self._batch_size
        scalars["data/bad_images"] = len(self.batches.bad_images)
        self._summaries.write(self._step, scalars)

    def _validate(self):
        """Scores all sets; returns whether one reached a new best above its threshold."""
        improved = False
        self._calibrations = []
        for validator in self.validators:
            name = validator.name
            try:
                result, embeddings = validator.score()
            except NotFiniteError as error:
                self.checkpoints.discard(self._step)  # It may have been saved before the validation.
                raise self._not_finite(f"validation on {name}: {error}") from None
            except (ValueError, OSError) as error:
                if not self._step:  # A new run has no progress to lose.
                    raise
                self._summaries.write(self._step, self.monitor.log_failed_validation(self._step, name, error))
                continue
            scalars, warnings = check_embeddings(name, embeddings)
            for warning in warnings:
                logger.warning("step %d  %s", self._step, warning)
            logger.info("step %d  %s  threshold %.5f", self._step, result.summary(name), result.threshold)
            self._summaries.write(self._step, {**scalars, f"validation/{name}": result.accuracy})
            if validator.calibrate:
                self._calibrations.append(functools.partial(validator.calibrate, embeddings))
            self._scores[name] = result.accuracy
            self._intervals[name] = accuracy_interval(result.fold_accuracies)
            self._scored_at[name] = self._step
            if result.accuracy > self._best.get(name, 0.0):
                self._best[name] = result.accuracy
                self._best_steps[name] = self._step
                improved |= result.accuracy > validator.threshold
        self._validated_at = self._step
        return improved

    def _not_finite(self, problem):
        return FloatingPointError(
            f"step {self._step}: {problem}. These weights are not saved; the checkpoints in "
            f"{self.checkpoints.folder} are from earlier steps. {_ADVICE}"
        )

    def _save(self):
        self._check_finite()
        trainer = self.trainer
        parts = (trainer.backbone, trainer.head, trainer.optimizer)
        name = first_non_finite([variable for part in parts for variable in part.variables])
        if name is not None:
            raise self._not_finite(f"{name}: expected finite weights, received NaN or infinity")
        return self.checkpoints.save(
            self._step,
            best=self._best,
            best_steps=self._best_steps,
            scores=self._scores,
            intervals=self._intervals,
            scored_at=self._scored_at,
            protocols=self._protocols,
            owed=self._pending,
        )

    def _export(self):
        card = describe_scores(self._step, self._scores, self._intervals, self._scored_at, self._protocols)
        if self._validated_at == self._step:
            for calibrate in reversed(
                self._calibrations
            ):  # The first set of each kind overwrites the others.
                card = ModelCard(card).with_calibration(calibrate())
        logger.info("model: %s", self.models.write(self._step, self._scores, self._best_steps, card))
        self._pending = []
