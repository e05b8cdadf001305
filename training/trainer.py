"""One training step, on one device or several."""

import tensorflow as tf


class Trainer:
    """Backbone, loss layer and optimizer, and the step that changes them.

    The objective is `mean(loss) + weight_decay * sum(v^2) / 2`, the mean over the global batch. Every
    replica sums over its share, so the replicas' gradients add up to those of one device; what
    differs is batch normalisation, by the statistics of each replica's own share.

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
    ):
        self.strategy = strategy
        self.backbone = backbone
        self.head = head
        self.optimizer = optimizer
        self.decayed_variables = decayed_variables
        self.weight_decay = weight_decay
        self.clip_norm = clip_norm
        self.schedules = schedules or {}
        self._variables = backbone.trainable_variables + head.trainable_variables
        # The gradients are summed here, before clipping; Keras would sum them up once more.
        optimizer._all_reduce_sum_gradients = list
        # Restoring needs the optimizer's variables to exist.
        with strategy.scope():
            optimizer.build(self._variables)
        self.state = tf.train.Checkpoint(backbone=backbone, head=head, optimizer=optimizer)
        self._distributed_step = tf.function(self._step)

    @property
    def step(self):
        return int(self.optimizer.iterations.numpy())

    def train_step(self, images, identities):
        """Updates all variables once.

        Args:
            images: float32 `(batch, height, width, 3)`; the global batch.
            identities: int32 `(batch,)`.

        Returns:
            dict of scalar tensors, all from before the update: the means of what the head gives,
            `weight_decay`, `total`, `gradient_norm`, `learning_rate`, and what is scheduled.

        Raises:
            ValueError: the batch cannot be split evenly over the replicas.
        """
        num_replicas = self.strategy.num_replicas_in_sync
        if images.shape[0] % num_replicas:
            raise ValueError(
                f"batch: expected a multiple of {num_replicas} replicas, received {images.shape[0]}"
            )
        return self._distributed_step(self._split(images), self._split(identities))

    def _split(self, batch):
        num_replicas = self.strategy.num_replicas_in_sync
        if num_replicas == 1:
            return batch
        parts = tf.split(batch, num_replicas)
        return self.strategy.experimental_distribute_values_from_function(
            lambda context: parts[context.replica_id_in_sync_group]
        )

    def _step(self, images, identities):
        step = tf.convert_to_tensor(self.optimizer.iterations)
        scheduled = {name: schedule(step) for name, schedule in self.schedules.items()}
        learning_rate = tf.convert_to_tensor(self.optimizer.learning_rate)
        shares = self.strategy.run(self._replica_step, args=(images, identities, scheduled))
        terms = {name: self.strategy.reduce("SUM", share, axis=None) for name, share in shares.items()}
        return {**terms, **scheduled, "learning_rate": learning_rate}

    def _replica_step(self, images, identities, scheduled):
        context = tf.distribute.get_replica_context()
        num_replicas = context.num_replicas_in_sync
        global_batch = tf.cast(tf.shape(images)[0] * num_replicas, tf.float32)
        with tf.GradientTape() as tape:
            samples = self.head(self.backbone(images, training=True), identities, **scheduled)
            shares = {name: tf.reduce_sum(values) / global_batch for name, values in samples.items()}
            squares = [tf.nn.l2_loss(tf.convert_to_tensor(variable)) for variable in self.decayed_variables]
            shares["weight_decay"] = self.weight_decay * tf.add_n(squares) / num_replicas
            shares["total"] = shares["loss"] + shares["weight_decay"]
        gradients = tape.gradient(shares["total"], [variable.value for variable in self._variables])
        gradients = context.all_reduce("SUM", gradients)
        norm = tf.linalg.global_norm(gradients)
        if self.clip_norm is not None:
            gradients, _ = tf.clip_by_global_norm(gradients, self.clip_norm, use_norm=norm)
        self.optimizer.apply_gradients(zip(gradients, self._variables, strict=True))
        return {**shares, "gradient_norm": norm / num_replicas}
