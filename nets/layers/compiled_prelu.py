"""Parametric ReLU, compiled for the training step on a CPU."""

import functools

import keras
import tensorflow as tf

from .cpu_training import trains_on_one_cpu
from .prelu import PReLU


@keras.saving.register_keras_serializable(package="margin_centre_face")
class CompiledPReLU(PReLU):
    """A `PReLU` that trains in half the time on a CPU.

    XLA makes one pass over the values out of each of the two directions. The sum of the slopes' gradient has
    another order than that of `PReLU`, and is float32 under every policy. Exported models, GPUs and several
    replicas get the operations of `PReLU`.

    Args: see `PReLU`.
    """

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        if not training or not trains_on_one_cpu():
            return super().call(inputs, training=training)
        return _trained(inputs, tf.convert_to_tensor(self.alphas))


@tf.autograph.experimental.do_not_convert
@tf.custom_gradient
def _trained(inputs, alphas):
    forward, backward = _compiled(tuple(inputs.shape), inputs.dtype)
    return forward(inputs, alphas), functools.partial(backward, inputs, alphas)


@functools.cache
def _compiled(shape, dtype):
    """Returns two functions; layers of one shape share them, because each is compiled once."""

    def forward(inputs, alphas):
        return tf.where(inputs > 0, inputs, alphas * inputs)

    def backward(inputs, alphas, upstream):
        of_inputs = tf.where(inputs > 0, upstream, alphas * upstream)
        products = tf.cast(tf.minimum(inputs, 0), tf.float32) * tf.cast(upstream, tf.float32)
        return of_inputs, tf.cast(tf.reduce_sum(products, range(len(shape) - 1)), dtype)

    return [tf.function(function, jit_compile=True, autograph=False) for function in (forward, backward)]
