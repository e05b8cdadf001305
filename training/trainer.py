"""The training step, on one device or several."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf

from dataset.preprocess import RawImages
from nets.layers.counters import save_counters_as_int32
from training.centres import Extra, Gradients, ShardedCentres, make_centres
from training.ema import WeightAverage
from training.loss_scale import LossScale
from training.optimizers import count_step, update

Terms = dict[str, tf.Tensor]
Values = tf.Tensor | list

# Gradients travel between the devices in packs of this size.
_COMMUNICATION = tf.distribute.experimental.CommunicationOptions(bytes_per_pack=32 * 2**20)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepOptions:
    """Options of one training step.

    Attributes:
        weight_decay: weight of the decay in the objective, at least 0.
        clip_norm: largest global norm of the gradient, greater than 0. Defaults to no clipping.
        accumulate: number of parts of a batch, at least 1.
        xla: whether each device compiles forward pass, backward pass and update with XLA. `None` compiles
            what can be compiled on GPUs, and nothing on other devices.
        schedules: functions of the step. Each key is the argument of the head that the function sets.
        average: moving average of the backbone's weights.
        distillation: built loss layer of a teacher, whose loss is added to that of the head.
            `distillation(embeddings, targets)` returns terms as the head does. Batches then hold targets.
        loss_scale: loss scale for float16, made in the strategy's scope. With it, a step whose gradients are
            not finite on some replica counts but changes no weight. It reports `skipped` 1 and
            `gradient_norm` 0.
    """

    weight_decay: float = 1e-4
    clip_norm: float | None = None
    accumulate: int = 1
    xla: bool | None = False
    schedules: Mapping[str, Callable] = dataclasses.field(default_factory=dict)
    average: WeightAverage | None = None
    distillation: keras.layers.Layer | None = None
    loss_scale: LossScale | None = None


class Trainer:
    """Holds backbone, loss layer and optimizer, and updates them step by step.

    The objective is `mean(loss) + weight_decay * sum(v^2) / 2`, with the mean over the global batch. Every
    replica computes its share, so the gradients of all replicas add up to those of one device. Only batch
    normalisation differs: it uses the statistics of each replica's share unless it is synchronised
    (`nets.layers.batch_norm.synchronise_batch_norm`).

    With `accumulate` the step computes the batch in parts, one after the other, and sums their gradients
    before it clips and applies them. The update is that of the whole batch, with the memory of one part. Only
    batch normalisation differs, because it sees each part separately.

    The gradients are first summed over the replicas and then clipped. Keras would clip them on each replica
    separately.

    References:
        - margin-centre-face, `train_centre.py` (objective, decay), row 6 of docs/fidelity.md

    Args:
        strategy: strategy in whose scope the other objects were made.
        backbone: model from images to embeddings.
        head: built loss layer. `head(embeddings, identities, **scheduled)` returns a dict of float32
            `(batch,)` tensors with the key `loss`.
        optimizer: optimizer, not built yet.
        decayed_variables: the trainable variables that have weight decay.
        options: defaults to `StepOptions()`.

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
        self.optimizer: Any = optimizer  # Keras's type stubs lack `iterations`.
        self.decayed_variables = decayed_variables
        self.options = options = options or StepOptions()
        is_distributed = strategy.num_replicas_in_sync > 1
        for layer in (head, options.distillation):
            if options.accumulate > 1 and getattr(layer, "needs_whole_batch", False):
                raise ValueError(
                    f"--accumulate: expected 1 with {type(layer).__name__}, which compares all images of a "
                    f"batch, received {options.accumulate}"
                )
        # The replicas of this process; other workers have their own.
        self._num_local_replicas = len(strategy.extended.worker_devices) if is_distributed else 1
        self._variables = backbone.trainable_variables + head.trainable_variables
        if options.distillation is not None:
            self._variables = self._variables + options.distillation.trainable_variables
        # Restoring needs the optimizer's variables to exist.
        with strategy.scope():
            optimizer.build(self._variables)
        self._centres = make_centres(
            head, optimizer, self._variables, decayed_variables, options.weight_decay
        )
        if not self._centres.is_whole and (options.accumulate > 1 or options.loss_scale):
            raise ValueError(
                "--accumulate and --precision mixed_float16 do not work with sampled or sharded centres. "
                "Leave them out."
            )
        obstacle = self._obstacle_to_xla(is_distributed)
        if options.xla and obstacle:
            raise ValueError(f"--xla on does not work with {obstacle}. Give --xla auto or off.")
        compiles = options.xla if options.xla is not None else _has_gpus(strategy)
        optional = {} if options.average is None else {"average": options.average.net}
        optional |= {} if options.distillation is None else {"distillation": options.distillation}
        optional |= {} if options.loss_scale is None else {"loss_scale": options.loss_scale}
        for net in [backbone] if options.average is None else [backbone, options.average.net]:
            save_counters_as_int32(net)
        self.state = tf.train.Checkpoint(backbone=backbone, head=head, optimizer=optimizer, **optional)
        self._compute = _on_each_replica(self._replica_gradients, compiles and not obstacle)
        compiles = compiles and self._centres.is_whole
        self._finish = _on_each_replica(self._with_decay_and_norm, compiles)
        self._apply = _on_each_replica(self._replica_apply, compiles)
        self._step_of_batch = tf.function(self._run_step)
        self._gradients_of_part = tf.function(self._run_part)
        self._sum_of_parts = tf.function(self._run_sum)
        self._step_of_parts = tf.function(self._run_update)
        self._decay_of_weights = tf.function(self._weight_decay)

    def _obstacle_to_xla(self, is_distributed):
        """Returns what prevents the compilation of forward and backward pass, or `None`."""
        if not self._centres.is_whole:
            return "--shard_centres or --sample_rate"
        # Sums over several devices within the passes are not compiled, because that was never tried on GPUs.
        if is_distributed and any(getattr(layer, "synchronised", False) for layer in self.backbone.layers):
            return "--sync_bn on several devices"
        for layer in (self.head, self.options.distillation):
            if is_distributed and getattr(layer, "compares_replicas", False):
                return f"{type(layer).__name__} on several devices, which needs the global batch"
        return None

    @property
    def step(self) -> int:
        """Number of steps done so far."""
        return int(self.optimizer.iterations.numpy())

    def train_step(self, images: Values, *labels: Values, with_decay: bool = True) -> Terms:
        """Updates all variables once, with the global batch or this worker's share of it.

        Args:
            images: a list of `RawImages`, one for each replica and part, as
                `dataset.pipeline.TrainingBatches.start_at` yields them; or network input, float32
                `(batch, height, width, 3)`, which is split here.
            *labels: `identities`, int32 or int64 `(batch,)`. With a distillation also `targets`, float32
                `(batch, teacher_dim)`. Each can be a list of shares, like the images.
            with_decay: whether to compute `weight_decay` and `total`, which needs a pass over all weights.

        Returns:
            Scalars by name, with values from before the update: the means of the head's terms,
            `gradient_norm`, `learning_rate` and the scheduled values; with a loss scale also `loss_scale` and
            `skipped`; with `with_decay` also `weight_decay` and `total`. They stay on the first device until
            they are read.
        """
        decay = self._decay_of_weights() if with_decay else None
        parts = [*zip(*map(self._parts, (images, *labels)), strict=True)]
        if len(parts) == 1:
            terms = self._step_of_batch(*parts[0])
        else:
            # One call per part, so that no two parts are in memory at once.
            results = (self._gradients_of_part(*part) for part in parts)
            terms = self._step_of_parts(*functools.reduce(self._sum_of_parts, results))
        centre_decay = terms.pop("centre_decay", 0.0)
        if decay is not None:
            terms["weight_decay"] = decay + centre_decay
            terms["total"] = terms["loss"] + terms["weight_decay"]
        return terms

    def _parts(self, values):
        """Yields each part of a batch, with one value per replica."""
        num_replicas, num_parts = self._num_local_replicas, self.options.accumulate
        shares = values if isinstance(values, list) else tf.split(values, num_parts * num_replicas)
        if num_replicas == 1:
            yield from shares
            return
        for first in range(0, len(shares), num_replicas):
            yield self.strategy.experimental_distribute_values_from_function(
                lambda context, first=first: shares[first + context.replica_id_in_sync_group % num_replicas]
            )

    # The functions `_run_...` are called once for all replicas. The functions `_replica_...` and those that
    # they call run on each replica.

    def _run_step(self, images, *labels):
        return self._finished(self.strategy.run(self._replica_step, args=(images, labels)))

    def _run_part(self, images, *labels):
        return self.strategy.run(self._replica_part, args=(images, labels))

    def _run_sum(self, sums, results):
        add = functools.partial(tf.nest.map_structure, tf.add)
        return self.strategy.run(add, args=(sums, results))

    def _run_update(self, *results):
        return self._finished(self.strategy.run(self._replica_update, args=results))

    def _finished(self, terms):
        """Updates the moving average, and returns the terms of the first replica."""
        if self.options.average is not None:
            self.options.average.update(self.optimizer.iterations)
        return {name: self.strategy.experimental_local_results(term)[0] for name, term in terms.items()}

    def _weight_decay(self):
        squares = [tf.nn.l2_loss(tf.convert_to_tensor(variable)) for variable in self._centres.decayed_whole]
        return self.options.weight_decay * tf.add_n(squares)

    def _replica_step(self, images, labels):
        return self._replica_update(*self._replica_part(images, labels))

    def _replica_part(self, images, labels):
        return self._compute(images, labels, self._scheduled())

    def _replica_update(self, shares: Terms, gradients: Gradients, extra: Extra) -> Terms:
        """Sums the gradients of all replicas and applies them. Returns the terms of the global batch.

        The replicas exchange values only through all-reduces, so no device waits for the host.
        """
        learning_rate = tf.convert_to_tensor(self.optimizer.learning_rate)
        scheduled = self._scheduled()
        terms, gradients = self._sum_of_replicas(shares, gradients)
        gradients, extra, norm, centre_decay = self._finish(gradients, extra)
        if self.options.clip_norm is not None and self.strategy.num_replicas_in_sync > 1:
            # Replicas whose norms differed in the last bit would drift apart.
            norm = tf.distribute.get_replica_context().all_reduce("MEAN", norm)
        self._apply(gradients, extra, norm)
        if self.options.loss_scale is not None:
            is_finite = tf.math.is_finite(norm)
            scale = self.options.loss_scale.update(is_finite)
            # At a scale of 1 infinite gradients remain infinite. The norm shows them, and the loop stops.
            norm = tf.where(is_finite | (scale <= 1.0), norm, 0.0)
            terms |= {"loss_scale": scale, "skipped": tf.cast(~is_finite, tf.float32)}
        count_step(self.optimizer)
        terms |= {} if self._centres.is_whole else {"centre_decay": centre_decay}
        return {**terms, "gradient_norm": norm, **scheduled, "learning_rate": learning_rate}

    def _scheduled(self):
        step = tf.convert_to_tensor(self.optimizer.iterations)
        return {name: schedule(step) for name, schedule in self.options.schedules.items()}

    def _replica_gradients(self, images, labels, scheduled):
        """Returns `(terms, gradients, extra)` of this replica, for a batch or a part of it.

        The terms of all replicas and parts add up to the means over the global batch. `training.centres`
        explains `extra`.
        """
        if isinstance(images, RawImages):
            images = images.to_input(self.backbone.input_shape[1:3])
        num_shares = self.strategy.num_replicas_in_sync * self.options.accumulate
        global_batch = float(images.shape[0] * num_shares)
        with tf.GradientTape(persistent=True) as tape:
            samples = self._samples(self.backbone(images, training=True), labels, scheduled)
            shares = {name: tf.reduce_sum(values) / global_batch for name, values in samples.items()}
            factor = self.options.loss_scale.scale if self.options.loss_scale else 1.0
            objective = shares["loss"] * factor
        return shares, *self._centres.to_dense(self._centres_last(tape, objective))

    def _samples(self, embeddings, labels, scheduled):
        """Returns the terms of each sample: those of the head, and of the distillation if there is one."""
        identities, *targets = labels
        # Batches hold int64 identities, because TensorFlow keeps int32 arguments of a step on the host.
        terms = self.head(embeddings, tf.cast(identities, tf.int32), **scheduled)
        if self.options.distillation is None:
            return terms
        taught = self.options.distillation(embeddings, *targets)
        return {**terms, **taught, "loss": terms["loss"] + taught["loss"]}

    def _centres_last(self, tape: tf.GradientTape, objective: tf.Tensor) -> Gradients:
        """Returns the gradient of each variable, computing that of the centres last.

        The gradient of the centres is large, and quick to compute. If it were computed first, it would be in
        memory together with the net's activations. To delay it, the step computes the few operations between
        loss and centres twice. With shards this is not worth it: these operations exchange logits between
        devices.
        """
        sources = self._centres.sources()
        if isinstance(self._centres, ShardedCentres):
            return tape.gradient(objective, sources)
        num_net_variables = len(self.backbone.trainable_variables)
        gradients = tape.gradient(objective, sources[:num_net_variables])
        with tf.control_dependencies(gradients):
            return gradients + tape.gradient(objective, sources[num_net_variables:])

    def _sum_of_replicas(self, shares: Terms, gradients: Gradients) -> tuple[Terms, Gradients]:
        context = tf.distribute.get_replica_context()
        if context.num_replicas_in_sync == 1:
            return shares, gradients
        # TensorFlow sums from the end of the list, one pack at a time. A pack can travel while the device
        # still computes the next ones, if the list is in the opposite order of the backward pass.
        num_net_variables = len(self.backbone.trainable_variables)
        from_net, from_losses = gradients[:num_net_variables], gradients[num_net_variables:]
        values = [*from_losses, tf.stack(list(shares.values())), *from_net]
        # Sums over workers need tensors with a device, which the arguments of a function do not have.
        values = context.all_reduce("SUM", [tf.identity(value) for value in values], options=_COMMUNICATION)
        from_losses, (terms, *from_net) = values[: len(from_losses)], values[len(from_losses) :]
        return dict(zip(shares, tf.unstack(terms), strict=True)), [*from_net, *from_losses]

    def _with_decay_and_norm(self, gradients: Gradients, extra: Extra):
        """Adds the decay to gradients that are summed over the replicas.

        The decay depends on nothing but the weights. So TensorFlow would compute it when the step begins, and
        keep it in memory together with the activations. The control dependencies delay it.

        Returns:
            `(gradients, extra, norm, decay)`, where `decay` is the decay term of sampled or sharded centres.
        """
        if self.options.loss_scale is not None:
            gradients = [gradient / self.options.loss_scale.scale for gradient in gradients]
        decayed = {id(variable) for variable in self._centres.decayed_whole}
        sums = []
        for gradient, variable in zip(gradients, self._variables, strict=True):
            if id(variable) in decayed:
                with tf.control_dependencies([gradient]):
                    gradient = gradient + self.options.weight_decay * tf.convert_to_tensor(variable)
            sums.append(gradient)
        gradients, extra, decay = self._centres.add_decay(sums, extra)
        return gradients, extra, tf.linalg.global_norm(gradients), decay

    def _replica_apply(self, gradients: Gradients, extra: Extra, norm: tf.Tensor) -> None:
        """Clips the gradients and updates the variables.

        With a loss scale, an infinite norm skips the update. The norm is that of the sum over all replicas,
        so all replicas decide the same way.
        """

        def apply():
            clipped = gradients
            if self.options.clip_norm is not None:
                clipped, _ = tf.clip_by_global_norm(gradients, self.options.clip_norm, use_norm=norm)
            update(self.optimizer, self._variables, self._centres.for_optimizer(clipped, extra))

        if self.options.loss_scale is None:
            apply()
        else:
            tf.cond(tf.math.is_finite(norm), apply, lambda: None)


def _has_gpus(strategy):
    if strategy.num_replicas_in_sync > 1:
        return all("GPU" in device for device in strategy.extended.worker_devices)
    return bool(tf.config.list_logical_devices("GPU"))


def _on_each_replica(function: Callable, compiles: bool) -> Callable:
    """Returns the function, or a function that compiles it with XLA.

    Given a `tf.function`, `strategy.run` would compile all replicas as one function, which fails because
    their variables are on several devices. It does not recognise the lambda that is returned here.
    """
    if not compiles:
        return function
    compiled = tf.function(function, jit_compile=True)
    return lambda *arguments: compiled(*arguments)
