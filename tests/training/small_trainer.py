"""Makes a trainer that is quick to trace, batches for it, and its checkpoints."""

import keras
import numpy as np
import tensorflow as tf

from losses.angular_centre import AngularCentreLoss
from losses.build import build_loss
from losses.triplet import TripletLoss
from losses.variants import LOSSES
from nets.backbone import decayed_variables
from nets.layers.batch_norm import BatchNorm
from nets.layers.prelu import PReLU
from training.checkpoints import Checkpoints
from training.optimizers import MomentumSGD
from training.trainer import StepOptions, Trainer

SIZE = (16, 16)
IDENTITIES = 6


def small_net():
    """Returns a net that is quick to trace, with one layer of each kind that the real nets have."""
    images = keras.Input((*SIZE, 3))
    x = keras.layers.Conv2D(8, 3, 2, use_bias=False, kernel_initializer=keras.initializers.HeNormal(1))(
        images
    )
    x = PReLU()(BatchNorm()(x))
    x = keras.layers.Flatten()(x)
    x = keras.layers.Dense(32, kernel_initializer=keras.initializers.HeNormal(2), name="E_DenseLayer")(x)
    return keras.Model(images, BatchNorm(train_gamma=False)(x))


def make_trainer(strategy, rate=0.01, make_head=None, **arguments):
    with strategy.scope():
        backbone = small_net()
        head = make_head() if make_head else AngularCentreLoss(IDENTITIES, scale=8.0)
        head.build(backbone.output_shape)
        optimizer = MomentumSGD(rate, 0.9)
    decayed = [*decayed_variables(backbone), *head.trainable_variables]
    return Trainer(strategy, backbone, head, optimizer, decayed, StepOptions(**arguments))


def batch(seed, size):
    rng = np.random.default_rng(seed)
    images = rng.uniform(-1, 1, (size, *SIZE, 3)).astype(np.float32)
    return tf.constant(images), tf.constant(rng.integers(0, IDENTITIES, size).astype(np.int32))


def weights(trainer):
    return [
        v.numpy() for v in trainer.backbone.variables + trainer.head.variables + trainer.optimizer.variables
    ]


HEADS = {
    **{name: (lambda name=name: build_loss(name, IDENTITIES, seed=1)) for name in LOSSES},
    "batch_hard": TripletLoss,
    "batch_all": lambda: TripletLoss("batch_all"),
}


NET = {
    "architecture": "ir8",
    "image_size": (16, 16),
    "embedding_size": 32,
    "keep_prob": 1.0,
    "seed": 0,
}


def make_checkpoints(folder, trainer, **arguments):
    return Checkpoints(
        folder, trainer.state, **{"net": NET, "num_identities": 6, "loss": "angular_centre", **arguments}
    )
