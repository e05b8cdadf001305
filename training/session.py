"""Sets up a training run from flags and config, and runs it. Both training programs use this."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from dataset.augment import Augmentation
from dataset.config import Config
from dataset.pipeline import PipelineOptions, TrainingBatches, require_size
from dataset.sampling.by_identity import IdentitySampler
from dataset.sampling.combine import CombinedSources
from dataset.sampling.shuffled import ShuffledSampler
from export.card import describe_run
from losses.distillation import DistillationLoss
from nets.backbone import Backbone, decayed_variables, load_backbone
from nets.importers.model_files import find_model, model_sha256
from nets.importers.training_checkpoint import newest_checkpoint
from nets.layers.batch_norm import synchronise_batch_norm
from training.checkpoints import Checkpoints, SavedModels
from training.distribution import (
    WorkerAgreement,
    describe_strategy,
    make_strategy,
    replica_devices,
    set_arithmetic,
    worker_rows,
)
from training.ema import WeightAverage
from training.gpus import prepare_gpus
from training.input_checks import log_start_of_resumed_run, start_record
from training.loop import TrainingLoop
from training.loss_scale import LossScale, check_loss_scale
from training.monitoring import RunMonitor
from training.optimizers import decay_in_loss, make_optimizer
from training.options import TrainingOptions
from training.preflight import check_first_batch, check_precision, check_run, measure_speed
from training.run_record import check_changes, describe_sources, read_starts, recorded
from training.schedules import make_schedule
from training.teacher import load_teacher, teacher_targets
from training.trainer import StepOptions, Trainer
from training.validation import MODEL_NAME_SETS, make_validators
from training.workers.cluster import cluster
from training.workers.meeting import PATIENCE, Exchange, agreed_checkpoint, check_same_start, exchange

logger = logging.getLogger(__name__)


class Session:
    """A training run: strategy, net and validation sets.

    Create it before the sources are converted, which can take hours, so that wrong flags, models and
    validation sets are found first.

    If `ckpt_path` holds checkpoints, the run resumes from the newest, and `resume_from` and `start_from` are
    ignored. So the same command resumes after a stop.

    Args:
        options: the flags.
        config: the config file.
        strategy: strategy to train with. Defaults to that of the flags.
        resume_from: a training checkpoint, or a folder of checkpoints, that gives net, loss layer, optimizer
            and step.
        start_from: a model that gives the net and nothing else (row 11 of docs/fidelity.md), in any format
            of `nets.backbone.load_backbone`.

    Attributes:
        strategy: strategy of the run. Build the head in its scope.
        gpu_memory: bytes that TensorFlow can use on each GPU; empty if unknown.
        backbone: the net to train.
        first_step: number of steps that are done.
        is_new: whether this run has no checkpoint to resume from.

    Raises:
        FileNotFoundError: a model or a validation set is missing.
        ValueError: flags, models or validation sets do not fit together.
        OSError: the workers cannot connect.
    """

    def __init__(
        self,
        options: TrainingOptions,
        config: Config,
        strategy: tf.distribute.Strategy | None = None,
        resume_from: Path | None = None,
        start_from: Path | None = None,
    ):
        self.options = options
        self._config = config
        self._resume_from = resume_from
        output, device = options.output, options.device
        set_arithmetic(device)
        self._monitor = RunMonitor(options.length.max_minutes)
        meet = _meeting() if strategy is None and device.strategy == "multiworker" else None
        own = agreed_checkpoint(output.ckpt_path, meet) if meet else newest_checkpoint(output.ckpt_path)
        if meet and not own:
            check_same_start(lambda: _digest(resume_from or start_from), meet)
        checkpoint = own or (resume_from and newest_checkpoint(resume_from))
        self._own_checkpoint = own and own[0]
        self.is_new = checkpoint is None
        self.gpu_memory = [] if strategy else prepare_gpus(device.strategy, device.gpu_memory)
        self.strategy = strategy or make_strategy(kind=device.strategy)
        num_replicas, batch_size = self.strategy.num_replicas_in_sync, options.data.batch_size
        if batch_size % (num_replicas * device.accumulate):
            parts = f" times --accumulate {device.accumulate}" if device.accumulate > 1 else ""
            expected = f"a multiple of {num_replicas} devices{parts}"
            raise ValueError(f"--batch_size is {batch_size}. Give {expected}.")
        self._started_from = own[1].get("started_from") if own else start_record(options)
        if own:
            log_start_of_resumed_run(options, *own)
        # The entry of the newest start of the run that is resumed, or nothing.
        self._previous = read_starts(checkpoint[0].parent)[-1:] if checkpoint else []
        self.first_step = checkpoint[1]["step"] if checkpoint else 0
        if checkpoint:
            check_loss_scale(checkpoint[0], device.precision)
        start = load_backbone(start_from) if start_from and self.is_new else None
        base = start.net if start else checkpoint[1]["net"] if checkpoint else None
        start_time = time.perf_counter()
        with self.strategy.scope():
            net = options.net.arguments(options.data.seed, base)
            self.backbone = Backbone(**net, dtype=device.precision)
        duration = time.perf_counter() - start_time
        logger.info("net: %s, built in %.1f s", self.backbone.architecture, duration)
        if device.sync_bn:
            synchronise_batch_norm(self.backbone)
        if start:
            self._take_weights(start, start_from)
        teacher = options.distillation.teacher
        self._teacher = load_teacher(teacher) if teacher else None
        ema = options.optimizer.ema
        self._average = WeightAverage(self.strategy, self.backbone, ema) if ema else None
        self._scored = self._average.net if self._average else self.backbone
        self._validators = make_validators(self._scored, config, options.validation, batch_size)
        for validator in self._validators:
            shown = ", ".join(
                f"{name} {value}" for name, value in validator.protocol.items() if name != "sha256"
            )
            logger.info("validation on %s: %s", validator.name, shown)

    def run(
        self,
        sources: CombinedSources,
        sampler: ShuffledSampler | IdentitySampler,
        head: keras.layers.Layer,
        export_model: Callable,
        schedules: dict[str, Callable] | None = None,
    ) -> int:
        """Trains until the end of the run. With `--check` it only checks the run.

        Args:
            sources: the converted data.
            sampler: chooses the records of each batch.
            head: built loss layer. Its trainable variables have weight decay, and so has the matrix of the
                distillation loss.
            export_model: the function `export.saved_model.export_saved_model`.
            schedules: see `training.trainer.StepOptions`.

        Returns:
            The exit code.

        Raises:
            ValueError: flags and data do not fit together or to the checkpoint, or a batch cannot be read.
            OSError: a disk is full, or a file cannot be read or written.
            FloatingPointError: loss, gradient or weights are not finite.
        """
        options, output = self.options, self.options.output
        fingerprints = describe_sources(sources.manifests)
        check_changes(options, self._previous, fingerprints)
        require_size(sources, self.backbone.net["image_size"])  # before a teacher embeds them for hours
        teacher, targets = self._ask_teacher(sources)
        batches = self._make_batches(sources, sampler, targets)
        max_steps = options.length.num_steps(sampler.batches_per_epoch)
        trainer = self._make_trainer(head, max_steps, schedules, self._make_distillation(targets))
        checkpoints = Checkpoints(
            output.ckpt_path,
            trainer.state,
            self.backbone.net,
            sources.num_identities,
            options.loss_name,
            recipe=options.optimizer.recipe(),
            started_from=self._started_from,
            teacher=teacher["sha256"] if teacher else None,
            allow_changes=options.allow_changes,
            scratch=output.worker_folder,
        )

        def export(path: Path, card: dict[str, Any]) -> None:
            card = {**card, "run": describe_run(output.ckpt_path)}
            export_model(self._scored, path, face_size=sources.image_size, card=card)

        in_names = [entry.name for entry in self._validators if entry.name in MODEL_NAME_SETS]
        models = SavedModels(output.saved_model_path, export, output.saver_maxkeep, in_names)
        parts = (trainer, batches, checkpoints, models, self._validators)
        workers = WorkerAgreement(self.strategy)
        loop = TrainingLoop(*parts, output, max_steps, self._monitor, workers)
        net = f"{self.backbone.architecture}, {self.backbone.count_params() / 1e6:.1f} M parameters"
        devices = f"{self.strategy.num_replicas_in_sync} device(s), {options.device.precision}"
        images = f"{sources.num_images} images of {sources.num_identities} identities"
        logger.info("%s; %s; %s; seed %d", images, net, devices, options.data.seed)
        logger.info("%s", describe_strategy(self.strategy, options))
        check_precision(options.device.precision)
        check_run(trainer, batches, output, self.first_step, max_steps, self.gpu_memory)
        loop.restore(self._resume_from, self._own_checkpoint)
        # A resumed run has the picture already, and with --read sequential a later batch takes long to reach.
        if self.is_new or options.check:
            check_first_batch(batches, self.first_step, output.summary_path)
        if options.check:
            measure_speed(trainer, batches, self.first_step)
            logger.info("Check passed. Nothing was trained.")
            return 0
        if output.worker_folder is not None:  # Only the chief writes the record.
            return loop.run()
        facts = {"net": self.backbone.net, "loss": options.loss_name, "teacher": teacher}
        with recorded(output.ckpt_path, options, fingerprints, first_step=self.first_step, **facts) as entry:
            entry["exit_code"] = loop.run()
            entry["last_step"] = trainer.step
            return entry["exit_code"]

    def _ask_teacher(self, sources):
        """Returns `(description, embeddings)` of the teacher or `(None, None)`, and frees the teacher."""
        teacher, self._teacher = self._teacher, None
        if teacher is None:
            return None, None
        described = {"path": str(teacher.path), "sha256": teacher.sha256}
        return described, teacher_targets(teacher, sources)

    def _make_distillation(self, targets):
        if targets is None:
            return None
        options = self.options
        with self.strategy.scope():
            layer = DistillationLoss(**options.distillation.arguments(), seed=options.data.seed)
            layer.build(self.backbone.output_shape, targets[0].shape)
        return layer

    def _make_batches(self, sources, sampler, targets):
        data = self.options.data
        kinds = [self._config.source(name).kind for name in data.source]
        # Row 25 of docs/fidelity.md: the original's reader of image lists returns RGB.
        is_rgb = [kind == "train_list" and data.list_order == "rgb" for kind in kinds]
        options = PipelineOptions(
            mirror=data.mirror,
            seed=data.seed,
            read=data.read,
            rgb_sources=tuple(itertools.compress(itertools.count(), is_rgb)),
            max_bad_images=data.max_bad_images,
            augmentation=Augmentation(**self.options.augmentation.probabilities()),
            rows=worker_rows(self.strategy, data.batch_size, self.options.device.accumulate),
            targets=targets,
            parts=self.options.device.accumulate,
            devices=replica_devices(self.strategy),
        )
        return TrainingBatches(sources, sampler, self.backbone.net["image_size"], options)

    def _make_trainer(self, head, max_steps, schedules, distillation):
        options, device = self.options.optimizer, self.options.device
        with self.strategy.scope():
            schedule = make_schedule(self.options.schedule, self.options.data.batch_size, max_steps)
            optimizer = make_optimizer(options, schedule)
            loss_scale = LossScale() if device.precision == "mixed_float16" else None
        # Row 5 of docs/fidelity.md: the original's name filter finds the dense kernel at depth 50 only.
        decays_dense = options.dense_decay == "every_depth" or self.backbone.name == "resnet_v1_50"
        loss_variables = head.trainable_variables + (
            [] if distillation is None else distillation.trainable_variables
        )
        decayed = decayed_variables(self.backbone, decays_dense) + loss_variables
        trained = self.backbone.trainable_variables + loss_variables
        step_options = StepOptions(
            weight_decay=decay_in_loss(optimizer, options.weight_decay, trained, decayed),
            clip_norm=options.clip_norm,
            accumulate=device.accumulate,
            xla={"auto": None, "on": True, "off": False}[device.xla],
            schedules=schedules or {},
            average=self._average,
            distillation=distillation,
            loss_scale=loss_scale,
        )
        return Trainer(self.strategy, self.backbone, head, optimizer, decayed, step_options)

    def _take_weights(self, start, path):
        for name in ("architecture", "image_size", "embedding_size"):
            expected, received = self.backbone.net[name], start.net[name]
            if expected != received:
                raise ValueError(
                    f"{path}: the flags ask for {name} = {expected}, the model has {received}. Leave out "
                    "these flags, or start from another model."
                )
        self.backbone.set_weights(start.get_weights())
        logger.info("Loaded the net of %s: %s. Optimizer and step start fresh.", path, start.architecture)


def _meeting() -> Exchange | None:
    """Returns a function that exchanges messages with the other workers, or `None` without others."""
    addresses, index = cluster()
    if len(addresses) == 1:
        return None
    logger.info("worker %d: waiting for the others, at most %.0f minutes", index, PATIENCE / 60)
    return lambda message: exchange(addresses, index, message)


def _digest(model: Path | None) -> str:
    """Returns the SHA-256 of a model, or an empty string if no model is given."""
    return "" if model is None else model_sha256(find_model(model))
