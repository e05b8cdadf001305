"""The base class of all losses, and checks of their arguments."""

import inspect
from typing import Any

import keras
import tensorflow as tf


class LossLayer(keras.layers.Layer):
    """Base class of all losses. Call a loss as `layer(embeddings, identities)`.

    A loss computes in float32 under every dtype policy. Its gradients are finite for every embedding. It adds
    the mean of `loss` to `layer.losses`, where `keras.Model.fit` finds it.

    A subclass returns its terms through `with_loss`. It keeps each argument of its constructor as an
    attribute of the same name, where `get_config` reads it.

    Args:
        **kwargs: arguments of `keras.layers.Layer`.

    Call arguments:
        embeddings: float, shape `(batch, dim)`. They need not have unit length.
        identities: int, shape `(batch,)`.
        margin: float or tensor of shape `()` that replaces the constructor's margin, so that the margin can
            grow during training. Only losses with a margin take it.

    Returns:
        dict of float32 tensors of shape `(batch,)`. `loss` is the value to minimise. Each class lists its
        other terms.

    Raises:
        ValueError: an argument is out of range, or the identities are not integers.

    Example:

    >>> import numpy as np
    >>> from losses import ArcFaceLoss
    >>> layer = ArcFaceLoss(num_identities=10)
    >>> terms = layer(np.ones((4, 8), "float32"), np.array([0, 1, 2, 9]))
    >>> terms["loss"].shape
    TensorShape([4])
    """

    # True if a replica needs the embeddings of other replicas.
    compares_replicas = False

    def __init__(self, **kwargs: Any) -> None:
        # Otherwise Keras casts embeddings to the compute dtype, which may be too coarse for angles near a
        # centre.
        super().__init__(**{**kwargs, "autocast": False})

    def with_loss(self, **terms: tf.Tensor) -> dict[str, tf.Tensor]:
        """Adds the mean loss to `layer.losses` and returns the terms."""
        self.add_loss(tf.reduce_mean(terms["loss"]))
        return terms

    def get_config(self) -> dict[str, Any]:
        classes = type(self).__mro__[: type(self).__mro__.index(LossLayer)]
        names = {name for base in classes for name in inspect.signature(base.__init__).parameters}
        own = {name: getattr(self, name) for name in sorted(names - {"self", "kwargs"})}
        return {**super().get_config(), **own}


def require(condition: bool, name: str, expected: str, received: Any) -> None:
    """Raises a `ValueError` that names the argument, unless the condition holds."""
    if not condition:
        raise ValueError(f"{name}: expected {expected}, received {received}")


def checked_identities(identities: Any, num_identities: int | None = None) -> tf.Tensor:
    """Returns identities as int64. Checks their type and, if `num_identities` is given, their range.

    They are int64 because TensorFlow runs int32 operations on the CPU even if there is a GPU.

    Args:
        identities: int, shape `(batch,)`.
        num_identities: number of identities; `None` skips the check of the range.

    Raises:
        ValueError: the identities are not integers.
        tf.errors.InvalidArgumentError: an identity is outside `[0, num_identities)`.
    """
    identities = tf.convert_to_tensor(identities)
    if not identities.dtype.is_integer:
        raise ValueError(f"identities: expected integers, received {identities.dtype.name}")
    checked = tf.cast(identities, tf.int64)
    if num_identities is None:
        return checked
    # Some devices read zeros where an index is out of range, and the loss would be wrong without an error.
    in_range = tf.reduce_all((checked >= 0) & (checked < num_identities))
    expected = f"values in [0, {num_identities})"
    return tf.cast(require_identities(in_range, expected, identities), tf.int64)


def require_identities(condition: tf.Tensor, expected: str, identities: tf.Tensor) -> tf.Tensor:
    """Returns the identities; raises `tf.errors.InvalidArgumentError` unless the condition holds."""
    message = f"identities: expected {expected}, received"
    check = tf.debugging.Assert(condition, [message, identities], summarize=1024)
    with tf.control_dependencies([check]):  # the identities must not be used before the check
        return tf.identity(identities)
