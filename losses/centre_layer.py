"""Base of all losses that own centres."""

import math
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from .checkpoint_layout import save_as, save_transposed
from .loss_layer import LossLayer, checked_identities, require
from .replicas import global_batch, own_share
from .sampling import sample_identities
from .shards import Shards


class CentreLayer(LossLayer):
    """Base of the losses that own one or several centres per identity.

    A subclass defines `call` and gets the centres from `prepare`. Call arguments, outputs and errors: see
    `LossLayer`. An identity outside `[0, num_identities)` raises `tf.errors.InvalidArgumentError`.

    With `sample_rate < 1` the loss runs over the identities of the global batch and random others, and so do
    the accuracies. The gradient of the centres is then a `tf.IndexedSlices` that holds each row once.

    References: [Partial FC](https://arxiv.org/abs/2203.15565), for the samples; margin-centre-face,
    `train_centre.py` (`w_init`), for the initial centres

    Args:
        num_identities: at least 1.
        seed: seed of the initial centres and of the samples.
        label_smoothing: share of each label to spread over all identities, in `[0, 1)`.
        sample_rate: share of the identities that a step sees, in `(0, 1]`.
        sharded: whether each replica holds a part of the centres, which `shard` creates. Excludes samples and
            smoothed labels.
        **kwargs: arguments of `keras.layers.Layer`.

    Attributes:
        centres: trainable weight of shape `(dim, num_centres)`, with the centres of an identity side by side.
            With samples it is the transpose, except in checkpoints. With shards it is a placeholder.
        centres_shape: `(dim, num_centres)` in all cases.
    """

    # True if every term depends only on cosines, target and the embeddings of the global batch.
    can_be_sharded = False
    centres_per_identity = 1

    def __init__(
        self,
        num_identities: int,
        *,
        seed: int = 0,
        label_smoothing: float = 0.0,
        sample_rate: float = 1.0,
        sharded: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        require(num_identities >= 1, "num_identities", "at least 1", num_identities)
        require(0 <= label_smoothing < 1, "label_smoothing", "a number in [0, 1)", label_smoothing)
        require(0 < sample_rate <= 1, "sample_rate", "a share in (0, 1]", sample_rate)
        if sharded:
            require(self.can_be_sharded, "--shard_centres", "a loss that can be sharded", type(self).__name__)
            require(sample_rate == 1, "--shard_centres", "--sample_rate 1", sample_rate)
            require(label_smoothing == 0, "--shard_centres", "--label_smoothing 0", label_smoothing)
        self.num_identities = num_identities
        self.seed = seed
        self.label_smoothing = label_smoothing
        self.sample_rate = sample_rate
        self.sharded = sharded
        self.shards: Shards | None = None
        self._sampling_step: Callable[[], Any] = lambda: 0

    def build(self, embeddings_shape: tuple, *_: Any) -> None:
        self.centres_shape = (embeddings_shape[-1], self.num_centres)
        # tf.contrib's xavier initializer multiplied the variance by 1.3 to make up for the truncation.
        stddev = math.sqrt(1.3 * 2 / sum(self.centres_shape))
        initializer: Any = keras.initializers.TruncatedNormal(stddev=stddev, seed=self.seed)
        settings: dict[str, Any] = {"dtype": "float32", "autocast": False}
        if self.sharded:
            self._initial_centres = lambda: initializer(self.centres_shape, "float32")
            # Optimizer and checkpoints know the shards by this placeholder.
            self.centres = self.add_weight(shape=(), initializer="zeros", **settings)
            return
        settings |= {"name": "embedding_weights"}
        if self.sample_rate == 1:
            self.centres = self.add_weight(self.centres_shape, initializer, **settings)
            return

        def transposed(shape, dtype):
            return tf.transpose(initializer(shape[::-1], dtype))

        self.centres = self.add_weight(self.centres_shape[::-1], transposed, **settings)
        save_transposed(self.centres)

    @property
    def num_centres(self) -> int:
        """Number of centres of all identities."""
        return self.num_identities * self.centres_per_identity

    def shard(self, devices: list[str]) -> None:
        """Creates the centres of a built layer that is `sharded`, outside the scope of the strategy."""
        self.shards = Shards(self._initial_centres(), devices)
        save_as(self.centres, self.centres_shape, self.shards.joined, self.shards.assign)

    def set_sampling_step(self, step: Callable[[], Any]) -> None:
        """Sets the function that returns the step to draw the sample for; without it the step is 0."""
        self._sampling_step = step

    def assign_centres(self, centres: Any) -> None:
        """Sets the centres to an array of shape `centres_shape`."""
        if self.shards is not None:
            self.shards.assign(centres)
        else:
            self.centres.assign(tf.transpose(centres) if self.sample_rate < 1 else centres)

    def prepare(self, embeddings: Any, identities: Any) -> tuple[tf.Tensor, tf.Tensor, Any]:
        """Checks the inputs and selects the centres of this step.

        Returns:
            `(embeddings, identities, centres)`: float32 `(batch, dim)`; int64 `(batch,)`, indices into
            the selected identities; and float32 `(dim, num_selected * centres_per_identity)`. With
            shards: inputs of the global batch, and the `Shards`.
        """
        embeddings = tf.cast(embeddings, tf.float32)
        identities = checked_identities(identities, self.num_identities)
        if self.sharded:
            return global_batch(embeddings), global_batch(identities), self.shards
        if self.sample_rate == 1:
            return embeddings, identities, tf.convert_to_tensor(self.centres)
        sample, places = sample_identities(
            global_batch(identities), self.num_identities, self.sample_rate, self.seed, self._sampling_step()
        )
        adjacent = tf.range(self.centres_per_identity, dtype=tf.int64)
        rows = tf.reshape(sample[:, None] * self.centres_per_identity + adjacent, [-1])
        # Read only once: a second read would put the same rows into the gradient again.
        return embeddings, own_share(places), tf.transpose(tf.gather(self.centres.value, rows))

    def __call__(self, *args: Any, **kwargs: Any) -> dict[str, tf.Tensor]:
        terms = super().__call__(*args, **kwargs)
        return {name: own_share(term) for name, term in terms.items()} if self.sharded else terms
