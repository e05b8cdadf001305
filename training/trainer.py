"""One training step, on one device or several."""

import functools

import tensorflow as tf

from training.centres import SampledCentres, ShardedCentres


class Trainer:
    """Backbone, loss layer and optimizer, and the step that changes them.

    The objective is `mean(loss) + weight_decay * sum(v^2) / 2`, the mean over the global batch. Every
    replica sums over its share, so the replicas' gradients add up to those of one device; what
    differs is batch normalisation, by the statistics of each replica's own share, unless it is synchronised
    (`nets.layers.batch_norm.synchronise_batch_norm`).

    With `accumulate` the batch is computed in as many parts, one after the other, whose gradients are summed
    up before they are clipped and applied: the objective of the whole batch in the memory of one
    part. Only batch normalisation sees the parts.

    Of a head's sampled centres only the rows that the step has seen are decayed and changed, see
    `training.centres.SampledCentres`.

    Gradients are summed over the replicas first and clipped after that: Keras's own
    clipping acts on each replica alone.

    References:
    - margin-centre-face, `train_centre.py` (objective, decay), row 6 of docs/fidelity.md

    Args:
        strategy: of `make_strategy`; the other objects are made in its scope.
        backbone: `keras.Model` from images to embeddings.
        head: built loss layer: `head(embeddings, identities, **scheduled)` is a dict of
            float32 `(batch,)` with `loss`.
        optimizer: Keras optimizer.
        decayed_variables: list of Keras variables.
        weight_decay: float >= 0. Defaults to `1e-4`.
        clip_norm: float > 0, the largest global norm of the gradient; `None` for none.
        schedules: dict from arguments of the head to functions of the step.
        average: `training.ema.WeightAverage` of the backbone; `None` for none.
        accumulate: int > 0, parts of a batch. Defaults to `1`.
        loss_scale: `training.loss_scale.LossScale` made in the strategy's scope, for float16; `None` for
            none. A step whose gradients are not finite on any replica then counts, but changes no
            weight; `skipped` is 1 and `gradient_norm` 0 for it.
        xla: bool, compile forward and backward pass with XLA; on one device only. Defaults to `False`.

    Raises:
        ValueError: `accumulate` is out of range, the loss needs the whole batch at once, or `xla` with
            several replicas.

    Attributes:
        step: int, steps done so far.
        state: `tf.train.Checkpoint` of all that a step changes.
    """

    def __init__(
        self,
        strategy,
        backbone,
        head,
        optimizer,
        decayed_variables,
        weight_decay=1e-4,
        clip_norm=None,
        schedules=None,
        average=None,
        accumulate=1,
        loss_scale=None,
        xla=False,
    ):
        if accumulate < 1:
            raise ValueError(f"--accumulate: expected at least 1, received {accumulate}")
        if accumulate > 1 and getattr(head, "needs_whole_batch", False):
            raise ValueError(
                f"--accumulate: expected 1 with {type(head).__name__}, which compares all images of a batch, "
                f"received {accumulate}"
            )
        if xla and strategy.num_replicas_in_sync > 1:
            # It finds mirrored variables on devices other than the one it compiles for.
            raise ValueError(
                f"--xla: expected one device, received {strategy.num_replicas_in_sync}; "
                "leave it out, or give --strategy one"
            )
        self.strategy = strategy
        self.backbone = backbone
        self.head = head
        self.optimizer = optimizer
        self.decayed_variables = decayed_variables
        self.weight_decay = weight_decay
        self.clip_norm = clip_norm
        self.schedules = schedules or {}
        self.average = average
        self.accumulate = accumulate
        self.loss_scale = loss_scale
        # Those of this process; other workers have theirs.
        self._num_local_replicas = (
            len(strategy.extended.worker_devices) if strategy.num_replicas_in_sync > 1 else 1
        )
        self._variables = backbone.trainable_variables + head.trainable_variables
        # The gradients are summed here, before clipping; Keras would sum them up once more.
        optimizer._all_reduce_sum_gradients = list
        # Restoring needs the optimizer's variables to exist.
        with strategy.scope():
            optimizer.build(self._variables)
        kind = ShardedCentres if getattr(head, "sharded", False) else SampledCentres
        self._sampled = kind(head, optimizer, self._variables, decayed_variables, weight_decay)
        if self._sampled.is_needed and (accumulate > 1 or loss_scale is not None or xla):
            raise ValueError(
                "expected neither --accumulate nor --precision mixed_float16 nor --xla with sampled or "
                "sharded centres, received one of them"
            )
        optional = {} if average is None else {"average": average.net}
        optional |= {} if loss_scale is None else {"loss_scale": loss_scale}
        self.state = tf.train.Checkpoint(backbone=backbone, head=head, optimizer=optimizer, **optional)
        self._compute = (
            tf.function(self._replica_gradients, jit_compile=True) if xla else self._replica_gradients
        )
        self._distributed_step = tf.function(self._step)
        self._distributed_gradients = tf.function(self._gradients)
        self._distributed_sum = tf.function(self._sum)
        self._distributed_update = tf.function(self._update)

    @property
    def step(self):
        return int(self.optimizer.iterations.numpy())

    def train_step(self, images, identities):
        """Updates all variables once.

        Args:
            images: float32 `(batch, height, width, 3)`; the global batch, or this worker's share of it.
            identities: int32 `(batch,)`.

        Returns:
            dict of scalar tensors, all from before the update: the means of what the head gives,
            `weight_decay`, `total`, `gradient_norm`, `learning_rate`, what is scheduled, and with a loss
            scale `loss_scale` and `skipped`.

        Raises:
            ValueError: the batch cannot be split evenly over parts and replicas.
        """
        num_replicas = self._num_local_replicas
        if images.shape[0] % (num_replicas * self.accumulate):
            parts = f" times {self.accumulate} parts" if self.accumulate > 1 else ""
            raise ValueError(
                f"batch: expected a multiple of {num_replicas} replicas{parts}, received {images.shape[0]}"
            )
        terms = self._update_from(images, identities)
        if self.average is not None:
            with self.strategy.scope():  # where statistics are read as the mean over replicas
                self.average.update(self.optimizer.iterations)
        return terms

    def _update_from(self, images, identities):
        if self.accumulate == 1:
            return self._distributed_step(self._split(images), self._split(identities))
        # A call for each part, so that no two of them are in memory at once.
        sums = None
        for part in zip(
            tf.split(images, self.accumulate), tf.split(identities, self.accumulate), strict=True
        ):
            gradients = self._distributed_gradients(*map(self._split, part))
            sums = gradients if sums is None else self._distributed_sum(sums, gradients)
        return self._distributed_update(*sums)

    def _split(self, batch):
        num_replicas = self._num_local_replicas
        if num_replicas == 1:
            return batch
        parts = tf.split(batch, num_replicas)
        return self.strategy.experimental_distribute_values_from_function(
            lambda context: parts[context.replica_id_in_sync_group % num_replicas]
        )

    def _step(self, images, identities):
        return self._update(*self._gradients(images, identities))

    def _gradients(self, images, identities):
        """Every replica's shares of terms and gradients, and sampled rows; of a batch or a part of one."""
        return self.strategy.run(self._compute, args=(images, identities, self._scheduled()))

    def _sum(self, sums, gradients):
        add = functools.partial(tf.nest.map_structure, tf.add)
        return self.strategy.run(add, args=(sums, gradients))

    def _update(self, shares, gradients, rows):
        """Applies what the replicas' gradients add up to; returns the terms of the whole batch."""
        learning_rate = tf.convert_to_tensor(self.optimizer.learning_rate)
        scheduled = self._scheduled()
        shares, gradients, rows = self.strategy.run(self._replica_sum, args=(shares, gradients, rows))
        terms = {name: self.strategy.reduce("SUM", share, axis=None) for name, share in shares.items()}

        def apply():
            self.strategy.run(self._replica_apply, args=(gradients, rows, terms["gradient_norm"]))

        if self.loss_scale is None:
            apply()
        else:
            terms |= self._apply_if_finite(apply, terms["gradient_norm"])
        return {**terms, **scheduled, "learning_rate": learning_rate}

    def _apply_if_finite(self, apply, norm):
        # The norm is that of the sum over all replicas: all of them see the same one, and decide alike.
        is_finite = tf.math.is_finite(norm)
        scale = tf.identity(self.loss_scale.scale)

        def skip():
            self.optimizer.iterations.assign_add(1)  # a step is a batch: the next one is due

        tf.cond(is_finite, apply, skip)
        self.loss_scale.update(is_finite)
        # What is infinite without a scale has no cure here: the loop is shown it, and stops.
        shown = tf.where(is_finite | (scale <= 1.0), norm, 0.0)
        return {"gradient_norm": shown, "loss_scale": scale, "skipped": tf.cast(~is_finite, tf.float32)}

    def _scheduled(self):
        step = tf.convert_to_tensor(self.optimizer.iterations)
        return {name: schedule(step) for name, schedule in self.schedules.items()}

    def _replica_gradients(self, images, identities, scheduled):
        num_shares = self.strategy.num_replicas_in_sync * self.accumulate
        global_batch = tf.cast(tf.shape(images)[0] * num_shares, tf.float32)
        with tf.GradientTape(persistent=True) as tape:
            samples = self.head(self.backbone(images, training=True), identities, **scheduled)
            shares = {name: tf.reduce_sum(values) / global_batch for name, values in samples.items()}
            factor = 1.0 if self.loss_scale is None else self.loss_scale.scale
            objective = shares["loss"] * factor
        gradients = self._centres_last(tape, objective)
        squares = [tf.nn.l2_loss(tf.convert_to_tensor(variable)) for variable in self._sampled.decayed_whole]
        shares["weight_decay"] = self.weight_decay * tf.add_n(squares) / num_shares
        shares["total"] = shares["loss"] + shares["weight_decay"]
        gradients = self._with_decay(gradients, self.weight_decay / num_shares * factor)
        return shares, *self._sampled.split(gradients)

    def _centres_last(self, tape, objective):
        """The gradient of each variable; that of the centres last.

        It is large, and what it follows from small: before the net's gradient has gone back through the
        activations, and freed them, it would only lie there. The few operations between loss and
        centres are done twice for it; of shards they would send logits between devices.
        """
        sources = self._sampled.sources()
        if getattr(self.head, "sharded", False):
            return tape.gradient(objective, sources)
        num_of_net = len(self.backbone.trainable_variables)
        gradients = tape.gradient(objective, sources[:num_of_net])
        with tf.control_dependencies(gradients):
            return gradients + tape.gradient(objective, sources[num_of_net:])

    def _with_decay(self, gradients, rate):
        """Adds the gradient of the decay to that of each variable that decays as a whole.

        By hand, and last: it depends on nothing but the weights, so TensorFlow would compute all of it as the
        step begins, and keep it in memory beside the activations.
        """
        decayed = {id(variable) for variable in self._sampled.decayed_whole}
        with tf.control_dependencies(gradients):
            return [
                gradient + rate * tf.convert_to_tensor(variable) if id(variable) in decayed else gradient
                for gradient, variable in zip(gradients, self._variables, strict=True)
            ]

    def _replica_sum(self, shares, gradients, rows):
        """Sums the gradients up over the replicas, and adds their norm to the shares."""
        context = tf.distribute.get_replica_context()
        num_replicas = context.num_replicas_in_sync
        # What a function was called with has no device, which sums over workers ask for.
        shares, gradients = tf.nest.map_structure(tf.identity, (shares, gradients))
        rows = dict(rows)
        gradients = context.all_reduce("SUM", gradients)
        if self.loss_scale is not None:
            gradients = [gradient / self.loss_scale.scale for gradient in gradients]
        gradients, decay = self._sampled.decayed(gradients, rows)
        if rows:
            shares["weight_decay"] += decay / num_replicas
            shares["total"] += decay / num_replicas
        norm = tf.linalg.global_norm(gradients)
        return {**shares, "gradient_norm": norm / num_replicas}, gradients, rows

    def _replica_apply(self, gradients, rows, norm):
        if self.clip_norm is not None:
            gradients, _ = tf.clip_by_global_norm(gradients, self.clip_norm, use_norm=norm)
        gradients = self._sampled.join(gradients, rows)
        self.optimizer.apply_gradients(zip(gradients, self._variables, strict=True))
