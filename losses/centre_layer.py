"""What all losses with centres have in common."""

import math

import keras
import tensorflow as tf

from .arguments import checked_identities, constructor_arguments, require
from .identity_sample import identity_sample
from .replicas import global_batch, own_share
from .shards import Shards
from .transposed import save_as, save_transposed


class CentreLayer(keras.layers.Layer):
    """Base of the losses that own one centre per identity, or several.

    A subclass defines `call`, takes the centres from `_taken` only, and keeps the arguments of its
    constructor as attributes of the same names; it overrides nothing of this. Everything is float32
    whatever the dtype policy.

    With `sample_rate < 1` a loss runs over the identities of the global batch and others at random, see
    `losses.identity_sample`: to the subclass it looks as if there were no others, so accuracies, too, are
    among these. The gradient of the centres is a `tf.IndexedSlices` of their rows, each once.

    References:
    - margin-centre-face, `train_centre.py` (`w_init`), for the initial centres
    - [Partial FC](https://arxiv.org/abs/2203.15565), for the samples

    Args:
        num_identities: int > 0.
        seed: int for the initial centres (truncated normal, as the nets' kernels) and the samples.
        centres_per_identity: int > 0. Defaults to `1`.
        label_smoothing: float in `[0, 1)`, of the softmax: see `losses.cosines.softmax_cross_entropy`; all
            losses take it but those without a softmax. Defaults to `0.0`.
        sample_rate: float in `(0, 1]`, the share of the identities that a step sees. Defaults to `1.0`.
        sharded: bool, whether each replica holds a part of the centres, see `losses.shards`; for losses
            that `can_be_sharded`, without samples. `shard` makes them. Defaults to `False`.
        **kwargs: of `keras.layers.Layer`.

    Attributes:
        centres: trainable weight of shape `(dim, num_identities * centres_per_identity)`; the centres
            of an identity stand side by side. Its transpose where `sample_rate < 1`; in a
            checkpoint, as without. A scalar that stands for `shards` where `sharded`.
        shards: `losses.shards.Shards` of the centres, or `None`.
        centres_shape: tuple, the shape above, whatever `sample_rate`.
        num_centres: int, of all identities.
        sampled_variables: list of the trainable weights whose gradients are `tf.IndexedSlices`.

    Raises:
        ValueError: `num_identities`, `label_smoothing` or `sample_rate` is out of range.
    """

    # Of a loss whose every term is made of cosines, target and global embeddings alone.
    can_be_sharded = False

    def __init__(
        self,
        num_identities,
        seed,
        centres_per_identity=1,
        label_smoothing=0.0,
        sample_rate=1.0,
        sharded=False,
        **kwargs,
    ):
        # Keras would cast the embeddings to the policy's compute dtype; 8 bits of mantissa
        # cannot tell angles near a centre apart.
        super().__init__(**{**kwargs, "autocast": False})
        require(num_identities >= 1, "num_identities", "at least 1", num_identities)
        require(0 <= label_smoothing < 1, "label_smoothing", "a number in [0, 1)", label_smoothing)
        require(0 < sample_rate <= 1, "sample_rate", "a share in (0, 1]", sample_rate)
        if sharded:
            require(self.can_be_sharded, "--shard_centres", "a loss that can be sharded", type(self).__name__)
            require(sample_rate == 1, "--shard_centres", "--sample_rate 1 beside it", sample_rate)
            require(label_smoothing == 0, "--shard_centres", "--label_smoothing 0 beside it", label_smoothing)
        self.sharded = sharded
        self.shards = None
        self.num_identities = num_identities
        self.label_smoothing = label_smoothing
        self.seed = seed
        self.sample_rate = sample_rate
        self.num_centres = num_identities * centres_per_identity
        self._centres_per_identity = centres_per_identity
        self._step = lambda: 0

    def build(self, embeddings_shape, *_):
        dim = embeddings_shape[-1]
        self.centres_shape = (dim, self.num_centres)
        # tf.contrib's xavier initializer multiplied the variance by 1.3 for the truncation.
        initializer = keras.initializers.TruncatedNormal(
            stddev=math.sqrt(1.3 * 2 / (dim + self.num_centres)), seed=self.seed
        )
        if self.sharded:
            self._initial_centres = lambda: initializer(self.centres_shape, "float32")
            # What optimizer and checkpoints know the shards by; itself it holds nothing.
            self.centres = self.add_weight(shape=(), initializer="zeros", dtype="float32", autocast=False)
            return
        if self.sample_rate < 1:
            columns = initializer
            initializer = lambda shape, dtype: tf.transpose(columns(shape[::-1], dtype))  # noqa: E731
        self.centres = self.add_weight(
            shape=self.centres_shape if self.sample_rate == 1 else self.centres_shape[::-1],
            initializer=initializer,
            dtype="float32",
            autocast=False,
            name="embedding_weights",
        )
        if self.sample_rate < 1:
            save_transposed(self.centres)

    @property
    def sampled_variables(self):
        return [self.centres] if self.sample_rate < 1 else []

    def shard(self, devices):
        """Makes the centres of a layer that is `sharded`, once it is built.

        Called outside of the strategy's scope.

        Args:
            devices: list of str, one per replica.
        """
        self.shards = Shards(self._initial_centres(), devices)
        save_as(self.centres, self.centres_shape, self.shards.joined, self.shards.assign)

    def follow(self, step):
        """Takes the samples' step from a function that returns it, where it is 0 without."""
        self._step = step

    def assign_centres(self, centres):
        """Sets the centres to an array of shape `centres_shape`."""
        if self.sharded:
            self.shards.assign(centres)
            return
        self.centres.assign(centres if self.sample_rate == 1 else tf.transpose(centres))

    def _taken(self, embeddings, identities):
        """What a loss computes with.

        Returns:
            `(embeddings, identities, centres)`: float32 `(batch, dim)`; int32 `(batch,)`, numbers of
            the identities among those taken; and float32 `(dim, num_taken * centres_per_identity)`.
        """
        embeddings = tf.cast(embeddings, tf.float32)
        identities = checked_identities(identities, self.num_identities)
        if self.sharded:
            return global_batch(embeddings), global_batch(identities), self.shards
        if self.sample_rate == 1:
            return embeddings, identities, tf.convert_to_tensor(self.centres)
        sample, places = identity_sample(
            global_batch(identities), self.num_identities, self.sample_rate, self.seed, self._step()
        )
        side_by_side = tf.range(self._centres_per_identity)
        rows = tf.reshape(sample[:, None] * self._centres_per_identity + side_by_side, [-1])
        # Read once only: the gradient of a second reading would hold the same rows again.
        return embeddings, own_share(places), tf.transpose(tf.gather(self.centres.value, rows))

    def __call__(self, *args, **kwargs):
        terms = super().__call__(*args, **kwargs)
        return {name: own_share(term) for name, term in terms.items()} if self.sharded else terms

    def get_config(self):
        shared = ("label_smoothing", "sample_rate", "sharded")
        own = constructor_arguments(self)
        return {**super().get_config(), **own, **{name: getattr(self, name) for name in shared}}
