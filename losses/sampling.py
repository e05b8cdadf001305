"""Sampling of the identities that the softmax of one step sees."""

from typing import Any

import tensorflow as tf

from .variants import num_sampled

STREAM = 0x5EED  # separates these draws from others that are made from the same seed and step


def sample_identities(
    identities: tf.Tensor, num_identities: int, sample_rate: float, seed: int, step: Any
) -> tuple[tf.Tensor, tf.Tensor]:
    """Samples the batch's identities and random others.

    The sample has `num_sampled(num_identities, sample_rate)` identities, or all of the batch's if those are
    more. The others are drawn without replacement and depend only on `seed` and `step`: a resumed run repeats
    its draws, and all replicas draw the same.

    References: [Partial FC](https://arxiv.org/abs/2203.15565), and the authors' code,
    `arcface_torch/partial_fc_v2.py::PartialFC_V2.sample`

    Returns:
        `(sample, places)`: int32 `(num_sampled,)`, distinct identities, the batch's first; and int32
        `(global_batch,)` with `sample[places] == identities`.
    """
    own, places = tf.unique(identities)
    num_wanted = num_sampled(num_identities, sample_rate)
    key = tf.stack([tf.constant(seed ^ STREAM, tf.int64), tf.cast(step, tf.int64)])
    # `num_wanted` distinct identities are enough even after the batch's are removed. No array with all
    # identities is shuffled. `index_shuffle` alone prefers some values by up to a fifth, because its cipher
    # has few rounds. A random rotation makes all identities equally likely.
    drawn = tf.random.experimental.index_shuffle(tf.range(num_wanted), key, num_identities - 1)
    turn = tf.random.stateless_uniform([], key, maxval=num_identities, dtype=tf.int32)
    drawn = tf.math.floormod(drawn + turn, num_identities)
    is_own = tf.scatter_nd(own[:, None], tf.ones_like(own, tf.bool), [num_identities])
    others = tf.boolean_mask(drawn, ~tf.gather(is_own, drawn))
    return tf.concat([own, others[: tf.maximum(num_wanted - tf.size(own), 0)]], 0), places
