"""From flags and config to a running loop: what both trainers set up alike."""

import functools
import logging
import time

from dataset.augment import Augmentation
from dataset.pipeline import TrainingBatches
from nets.backbone import Backbone, load_backbone
from nets.decay import decayed_variables
from nets.importers.training_checkpoint import newest_checkpoint
from nets.layers.batch_norm import synchronise_batch_norm
from training.checkpoints import Checkpoints, FollowerCheckpoints
from training.distribution import WorkerAgreement, describe_strategy, make_strategy, worker_rows
from training.ema import WeightAverage
from training.loop import TrainingLoop
from training.loss_scale import LossScale, check_loss_scale
from training.monitoring import RunMonitor
from training.optimizers import check_recipe, decay_in_loss, make_optimizer, make_schedule, state_of_recipe
from training.options import AUGMENTATIONS, net_arguments, num_steps
from training.preflight import Preflight
from training.progress import Intervals
from training.trainer import StepOptions, Trainer
from training.validation import make_validators

logger = logging.getLogger(__name__)


class Session:
    """One run of a trainer: net, optimizer, validation sets.

    Made before the sources are converted, which may take hours: what is wrong with flags, models and
    validation sets is found first.

    A run whose `--ckpt_path` has checkpoints goes on from the newest; only one that has none looks at
    `resume_from` and `start_from`. So the same command goes on after a stop.

    Args:
        args: parsed flags of `training.options.add_shared_flags`.
        config: `dataset.config.Config`.
        strategy: `tf.distribute.Strategy`. Defaults to that of `make_strategy()`.
        resume_from: Path of a training checkpoint, or a folder of them, to go on from: net, loss
            layer, optimizer and step.
        start_from: Path of a model to take the net from, and nothing else (row 11 of
            docs/fidelity.md); see `nets.backbone.load_backbone`.

    Attributes:
        strategy: make the head in its scope.
        backbone: `nets.backbone.Backbone`.
        starts_anew: bool, whether this run has no checkpoint to go on from.

    Raises:
        FileNotFoundError: a model or a validation set that is not there.
        ValueError: flags, models or validation sets that do not fit together.
    """

    def __init__(self, args, config, strategy=None, resume_from=None, start_from=None):
        self.args = args
        profile_path = args.summary_path if args.profile else None
        self._monitor = RunMonitor(args.log_file_path, args.max_minutes, profile_path)
        if args.max_bad_images < 0:
            raise ValueError(f"--max_bad_images: expected at least 0, received {args.max_bad_images}")
        self.strategy = strategy or make_strategy()
        if args.batch_size % (self.strategy.num_replicas_in_sync * args.accumulate):
            parts = f" times --accumulate {args.accumulate}" if args.accumulate > 1 else ""
            raise ValueError(
                f"--batch_size: expected a multiple of {self.strategy.num_replicas_in_sync} devices{parts}, "
                f"received {args.batch_size}"
            )
        self._config = config
        self._resume_from = resume_from
        self._augmentation = Augmentation(
            **{name: getattr(args, f"augment_{name}") for name in AUGMENTATIONS}
        )
        self._intervals = Intervals(
            args.show_info_interval,
            args.summary_interval,
            args.validate_interval,
            args.save_interval,
            args.ckpt_interval,
        )
        check_recipe(args)
        checkpoint = newest_checkpoint(args.ckpt_path) or (resume_from and newest_checkpoint(resume_from))
        self.starts_anew = checkpoint is None
        self._first_step = checkpoint[1]["step"] if checkpoint else 0
        if checkpoint:
            check_loss_scale(checkpoint[0], args.precision)
        start = load_backbone(start_from) if start_from and self.starts_anew else None
        base = start.net if start else checkpoint[1]["net"] if checkpoint else None
        start_time = time.perf_counter()
        with self.strategy.scope():
            self.backbone = Backbone(**net_arguments(args, base), dtype=args.precision)
        seconds = time.perf_counter() - start_time
        logger.info("net: %s, built in %.1f s", self.backbone.architecture, seconds)
        if args.sync_bn:
            synchronise_batch_norm(self.backbone)
        if start:
            self._take_weights(start, start_from)
        self._average = WeightAverage(self.backbone, args.ema) if args.ema else None
        self._scored = self._average.net if self._average else self.backbone
        self._validators = make_validators(self._scored, config, args, self._monitor.embeddings)

    def run(self, sources, sampler, head, loss, export, schedules=None):
        """Trains to the end.

        Args:
            sources: `dataset.sampling.combine.CombinedSources`.
            sampler: see `dataset.pipeline.TrainingBatches`.
            head: built loss layer, see `training.trainer.Trainer`; its trainable variables are decayed.
            loss: str, its name: a checkpoint of another loss is refused.
            export: function of (backbone, path, face_size) that writes a SavedModel.
            schedules: dict, see `training.trainer.Trainer`.

        Returns:
            int, exit code; with `--check` 0 after what is looked at first.
        """
        args = self.args
        batches = TrainingBatches(
            sources,
            sampler,
            self.backbone.net["image_size"],
            mirror=args.mirror,
            seed=args.seed,
            read=args.read,
            rgb_sources=self._rgb_sources(),
            max_bad_images=args.max_bad_images,
            augmentation=self._augmentation,
            rows=worker_rows(self.strategy, args.batch_size, args.accumulate),
        )
        max_steps = num_steps(args, sampler.batches_per_epoch)
        with self.strategy.scope():
            optimizer = make_optimizer(args, make_schedule(args, max_steps))
        decayed = decayed_variables(self.backbone, self._decays_dense()) + head.trainable_variables
        trained = self.backbone.trainable_variables + head.trainable_variables
        trainer = Trainer(
            self.strategy,
            self.backbone,
            head,
            optimizer,
            decayed,
            StepOptions(
                weight_decay=decay_in_loss(optimizer, args.weight_decay, trained, decayed),
                clip_norm=args.clip_norm,
                schedules=schedules or {},
                average=self._average,
                accumulate=args.accumulate,
                loss_scale=self._loss_scale(),
                xla=args.xla,
            ),
        )
        checkpoints = self._checkpoints(trainer.state, sources.num_identities, loss)
        loop = TrainingLoop(
            trainer,
            batches,
            checkpoints,
            self._validators,
            functools.partial(export, self._scored, face_size=sources.image_size),
            intervals=self._intervals,
            max_steps=max_steps,
            batch_size=args.batch_size,
            steps_per_epoch=sampler.batches_per_epoch,
            summary_path=args.summary_path,
            models_path=args.saved_model_path,
            thresholds={
                "lfw": args.lfw_threshold,
                "ytf": args.ytf_threshold,
                "ytf_videos": args.ytf_threshold,
            },
            max_models=args.saver_maxkeep,
            monitor=self._monitor,
            workers=WorkerAgreement(self.strategy),
        )
        logger.info(
            "%d images of %d identities; %s, %.1f M parameters; %d device(s), %s; seed %d",
            sources.num_images,
            sources.num_identities,
            self.backbone.architecture,
            self.backbone.count_params() / 1e6,
            self.strategy.num_replicas_in_sync,
            args.precision,
            args.seed,
        )
        logger.info("%s", describe_strategy(self.strategy, args))
        preflight = Preflight(
            batches,
            trainer,
            checkpoints,
            args.saved_model_path,
            args.summary_path,
            first_step=self._first_step,
            max_steps=loop.max_steps,
            export_interval=self._intervals.export,
            max_models=args.saver_maxkeep,
        )
        # In sequence the way to a later batch is long; the picture of the run's first one is there.
        preflight.run(draw=self.starts_anew or args.check)
        if args.check:
            checkpoints.restore(self._resume_from)
            preflight.measure()
            logger.info("check: all is well; nothing was trained")
            return 0
        return loop.run(self._resume_from)

    def _loss_scale(self):
        if self.args.precision != "mixed_float16":
            return None
        with self.strategy.scope():
            return LossScale()

    def _checkpoints(self, state, num_identities, loss):
        given = (self.args.ckpt_path, state, self.backbone.net, num_identities, loss)
        recipe = state_of_recipe(self.args)
        if self.args.worker_folder is None:
            return Checkpoints(*given, recipe=recipe)
        return FollowerCheckpoints(*given, recipe=recipe, temporary=self.args.worker_folder)

    def _take_weights(self, start, path):
        for what in ("architecture", "image_size", "embedding_size"):
            expected, received = self.backbone.net[what], start.net[what]
            if expected != received:
                raise ValueError(f"{path}: the flags ask for {what} = {expected}, the model has {received}")
        self.backbone.set_weights(start.get_weights())
        logger.info("net of %s: %s; optimizer and step start fresh", path, start.architecture)

    def _decays_dense(self):
        # Row 5 of docs/fidelity.md: the original's name filter found the dense kernel at depth 50 only.
        return self.args.dense_decay == "every_depth" or self.backbone.name == "resnet_v1_50"

    def _rgb_sources(self):
        # Row 25 of docs/fidelity.md: the original's reader of image lists gave RGB.
        if self.args.list_order == "bgr":
            return ()
        sources = [self._config.source(name) for name in self.args.source]
        return [number for number, source in enumerate(sources) if source.train_list is not None]
