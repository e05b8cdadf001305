"""A plain Keras model trained by one `tf.function`, which is the speed limit for our training step."""

import keras
import numpy as np
import tensorflow as tf

from losses.angular_centre import AngularCentreLoss
from nets.backbone import Backbone, decayed_variables
from nets.layers.batch_norm import BatchNorm
from nets.layers.prelu import PReLU
from nets.resnet_ir import resnet_ir
from training.optimizers import MomentumSGD
from training.trainer import StepOptions, Trainer

# Last parts of the names of variables that the original decays; see `nets.backbone.decayed_variables`.
_DECAYED = ("kernel", "gamma", "alphas", "alpha", "embedding_weights")


class PlainStep:
    """A training step in one function: forward pass, loss, decay, gradients and momentum, and nothing else.

    This is what a user of Keras would write by hand for the same objective. It has no strategy, no norm of
    the gradient, no metrics and no schedule.

    Args:
        net: `keras.Model` from images to embeddings.
        num_identities: int > 0.
        learning_rate: float. Defaults to `0.001`.
    """

    def __init__(self, net, num_identities, learning_rate=0.001):
        self.net = net
        self.head = AngularCentreLoss(num_identities)
        self.head.build(net.output_shape)
        self.optimizer = keras.optimizers.SGD(learning_rate, momentum=0.9)
        self._variables = net.trainable_variables + self.head.trainable_variables
        self._decayed = [v for v in self._variables if v.path.rsplit("/", 1)[-1] in _DECAYED]
        self.optimizer.build(self._variables)
        self._step = tf.function(self._update)

    def __call__(self, images, identities):
        """Trains one step, waits for the device, and returns the loss as a float."""
        return float(self._step(images, identities))

    def _update(self, images, identities):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(self.head(self.net(images, training=True), identities)["loss"])
            loss += 1e-4 * tf.add_n([tf.nn.l2_loss(variable.value) for variable in self._decayed])
        gradients = tape.gradient(loss, [variable.value for variable in self._variables])
        self.optimizer.apply(gradients, self._variables)
        return loss


def plain_net(depth, image_size, keras_norm=False, keras_prelu=False):
    """Builds the original's net as a plain functional model.

    Args:
        depth: int, depth of the net; see `nets.resnet_ir.resnet_ir`.
        image_size: `(height, width)`.
        keras_norm: bool, see `with_keras_layers`. Defaults to `False`.
        keras_prelu: bool, see `with_keras_layers`. Defaults to `False`.
    """
    return with_keras_layers(resnet_ir(depth, image_size=image_size), keras_norm, keras_prelu)


def with_keras_layers(net, norm, prelu):
    """Replaces our layers with those of Keras, with new weights.

    Args:
        net: functional `keras.Model`.
        norm: bool, whether to use `keras.layers.BatchNormalization`.
        prelu: bool, whether to use `keras.layers.PReLU`.

    Returns:
        A new `keras.Model`, or `net` itself if nothing is replaced.
    """

    def exchanged(layer):
        if norm and isinstance(layer, BatchNorm):
            return keras.layers.BatchNormalization(
                momentum=layer.momentum, epsilon=layer.epsilon, name=layer.name
            )
        if prelu and isinstance(layer, PReLU):
            shared = list(range(1, len(layer.output.shape) - 1))
            return keras.layers.PReLU(shared_axes=shared, name=layer.name)
        return type(layer).from_config(layer.get_config())

    return keras.models.clone_model(net, clone_function=exchanged) if norm or prelu else net


def our_step(name, image_size, num_identities, dtype="float32", xla=False):
    """Builds our training step, as `training.session` does.

    Args:
        name: str, name of the backbone.
        image_size: `(height, width)`.
        num_identities: int > 0.
        dtype: dtype policy of the layers. Defaults to `"float32"`.
        xla: bool, whether to compile the step. Defaults to `False`.

    Returns:
        Function of images and identities that trains one step and returns the total loss as a float.
    """
    backbone = Backbone(name, image_size=image_size, dtype=dtype)
    head = AngularCentreLoss(num_identities)
    head.build(backbone.output_shape)
    decayed = decayed_variables(backbone) + head.trainable_variables
    optimizer, options = MomentumSGD(0.001), StepOptions(xla=xla)
    trainer = Trainer(tf.distribute.get_strategy(), backbone, head, optimizer, decayed, options)
    return lambda images, identities: float(trainer.train_step(images, identities)["total"])


def made_up_batch(batch_size, image_size, num_identities):
    """Draws a batch: float32 images `(batch_size, *image_size, 3)` in [-1, 1], and int32 identities."""
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (batch_size, *image_size, 3)).astype(np.float32)
    return tf.constant(images), tf.constant(rng.integers(0, num_identities, batch_size, np.int32))
