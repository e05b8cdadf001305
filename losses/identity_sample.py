"""The identities that one step's softmax runs over."""

import math

import tensorflow as tf

# Keeps the draws apart from others that are made of the same seed and step.
STREAM = 0x5EED


def identity_sample(identities, num_identities, sample_rate, seed, step):
    """The batch's identities, and others at random.

    As many as `ceil(sample_rate * num_identities)`, or all of the batch's if those are more. The others
    are drawn without replacement, and depend on `seed` and `step` only: a run that is
    resumed draws what it would have drawn, and all replicas draw the same.

    References:
    - An et al., [Partial FC](https://arxiv.org/abs/2203.15565), and the authors' code,
      `arcface_torch/partial_fc_v2.py::PartialFC_V2.sample`

    Args:
        identities: int32, shape `(batch,)`, of the global batch.
        num_identities: int > 0.
        sample_rate: float in `(0, 1]`.
        seed: int.
        step: int or integer tensor.

    Returns:
        `(sample, places)`: int32 of shape `(num_sampled,)`, each of them once and the batch's first;
        and int32 of shape `(batch,)` with `sample[places] == identities`.
    """
    own, places = tf.unique(identities)
    # 0.1 * 30 is a little over 3.
    num_wanted = min(num_identities, math.ceil(round(sample_rate * num_identities, 6)))
    key = tf.stack([tf.constant(seed ^ STREAM, tf.int64), tf.cast(step, tf.int64)])
    # As many distinct ones as leave enough when the batch's are taken out; computed place by place, nothing
    # of the size of all is shuffled. `index_shuffle` alone prefers some values by up to a fifth (few rounds
    # of a cipher): turned by a random amount, each is as likely as any other.
    drawn = tf.random.experimental.index_shuffle(tf.range(num_wanted), key, num_identities - 1)
    turn = tf.random.stateless_uniform([], key, maxval=num_identities, dtype=tf.int32)
    drawn = tf.math.floormod(drawn + turn, num_identities)
    is_own = tf.scatter_nd(own[:, None], tf.ones_like(own, tf.bool), [num_identities])
    others = tf.boolean_mask(drawn, ~tf.gather(is_own, drawn))
    return tf.concat([own, others[: tf.maximum(num_wanted - tf.size(own), 0)]], 0), places
