"""Base of all loss layers, and checks of their arguments."""

import inspect
from typing import Any

import keras
import tensorflow as tf


class LossLayer(keras.layers.Layer):
    """Base of all losses, called as `layer(embeddings, identities)`.

    Everything is computed in float32 under every dtype policy, and gradients are finite for every embedding.
    The mean of `loss` is also in `layer.losses`, where `keras.Model.fit` finds it: a subclass returns its
    terms through `with_loss`. It keeps the arguments of its constructor as attributes of the same names.

    Args:
        **kwargs: arguments of `keras.layers.Layer`.

    Call arguments:
        embeddings: float, shape `(batch, dim)`. They need not have unit length.
        identities: int, shape `(batch,)`.
        margin: overrides the constructor's margin, for a margin that grows during training. Losses without a
            margin do not take it.

    Returns:
        float32 terms of shape `(batch,)`: `loss`, the value to minimise, and others that each class lists.

    Raises:
        ValueError: an argument is out of range, or the identities are not integers.

    Example:

    >>> terms = ArcFaceLoss(num_identities=10)(np.ones((4, 8), "float32"), np.array([0, 1, 2, 9]))
    >>> terms["loss"].shape
    TensorShape([4])
    """

    # True if a replica looks at the embeddings of other replicas.
    compares_replicas = False

    def __init__(self, **kwargs: Any) -> None:
        # Keras would cast embeddings to the compute dtype, too coarse to tell angles near a centre apart.
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

    A GPU compares int64; TensorFlow leaves int32 to the host.

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
    # Some devices read zeros out of range, and the loss would silently be wrong.
    in_range = tf.reduce_all((checked >= 0) & (checked < num_identities))
    expected = f"values in [0, {num_identities})"
    return tf.cast(require_identities(in_range, expected, identities), tf.int64)


def require_identities(condition: tf.Tensor, expected: str, identities: tf.Tensor) -> tf.Tensor:
    """Returns the identities; raises `tf.errors.InvalidArgumentError` unless the condition holds."""
    message = f"identities: expected {expected}, received"
    check = tf.debugging.Assert(condition, [message, identities], summarize=1024)
    with tf.control_dependencies([check]):  # check before anything is looked up
        return tf.identity(identities)
