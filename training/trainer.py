"""The training step, on one device or several."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf

from dataset.preprocess import RawImages
from training.centres import Extra, Gradients, ShardedCentres, make_centres
from training.ema import WeightAverage
from training.loss_scale import LossScale

Terms = dict[str, tf.Tensor]
Values = tf.Tensor | list


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepOptions:
    """Options of one training step.

    Attributes:
        weight_decay: weight of the decay in the objective, at least 0.
        clip_norm: largest global norm of the gradient, greater than 0. Defaults to no clipping.
        accumulate: number of parts of a batch, at least 1.
        xla: compile forward and backward pass with XLA, on one device only.
        schedules: functions of the step, by the argument of the head that they set.
        average: moving average of the backbone's weights.
        distillation: built loss layer of a teacher, whose loss is added: `distillation(embeddings, targets)`
            returns terms as the head does. Batches then hold targets.
        loss_scale: for float16, made in the strategy's scope. A step whose gradients are not finite on some
            replica then counts but changes no weight; it reports `skipped` 1 and `gradient_norm` 0.
    """

    weight_decay: float = 1e-4
    clip_norm: float | None = None
    accumulate: int = 1
    xla: bool = False
    schedules: Mapping[str, Callable] = dataclasses.field(default_factory=dict)
    average: WeightAverage | None = None
    distillation: keras.layers.Layer | None = None
    loss_scale: LossScale | None = None


class Trainer:
    """Backbone, loss layer and optimizer, and the step that updates them.

    The objective is `mean(loss) + weight_decay * sum(v^2) / 2`, with the mean over the global batch. Every
    replica computes its share, so the gradients of all replicas add up to those of one device. Only batch
    normalisation differs: it uses the statistics of each replica's share unless it is synchronised
    (`nets.layers.batch_norm.synchronise_batch_norm`).

    With `accumulate` the step computes the batch in parts, one after the other, and sums their gradients
    before it clips and applies them: the update of the whole batch in the memory of one part. Only batch
    normalisation sees the parts.

    The gradients are summed over the replicas and then clipped; Keras's own clipping sees each replica alone.

    References:
        - margin-centre-face, `train_centre.py` (objective, decay), row 6 of docs/fidelity.md

    Args:
        strategy: the other objects are made in its scope.
        backbone: model from images to embeddings.
        head: built loss layer: `head(embeddings, identities, **scheduled)` returns float32 `(batch,)` tensors
            by name, `loss` among them.
        decayed_variables: the trainable variables that decay.
        options: Defaults to `StepOptions()`.

    Raises:
        ValueError: the options do not fit the head or the strategy.

    Attributes:
        state: `tf.train.Checkpoint` of everything that a step changes.
    """

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        backbone: keras.Model,
        head: keras.layers.Layer,
        optimizer: keras.optimizers.Optimizer,
        decayed_variables: list[keras.Variable],
        options: StepOptions | None = None,
    ):
        self.strategy = strategy
        self.backbone = backbone
        self.head = head
        self.optimizer: Any = optimizer  # Keras's stubs do not know its `iterations`.
        self.decayed_variables = decayed_variables
        self.options = options = options or StepOptions()
        is_distributed = strategy.num_replicas_in_sync > 1
        for layer in (head, options.distillation):
            if options.accumulate > 1 and getattr(layer, "needs_whole_batch", False):
                raise ValueError(
                    f"--accumulate: expected 1 with {type(layer).__name__}, which compares all images of a "
                    f"batch, received {options.accumulate}"
                )
        if options.xla and is_distributed:
            # XLA finds mirrored variables on devices other than the one it compiles for.
            raise ValueError(
                f"--xla: expected one device, received {strategy.num_replicas_in_sync}. "
                "Leave it out, or give --strategy one."
            )
        # The replicas of this process; other workers have their own.
        self._num_local_replicas = len(strategy.extended.worker_devices) if is_distributed else 1
        self._variables = backbone.trainable_variables + head.trainable_variables
        if options.distillation is not None:
            self._variables = self._variables + options.distillation.trainable_variables
        # Keras would sum the gradients over the replicas again: the step does so before it clips them. There
        # is no public switch. Without this line test_two_replicas_equal_one_device fails.
        optimizer._all_reduce_sum_gradients = list
        # Restoring needs the optimizer's variables to exist.
        with strategy.scope():
            optimizer.build(self._variables)
        self._centres = make_centres(
            head, optimizer, self._variables, decayed_variables, options.weight_decay
        )
        if not self._centres.is_whole and (options.accumulate > 1 or options.loss_scale or options.xla):
            raise ValueError(
                "expected neither --accumulate nor --precision mixed_float16 nor --xla with sampled or "
                "sharded centres, received one of them"
            )
        optional = {} if options.average is None else {"average": options.average.net}
        optional |= {} if options.distillation is None else {"distillation": options.distillation}
        optional |= {} if options.loss_scale is None else {"loss_scale": options.loss_scale}
        self.state = tf.train.Checkpoint(backbone=backbone, head=head, optimizer=optimizer, **optional)
        compute = self._replica_gradients
        self._compute = tf.function(compute, jit_compile=True) if options.xla else compute
        self._step_of_batch = tf.function(self._compute_and_update)
        self._gradients_of_part = tf.function(self._gradients)
        self._sum_of_parts = tf.function(self._add)
        self._step_of_parts = tf.function(self._update)

    @property
    def step(self) -> int:
        """Number of steps done so far."""
        return int(self.optimizer.iterations.numpy())

    def train_step(self, images: Values, *labels: Values) -> Terms:
        """Updates all variables once, with the global batch or this worker's share of it.

        Args:
            images: a list of `RawImages`, the shares of each part for each replica, see
                `dataset.pipeline.TrainingBatches.start_at`. Or network input, float32
                `(batch, height, width, 3)`, which is split here.
            labels: `identities`, int32 or int64 `(batch,)`, and with a distillation `targets`, float32
                `(batch, teacher_dim)`, or lists of their shares.

        Returns:
            Scalars from before the update: the means of the head's terms, `weight_decay`, `total`,
            `gradient_norm`, `learning_rate`, the scheduled values, and with a loss scale `loss_scale` and
            `skipped`.
        """
        parts = [*zip(*map(self._parts, (images, *labels)), strict=True)]
        if len(parts) == 1:
            terms = self._step_of_batch(*parts[0])
        else:
            # One call per part, so that no two parts are in memory at once.
            results = (self._gradients_of_part(*part) for part in parts)
            terms = self._step_of_parts(*functools.reduce(self._sum_of_parts, results))
        if self.options.average is not None:
            with self.strategy.scope():  # where statistics are read as the mean over the replicas
                self.options.average.update(self.optimizer.iterations)
        return terms

    def _parts(self, values):
        """Yields each part of a batch as one value per replica."""
        num_replicas, num_parts = self._num_local_replicas, self.options.accumulate
        shares = values if isinstance(values, list) else tf.split(values, num_parts * num_replicas)
        if num_replicas == 1:
            yield from shares
            return
        for first in range(0, len(shares), num_replicas):
            yield self.strategy.experimental_distribute_values_from_function(
                lambda context, first=first: shares[first + context.replica_id_in_sync_group % num_replicas]
            )

    def _compute_and_update(self, images, *labels):
        return self._update(*self._gradients(images, *labels))

    def _gradients(self, images, *labels):
        """Returns every replica's shares of the terms, its gradients and its extra, for a batch or a part."""
        return self.strategy.run(self._compute, args=(images, labels, self._scheduled()))

    def _add(self, sums, results):
        add = functools.partial(tf.nest.map_structure, tf.add)
        return self.strategy.run(add, args=(sums, results))

    def _update(self, shares, gradients, extra):
        """Sums the replicas' gradients and applies them; returns the terms of the whole batch."""
        learning_rate = tf.convert_to_tensor(self.optimizer.learning_rate)
        scheduled = self._scheduled()
        shares, gradients, extra = self.strategy.run(self._replica_sum, args=(shares, gradients, extra))
        terms = {name: self.strategy.reduce("SUM", share, axis=None) for name, share in shares.items()}

        def apply():
            self.strategy.run(self._replica_apply, args=(gradients, extra, terms["gradient_norm"]))

        if self.options.loss_scale is None:
            apply()
        else:
            terms |= self._apply_if_finite(apply, terms["gradient_norm"], self.options.loss_scale)
        return {**terms, **scheduled, "learning_rate": learning_rate}

    def _apply_if_finite(self, apply: Callable, norm: tf.Tensor, loss_scale: LossScale) -> Terms:
        # The norm is that of the sum over all replicas, so all of them decide the same way.
        is_finite = tf.math.is_finite(norm)
        scale = tf.identity(loss_scale.scale)

        def skip():
            self.optimizer.iterations.assign_add(1)  # the next step gets the next batch

        tf.cond(is_finite, apply, skip)
        loss_scale.update(is_finite)
        # Gradients that are infinite without a scale cannot be helped: show them, and the loop stops.
        shown = tf.where(is_finite | (scale <= 1.0), norm, 0.0)
        return {"gradient_norm": shown, "loss_scale": scale, "skipped": tf.cast(~is_finite, tf.float32)}

    def _scheduled(self):
        step = tf.convert_to_tensor(self.optimizer.iterations)
        return {name: schedule(step) for name, schedule in self.options.schedules.items()}

    def _replica_gradients(self, images, labels, scheduled):
        if isinstance(images, RawImages):
            images = images.to_input(self.backbone.input_shape[1:3])
        num_shares = self.strategy.num_replicas_in_sync * self.options.accumulate
        global_batch = tf.cast(tf.shape(images)[0] * num_shares, tf.float32)
        with tf.GradientTape(persistent=True) as tape:
            samples = self._samples(self.backbone(images, training=True), labels, scheduled)
            shares = {name: tf.reduce_sum(values) / global_batch for name, values in samples.items()}
            factor = self.options.loss_scale.scale if self.options.loss_scale else 1.0
            objective = shares["loss"] * factor
        gradients = self._centres_last(tape, objective)
        squares = [tf.nn.l2_loss(tf.convert_to_tensor(variable)) for variable in self._centres.decayed_whole]
        shares["weight_decay"] = self.options.weight_decay * tf.add_n(squares) / num_shares
        shares["total"] = shares["loss"] + shares["weight_decay"]
        gradients = self._with_decay(gradients, self.options.weight_decay / num_shares * factor)
        return shares, *self._centres.to_dense(gradients)

    def _samples(self, embeddings, labels, scheduled):
        """Returns the terms of each sample: those of the head, and of the distillation if there is one."""
        identities, *targets = labels
        # Batches hold them as int64, because TensorFlow keeps int32 arguments of a step on the host.
        terms = self.head(embeddings, tf.cast(identities, tf.int32), **scheduled)
        if self.options.distillation is None:
            return terms
        taught = self.options.distillation(embeddings, *targets)
        return {**terms, **taught, "loss": terms["loss"] + taught["loss"]}

    def _centres_last(self, tape: tf.GradientTape, objective: tf.Tensor) -> Gradients:
        """Returns the gradient of each variable, computing that of the centres last.

        The gradient of the centres is large, and quick to compute. Computed first, it would occupy memory
        while the net's activations still do. To delay it, the step computes the few operations between loss
        and centres twice. It does not for shards, where they exchange logits between devices.
        """
        sources = self._centres.sources()
        if isinstance(self._centres, ShardedCentres):
            return tape.gradient(objective, sources)
        num_net_variables = len(self.backbone.trainable_variables)
        gradients = tape.gradient(objective, sources[:num_net_variables])
        with tf.control_dependencies(gradients):
            return gradients + tape.gradient(objective, sources[num_net_variables:])

    def _with_decay(self, gradients: Gradients, rate: float | tf.Tensor) -> Gradients:
        """Adds the gradient of the decay to that of each variable that decays as a whole.

        It depends on nothing but the weights, so TensorFlow would compute it when the step begins, and keep
        it in memory with the activations. The control dependency delays it.
        """
        decayed = {id(variable) for variable in self._centres.decayed_whole}
        with tf.control_dependencies(gradients):
            return [
                gradient + rate * tf.convert_to_tensor(variable) if id(variable) in decayed else gradient
                for gradient, variable in zip(gradients, self._variables, strict=True)
            ]

    def _replica_sum(self, shares: Terms, gradients: Gradients, extra: Extra):
        """Sums the gradients over the replicas, and adds their norm to the shares."""
        context = tf.distribute.get_replica_context()
        num_replicas = context.num_replicas_in_sync
        # Sums over workers need tensors with a device, which the arguments of a function do not have.
        shares, gradients = tf.nest.map_structure(tf.identity, (shares, gradients))
        gradients = context.all_reduce("SUM", gradients)
        if self.options.loss_scale is not None:
            gradients = [gradient / self.options.loss_scale.scale for gradient in gradients]
        gradients, extra, decay = self._centres.add_decay(gradients, extra)
        if not self._centres.is_whole:
            shares["weight_decay"] += decay / num_replicas
            shares["total"] += decay / num_replicas
        norm = tf.linalg.global_norm(gradients)
        return {**shares, "gradient_norm": norm / num_replicas}, gradients, extra

    def _replica_apply(self, gradients: Gradients, extra: Extra, norm: tf.Tensor) -> None:
        if self.options.clip_norm is not None:
            gradients, _ = tf.clip_by_global_norm(gradients, self.options.clip_norm, use_norm=norm)
        gradients = self._centres.for_optimizer(gradients, extra)
        self.optimizer.apply_gradients(zip(gradients, self._variables, strict=True))
