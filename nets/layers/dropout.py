"""Dropout with masks that depend on a seed and on a counter saved with the weights."""

from typing import Any

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="margin_centre_face")
class Dropout(keras.layers.Layer):
    """Keeps each value with probability `keep_prob` and scales it by `1 / keep_prob`.

    The mask of an image is a pure function of the seed, the number of earlier draws and its place in the
    global batch. Each replica draws the masks of the global batch and takes its share, so the number of
    replicas changes nothing. Keras's own layer keeps its random state outside of `tf.train.Checkpoint`, so a
    resumed run would differ, and it draws the same mask on every replica.

    References:
    - margin-centre-face, `nets/L_Resnet_E_IR_fix_issue9.py` (`E_Dropout`, `keep=0.4`)

    Args:
        keep_prob: in `(0, 1]`.
        **kwargs: arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: float, shape `(batch, ...)`, the same on every replica and that of the output.
        training: bool; `False` returns the inputs.

    Raises:
        ValueError: `keep_prob` is out of range.
    """

    def __init__(self, keep_prob: float = 0.4, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 < keep_prob <= 1:
            raise ValueError(f"keep_prob: expected a number in (0, 1], received {keep_prob}")
        self.keep_prob = keep_prob
        self.seed = seed

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        # Every replica counts for itself. Code that is compiled for a GPU cannot use int32 variables.
        self.draws = self.add_weight((), "zeros", "int64", trainable=False, name="draws")

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        if not training or self.keep_prob == 1:
            return inputs
        shape = self._mask_shape(tf.shape(inputs))
        kept = uniform_of_batch(self.draws, self.seed, shape[0], shape[1:]) < self.keep_prob
        # If it met `tf.where` with a scalar here, TensorFlow would leave all convs as they are: see `PReLU`.
        return inputs / self.keep_prob * tf.cast(kept, inputs.dtype)

    def _mask_shape(self, shape):
        return shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "keep_prob": self.keep_prob, "seed": self.seed}


@keras.saving.register_keras_serializable(package="margin_centre_face")
class DropPath(Dropout):
    """Keeps all values of an image or none, so that a residual block is left out for some images.

    References:
    - [Deep Networks with Stochastic Depth](https://arxiv.org/abs/1603.09382)

    Args: see `Dropout`, also for inputs and outputs.
    """

    def _mask_shape(self, shape):
        return tf.concat([shape[:1], tf.ones_like(shape[1:])], 0)


def uniform_of_batch(draws: keras.Variable, seed: int, batch_size: tf.Tensor, shape: Any) -> tf.Tensor:
    """Draws numbers in `[0, 1)` for the images of this replica, and counts the draw.

    Args:
        draws: number of earlier draws.
        batch_size: number of images, the same on every replica.
        shape: shape of the numbers of one image.
    """
    context = tf.distribute.get_replica_context()
    draw = tf.convert_to_tensor(draws)
    # The factor keeps the masks of runs with one replica as they were in older versions.
    counter = tf.stack([draw, tf.constant(seed, tf.int64) * 65536])
    global_shape = tf.concat([[batch_size * context.num_replicas_in_sync], shape], 0)
    start = batch_size * context.replica_id_in_sync_group
    numbers = tf.random.stateless_uniform(global_shape, counter)[start : start + batch_size]
    draws.value.assign_add(1)
    return numbers
