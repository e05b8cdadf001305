"""Makes a small trainer with dense, sampled or sharded centres, and batches for it."""

import keras
import numpy as np
import tensorflow as tf

from losses.build import build_loss
from training.centres import shard_devices
from training.distribution import make_strategy
from training.optimizers import MomentumSGD
from training.trainer import StepOptions, Trainer

IDENTITIES, PIXELS, DIM, BATCH = 7, (2, 2, 3), 5, 8


def make_trainer(
    strategy=None, sharded=False, loss="arcface", optimizer=MomentumSGD, sample_rate=1.0, **arguments
):
    strategy = strategy or make_strategy()
    with strategy.scope():
        images = keras.Input(PIXELS)
        dense = keras.layers.Dense(
            DIM, kernel_initializer=keras.initializers.HeNormal(2), name="E_DenseLayer"
        )
        backbone = keras.Model(images, dense(keras.layers.Flatten()(images)))
        head = build_loss(loss, IDENTITIES, seed=1, sharded=sharded, sample_rate=sample_rate)
        head.build(backbone.output_shape)
        optimizer = optimizer(0.02)
    if sharded:
        head.shard(shard_devices(strategy))
    decayed = [backbone.trainable_variables[0], *head.trainable_variables]
    return Trainer(strategy, backbone, head, optimizer, decayed, StepOptions(weight_decay=0.05, **arguments))


def batch(step):
    rng = np.random.default_rng(step)
    images = rng.uniform(-3, 3, (BATCH, *PIXELS)).astype(np.float32)
    return tf.constant(images), tf.constant(rng.integers(0, IDENTITIES, BATCH).astype(np.int32))


def weights(trainer):
    values = [*trainer.backbone.get_weights(), *(v.numpy() for v in trainer.optimizer.variables[2:-1])]
    if not trainer.head.sharded:
        return [*values, trainer.head.centres.numpy(), trainer.optimizer.momentums[-1].numpy()]
    return [*values, trainer.head.shards.joined().numpy(), trainer._centres.velocities.joined().numpy()]


def largest_difference(strategy, loss, clip_norm):
    """Returns the largest difference of a dense and a sharded layer over 5 steps: terms, weights, velocities.

    Differences of values above 1 are relative. The velocities of the first step are the gradients.
    """
    dense, sharded = (make_trainer(strategy, given, loss, clip_norm=clip_norm) for given in (False, True))
    worst = 0.0
    for step in range(5):
        one, two = ({k: float(v) for k, v in t.train_step(*batch(step)).items()} for t in (dense, sharded))
        if one.keys() != two.keys():
            raise SystemExit(f"terms {one.keys()} and {two.keys()}")
        pairs = [
            *((one[name], two[name]) for name in one),
            *zip(*map(weights, (dense, sharded)), strict=True),
        ]
        for expected, received in pairs:
            scale = max(1.0, np.abs(expected).max())
            worst = max(worst, float(np.abs(np.asarray(received) - expected).max()) / scale)
    return float(worst)
