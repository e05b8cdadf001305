"""The loop that both programs run: batches, logs, validation, checkpoints, models."""

from __future__ import annotations

import logging
import signal

from dataset.pipeline import TrainingBatches
from eval.embedding.extractor import NotFiniteError
from training.checkpoints import Checkpoints, SavedModels
from training.distribution import WorkerAgreement
from training.monitoring import RunMonitor, StopSignals, first_non_finite
from training.options import OutputOptions
from training.progress import Progress, StepClock, Summaries, format_duration, log_first_step
from training.trainer import Trainer
from training.validation import Validator

logger = logging.getLogger(__name__)

_TIME_IS_UP = 1000  # among the numbers of signals, of which there are fewer
_ADVICE = "Try a lower learning rate, a longer warm-up or --clip_norm."


class TrainingLoop:
    """Trains until `max_steps`, and never loses more than the steps since the last checkpoint.

    A checkpoint also says what is still to be done at its step, validation or SavedModel: if a kill cuts
    that short, the restart makes up for it. On the way a full disk costs checkpoints and models,
    not the run; only when it ends is it an error.

    SavedModels are called `iter_{step}_lfw_{accuracy:.5f}_ytf_{accuracy:.5f}`, as the original's
    checkpoints. They are written when a validation improves on its best so far and lies over
    its threshold, at every export interval, and at the end.

    A loss or gradient that is not finite stops the run before such weights are saved
    (row 14 of docs/fidelity.md: the original prints any exception and goes on).

    References:
    - margin-centre-face, `train_centre.py` (intervals, names, when to save)

    Args:
        trainer: trains one step.
        batches: has `start_at(step)` and `sampler`, such as `dataset.pipeline.TrainingBatches`.
        checkpoints: checkpoints of `trainer.state`.
        models: writes SavedModels.
        validators: scored in this order.
        output: intervals and the folder for TensorBoard.
        max_steps: stop after this step.
        monitor: Defaults to one without reports and limits.
        workers: `None` for one process.
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
        monitor: RunMonitor | None = None,
        workers: WorkerAgreement | None = None,
    ):
        self.trainer = trainer
        self.batches = batches
        self.checkpoints = checkpoints
        self.models = models
        self.validators = validators
        self.output = output
        self.max_steps = max_steps
        self.monitor = monitor or RunMonitor()
        self.workers = workers
        self._batch_size = batches.sampler.batch_size
        self._summaries = Summaries(output.summary_path)
        self._step = 0
        self._scores = {}  # of the newest validation, and the step it was made at
        self._validated_at = None
        self._best = {}
        self._best_steps = {}
        self._owed = []  # at this step: "validate", "export"
        self._progress = Progress()
        self._clock = None
        self._signals = StopSignals()  # that this process got
        self._signal = None  # that which ends the run
        self._time_is_up = False

    def run(self, model_path=None):
        """Goes on from the newest checkpoint, or starts.

        Args:
            model_path: a checkpoint, or a folder of them, to start from while the run has none of its own.

        Returns:
            int, exit code: 0, also when the time is up; or 128 + the number of the signal that ended it.

        Raises:
            FloatingPointError: loss, gradient, weights or the embeddings of a validation are not
                finite; names step and checkpoints.
            ValueError: a batch cannot be read; what was learned until then is saved.
            OSError: the last checkpoint or model cannot be written; the older ones stay.
        """
        self._restore(model_path)
        if not self._step:
            self._validate()
        with self._signals.handled():
            is_done = self._step >= self.max_steps
            self._settle(must=is_done)
            if is_done:
                logger.info("step %d of %d: nothing left to train", self._step, self.max_steps)
                return 0
            self._clock = StepClock(self._step)
            try:
                self._train()
            except (ValueError, OSError):
                # Of the data or the disk, not of the weights: what was learned so far is kept.
                # With several workers nothing can be saved without the others, who know of no error.
                if not self._are_several:
                    self._attempt(self._save)
                raise
            finally:
                self.monitor.close()
            return self._finish()

    def _train(self):
        if self._is_to_stop():
            return
        train_step = log_first_step(self.monitor.profile(self.trainer.train_step))
        for images, identities in self.batches.start_at(self._step):
            self._progress.add(train_step(images, identities))
            self._step += 1
            self._after_step()
            if self._is_to_stop() or self._step >= self.max_steps:
                return

    def _is_to_stop(self):
        """Whether a signal or the clock ends the run here: on all workers at once, or on none."""
        told = self._signals.received or (_TIME_IS_UP if self.monitor.is_time_up() else None)
        told = self.workers.agreed_signal(told) if self.workers else told
        self._time_is_up = told == _TIME_IS_UP
        self._signal = None if self._time_is_up else told
        return told is not None

    @property
    def _are_several(self):
        return self.workers is not None and self.workers.are_several

    def _restore(self, model_path):
        manifest = self.checkpoints.restore(model_path)
        self._step = self.trainer.step
        if manifest is not None:
            self._best = manifest["best"]
            self._best_steps = manifest.get("best_steps", {})  # checkpoints once came without
            self._scores = manifest["scores"]
            self._owed = manifest.get("owed", [])
        self.models.remove_leftovers()

    def _after_step(self):
        due = self.output.due(self._step)
        if "show_info" in due:
            self._show()
        if "summary" in due:
            self._summarise()
        kinds = (("validate", "validate"), ("export", "ckpt"))
        self._owed = [work for work, interval in kinds if interval in due]
        # The last step is for `_finish`: a checkpoint of it that owes nothing would end the run.
        if not (self._owed or "save" in due) or self._step >= self.max_steps:
            return
        with self._clock.paused():
            if due & {"save", "ckpt"}:
                self._attempt(self._save)
            self._settle()

    def _settle(self, must=False):
        """Validates and exports what this step owes; `must`: or else raises."""
        if "validate" in self._owed:
            improved = self._validate()
            self._owed = ["export"] if improved or "export" in self._owed else []
            is_best = self._step in self._best_steps.values()
            if self._owed or is_best or self.checkpoints.saved_step == self._step:
                self._attempt(self._save, must)
        # Several workers go by what they agreed on.
        is_stopping = self._signal if self._are_several else self._signals.received
        if "export" in self._owed and is_stopping is None:
            self._attempt(self._export, must)

    def _attempt(self, work, must=False):
        try:
            work()
        except OSError as error:
            if must or self._are_several:  # of which only one may have failed
                raise
            kept = "what was saved before is still there, and training goes on"
            logger.error("step %d: %s; %s", self._step, error, kept)

    def _finish(self):
        self._summarise()
        if self._signal is not None:
            logger.info("stopped by %s", signal.Signals(self._signal).name)
            folder = self._save()
            logger.info("saved step %d to %s; the same command goes on from there", self._step, folder)
            return 128 + self._signal
        if self._time_is_up and self._step < self.max_steps:
            after = f"stopped after {self.monitor.max_minutes:g} minutes; saved step {self._step} to"
            logger.info("%s %s; the same command goes on from there", after, self._save())
            return 0
        self._owed = ["export"] if self._validated_at == self._step else ["validate", "export"]
        self._save()
        self._settle(must=True)
        return 0

    def _look(self):
        bad = self._progress.fetch(self._step)
        if bad is not None:
            step, terms, name = bad
            report = self.monitor.report_bad_step(step, terms, self.batches)
            raise FloatingPointError(
                f"step {step}: expected a finite {name}, received {terms[name]}. "
                f"The checkpoints in {self.checkpoints.folder} are from earlier steps.{report} {_ADVICE}"
            )

    def _show(self):
        self._look()
        rate = self._clock.steps_per_second(self._step)
        logger.info(
            "step %d/%d  epoch %.2f  %s  %.1f images/s  ETA %s",
            self._step,
            self.max_steps,
            self._step / self.batches.sampler.batches_per_epoch,
            "  ".join(f"{name} {value:.4g}" for name, value in self._progress.means_to_show().items()),
            rate * self._batch_size,
            format_duration((self.max_steps - self._step) / rate),
        )
        self.monitor.log_bad_images(self._step, self.batches)

    def _summarise(self):
        self._look()
        scalars = {f"train/{name}": value for name, value in self._progress.means_to_summarise().items()}
        scalars["speed/images_per_second"] = self._clock.steps_per_second(self._step) * self._batch_size
        self._summaries.write(self._step, scalars | self.monitor.scalars(self.batches))

    def _validate(self):
        """Scores all sets; True where one improved on its best and lies over its threshold."""
        improved = False
        for validator in self.validators:
            name = validator.name
            try:
                result = validator.score()
            except NotFiniteError as error:
                self.checkpoints.discard(self._step)  # it may have been saved before it was validated
                raise self._not_finite(f"validation on {name}: {error}") from None
            except (ValueError, OSError) as error:
                if not self._step:  # nothing is lost yet
                    raise
                self._summaries.write(self._step, self.monitor.log_failed_validation(self._step, name, error))
                continue
            self._summaries.write(self._step, self.monitor.log_embeddings(self._step, name))
            logger.info("step %d  %s  threshold %.5f", self._step, result.summary(name), result.threshold)
            self._summaries.write(self._step, {f"validation/{name}": result.accuracy})
            self._scores[name] = result.accuracy
            if result.accuracy > self._best.get(name, 0.0):
                self._best[name] = result.accuracy
                self._best_steps[name] = self._step
                improved |= result.accuracy > validator.threshold
        self._validated_at = self._step
        return improved

    def _not_finite(self, what):
        return FloatingPointError(
            f"step {self._step}: {what}. These weights are not saved; the checkpoints in "
            f"{self.checkpoints.folder} are from earlier steps. {_ADVICE}"
        )

    def _save(self):
        self._look()
        trainer = self.trainer
        parts = (trainer.backbone, trainer.head, trainer.optimizer)
        name = first_non_finite([variable for part in parts for variable in part.variables])
        if name is not None:
            raise self._not_finite(f"{name}: expected finite weights, received NaN or infinity")
        return self.checkpoints.save(
            self._step, best=self._best, best_steps=self._best_steps, scores=self._scores, owed=self._owed
        )

    def _export(self):
        logger.info("model: %s", self.models.write(self._step, self._scores, self._best_steps))
        self._owed = []
        self._save()
