"""Samples the identities that the softmax of one step sees."""

import math
from typing import Any

import tensorflow as tf

from .permutation import draw
from .variants import num_sampled

STREAM = 0x5EED  # separates these draws from others that are made from the same seed and step


def sample_identities(
    identities: tf.Tensor, num_identities: int, sample_rate: float, seed: int, step: Any
) -> tuple[tf.Tensor, tf.Tensor]:
    """Samples all identities of the batch and random others.

    The sample has `num_sampled(num_identities, sample_rate)` identities. If the batch has more, the sample
    has exactly those of the batch. The others are drawn without replacement. They depend only on `seed` and
    `step`, so a resumed run repeats its draws, and all replicas draw the same.

    References: [Partial FC](https://arxiv.org/abs/2203.15565), and the authors' code,
    `arcface_torch/partial_fc_v2.py::PartialFC_V2.sample`

    Args:
        identities: int `(global_batch,)`.
        num_identities: number of identities.
        sample_rate: share of the identities to sample, in `(0, 1]`.
        seed: seed of the draws.
        step: number of the step, int or int tensor `()`.

    Returns:
        `(sample, places)`: int64 `(num_sampled,)`, distinct identities, starting with the batch's; and int64
        `(global_batch,)` with `sample[places] == identities`. They are int64 because TensorFlow runs int32
        operations on the CPU even if there is a GPU.
    """
    own, places = tf.unique(tf.cast(identities, tf.int64), tf.int64)
    num_wanted = num_sampled(num_identities, sample_rate)
    key = tf.stack([tf.constant(seed ^ STREAM, tf.int64), tf.cast(step, tf.int64)])
    # `num_wanted` distinct identities are enough, even after those of the batch are removed. So no array with
    # all identities has to be shuffled. `draw` alone prefers some values by up to a fifth, because its cipher
    # has few rounds. A random rotation makes all identities equally likely.
    drawn = draw(num_wanted, num_identities, key)
    turn = tf.random.stateless_uniform([], key, maxval=num_identities, dtype=tf.int32)
    drawn = tf.math.floormod(drawn + tf.cast(turn, tf.int64), num_identities)
    own_rows = tf.cast(own[:, None], tf.int32)
    is_other = tf.scatter_nd(own_rows, tf.ones_like(own, tf.int8), [num_identities]) == 0
    others = tf.gather(drawn, tf.where(tf.gather(is_other, drawn))[:, 0])
    sample = tf.concat([own, others[: tf.maximum(num_wanted - tf.size(own), 0)]], 0)
    if (identities.shape[0] or math.inf) <= num_wanted:
        # TensorFlow computes gradients with dynamic shapes on the CPU even if there is a GPU.
        sample.set_shape([num_wanted])
    return sample, places
