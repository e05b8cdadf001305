"""The base class of all losses that own centres."""

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
    """Base class of the losses that own one or several centres per identity.

    A subclass defines `call` and gets the centres from `prepare`. See `LossLayer` for call arguments and
    outputs.

    With `sample_rate < 1`, a step sees only a sample of the identities: those in the global batch and random
    others. Loss and accuracies are computed over the sample. The gradient of the centres is then a
    `tf.IndexedSlices` that contains each row once.

    References: [Partial FC](https://arxiv.org/abs/2203.15565), for the samples; margin-centre-face,
    `train_centre.py` (`w_init`), for the initial centres

    Args:
        num_identities: number of identities, at least 1.
        seed: seed of the initial centres and of the samples.
        label_smoothing: share of each label to spread over all identities, in `[0, 1)`.
        sample_rate: share of the identities that a step sees, in `(0, 1]`.
        sharded: whether each replica holds only a part of the centres, which `shard` creates. Needs
            `sample_rate=1`, `label_smoothing=0` and a loss that can be sharded.
        **kwargs: arguments of `keras.layers.Layer`.

    Attributes:
        centres: trainable weight, float32 `(dim, num_centres)`. The centres of an identity are adjacent
            columns. With `sample_rate < 1` it is transposed in memory, but not in checkpoints. With `sharded`
            it is a placeholder.
        centres_shape: `(dim, num_centres)` in all cases.

    Raises:
        ValueError: an argument is out of range, or the identities are not integers.
        tf.errors.InvalidArgumentError: an identity is outside `[0, num_identities)`.
    """

    # True if every term can be computed from cosines, target and the embeddings of the global batch.
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
            # Stands for the shards in the optimizer and in checkpoints.
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
        """Creates the centres of a layer with `sharded=True`, after `build` and outside the strategy's scope.

        Args:
            devices: names of the replicas' devices, in order.
        """
        self.shards = Shards(self._initial_centres(), devices)
        save_as(self.centres, self.centres_shape, self.shards.joined, self.shards.assign)

    def set_sampling_step(self, step: Callable[[], Any]) -> None:
        """Sets the function that returns the current step, which decides the sample. Default: always 0."""
        self._sampling_step = step

    def assign_centres(self, centres: Any) -> None:
        """Sets all centres from an array of shape `centres_shape`."""
        if self.shards is not None:
            self.shards.assign(centres)
        else:
            self.centres.assign(tf.transpose(centres) if self.sample_rate < 1 else centres)

    def prepare(self, embeddings: Any, identities: Any) -> tuple[tf.Tensor, tf.Tensor, Any]:
        """Checks the inputs and selects the centres of this step.

        Returns:
            `(embeddings, identities, centres)`: float32 `(batch, dim)`; int64 `(batch,)`, indices into
            the selected identities; and float32 `(dim, num_selected * centres_per_identity)`. If the layer
            is sharded, the first two are those of the global batch, and the third is the `Shards`.
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
