"""From flags and config to a running loop: what both trainers set up alike."""

import functools
import logging

from dataset.pairs import read_image_pairs, read_pairs
from dataset.pipeline import TrainingBatches
from eval.extractor import embed_pairs
from eval.face_model import FaceModel
from eval.verification import evaluate_pairs, pair_distances
from nets.resnet_ir import decayed_variables, resnet_ir
from training.checkpoint import Checkpoints
from training.flags import learning_rate_boundaries, num_steps
from training.loop import Intervals, TrainingLoop
from training.optimizer import MomentumSGD
from training.schedule import StepSchedule
from training.strategy import make_strategy
from training.trainer import Trainer

logger = logging.getLogger(__name__)


class Session:
    """One run of a trainer: net, optimizer, validation sets.

    Made before the sources are converted, which may take hours: what is wrong with flags and
    validation sets is found first.

    Args:
        args: parsed flags of `training.flags.add_shared_flags`.
        config: `dataset.config.Config`.
        strategy: `tf.distribute.Strategy`. Defaults to that of `make_strategy()`.

    Attributes:
        strategy: make the head in its scope.
        backbone: `keras.Model`.

    Raises:
        FileNotFoundError: a validation set that the config names is not there.
        ValueError: flags or validation sets that do not fit together.
    """

    def __init__(self, args, config, strategy=None):
        self.args = args
        self.strategy = strategy or make_strategy()
        if args.batch_size % self.strategy.num_replicas_in_sync:
            raise ValueError(
                f"--batch_size: expected a multiple of {self.strategy.num_replicas_in_sync} devices, "
                f"received {args.batch_size}"
            )
        self._intervals = Intervals(
            args.show_info_interval,
            args.summary_interval,
            args.validate_interval,
            args.save_interval,
            args.ckpt_interval,
        )
        self._net = {
            "depth": args.net_depth,
            "unit_type": args.net_type,
            "image_size": tuple(args.image_size),
            "keep_prob": args.keep_prob,
            "seed": args.seed,
        }
        rate = StepSchedule(
            learning_rate_boundaries(args.lr_steps, args.batch_size), args.lr_values, args.warmup_steps
        )
        with self.strategy.scope():
            self.backbone = resnet_ir(**self._net, dtype=args.precision)
            self._optimizer = MomentumSGD(rate, args.momentum)
        self._validators = {name: self._validator(pairs) for name, pairs in _validation_pairs(config).items()}

    def run(self, sources, sampler, head, head_decayed, export, schedules=None):
        """Trains to the end.

        Args:
            sources: `dataset.combine.CombinedSources`.
            sampler: see `dataset.pipeline.TrainingBatches`.
            head: built loss layer, see `training.trainer.Trainer`.
            head_decayed: list of the head's variables to decay.
            export: function of (backbone, path, face_size) that writes a SavedModel.
            schedules: dict, see `training.trainer.Trainer`.

        Returns:
            int, exit code.
        """
        args = self.args
        batches = TrainingBatches(
            sources, sampler, args.image_size, mirror=args.mirror, seed=args.seed, read=args.read
        )
        trainer = Trainer(
            self.strategy,
            self.backbone,
            head,
            self._optimizer,
            decayed_variables(self.backbone) + head_decayed,
            weight_decay=args.weight_decay,
            clip_norm=args.clip_norm,
            schedules=schedules,
        )
        loop = TrainingLoop(
            trainer,
            batches,
            Checkpoints(args.ckpt_path, trainer.state, self._net, sources.num_identities),
            self._validators,
            functools.partial(export, self.backbone, face_size=sources.image_size),
            intervals=self._intervals,
            max_steps=num_steps(args, sampler.batches_per_epoch),
            batch_size=args.batch_size,
            steps_per_epoch=sampler.batches_per_epoch,
            summary_path=args.summary_path,
            models_path=args.saved_model_path,
            thresholds={"lfw": args.lfw_threshold, "ytf": args.ytf_threshold},
            max_models=args.saver_maxkeep,
        )
        logger.info(
            "%d images of %d identities; %s, %.1f M parameters; %d device(s), %s; seed %d",
            sources.num_images,
            sources.num_identities,
            self.backbone.name,
            self.backbone.count_params() / 1e6,
            self.strategy.num_replicas_in_sync,
            args.precision,
            args.seed,
        )
        return loop.run(args.model_path)

    def _validator(self, pairs):
        model = FaceModel.from_backbone(self.backbone, pairs.image_size)

        # Row 10 of docs/fidelity.md: every pair, dropout off; the original scored 64 pairs.
        def validate():
            first, second = embed_pairs(model, pairs, self.args.batch_size)
            return evaluate_pairs(pair_distances(first, second, "cosine"), pairs.is_same)

        return validate


def _validation_pairs(config):
    pairs = {}
    if config.lfw.enable:
        pairs["lfw"] = read_pairs(config.lfw.npdata, config.lfw.npdata_order)
    if config.ytf.enable:
        pairs["ytf"] = read_image_pairs(config.ytf.pairs, config.ytf.prefix)
    return pairs
