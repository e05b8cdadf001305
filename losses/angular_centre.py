"""The loss that gives the project its name: angular margin plus centre term."""

import math

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="margin_centre_face")
class AngularCentreLoss(keras.layers.Layer):
    """Separates identities by an angular margin and pulls each to its centre.

    The layer owns one centre per identity. With `theta_j` the angle between an
    embedding and centre `j`, and `y` its identity, the loss of one sample is

        softmax_xent(scale * cos(theta_y + margin), scale * cos(theta_j), j != y)
        + centre_weight * scale * (1 - cos(theta_y))

    Where `theta_y > pi - margin` the target is `cos(theta_y) - margin * sin(margin)`,
    which keeps it monotonic.

    Everything is computed in float32 whatever the dtype policy, and gradients are finite for
    every embedding: on its centre, opposite to it, and zero (row 4 of docs/fidelity.md).

    References:
    - [ArcFace](https://arxiv.org/abs/1801.07698)
    - margin-centre-face, `losses/face_losses.py::arcface_loss`, and the centre term of
      `train_centre.py`

    Args:
        num_identities: int > 0.
        margin: float in `[0, pi)`, radians. Defaults to `0.5`.
        scale: float > 0, the radius of the hypersphere. Defaults to `64.0`.
        centre_weight: float >= 0; 0 is ArcFace. Defaults to `0.3`.
        seed: int for the initial centres (truncated normal, as the nets' kernels). Defaults to `0`.
        **kwargs: of `keras.layers.Layer`.

    Call arguments:
        embeddings: float, shape `(batch, dim)`; need not be normalised.
        identities: int, shape `(batch,)`, in `[0, num_identities)`.
        margin: float or scalar tensor in `[0, pi)` in place of the constructor's, for a
            margin that grows during training.

    Returns:
        dict of float32, each of shape `(batch,)`:
        `loss`: the sum of the two next;
        `cross_entropy`: of the margin softmax;
        `centre`: the weighted centre term;
        `cosine`: to the own centre, in `[-1, 1]`;
        `accuracy`: 1 where the own centre is the nearest, else 0;
        `margin_accuracy`: the same from the logits with margin.

    Raises:
        ValueError: an argument is out of range, or the identities are not integers.
        tf.errors.InvalidArgumentError: an identity is outside `[0, num_identities)`.

    Example:

    >>> layer = AngularCentreLoss(num_identities=10)
    >>> terms = layer(np.ones((4, 8), "float32"), np.array([0, 1, 2, 9]))
    >>> terms["loss"].shape
    TensorShape([4])
    """

    def __init__(self, num_identities, margin=0.5, scale=64.0, centre_weight=0.3, seed=0, **kwargs):
        # Keras would cast the embeddings to the policy's compute dtype; 8 bits of mantissa
        # cannot tell angles near a centre apart.
        super().__init__(**{**kwargs, "autocast": False})
        if num_identities < 1:
            raise ValueError(f"num_identities: expected at least 1, received {num_identities}")
        if not 0 <= margin < math.pi:
            raise ValueError(f"margin: expected radians in [0, pi), received {margin}")
        if scale <= 0:
            raise ValueError(f"scale: expected a number > 0, received {scale}")
        if centre_weight < 0:
            raise ValueError(f"centre_weight: expected a number >= 0, received {centre_weight}")
        self.num_identities = num_identities
        self.margin = margin
        self.scale = scale
        self.centre_weight = centre_weight
        self.seed = seed

    def build(self, embeddings_shape, *_):
        dim = embeddings_shape[-1]
        self.centres = self.add_weight(
            shape=(dim, self.num_identities),
            # tf.contrib's xavier initializer multiplied the variance by 1.3 for the truncation.
            initializer=keras.initializers.TruncatedNormal(
                stddev=math.sqrt(1.3 * 2 / (dim + self.num_identities)), seed=self.seed
            ),
            dtype="float32",
            autocast=False,
            name="embedding_weights",
        )

    def call(self, embeddings, identities, margin=None):
        embeddings = tf.cast(embeddings, tf.float32)
        identities = self._checked(identities)
        margin = tf.convert_to_tensor(self.margin if margin is None else margin, tf.float32)

        directions = tf.math.l2_normalize(embeddings, axis=1)
        cosines = directions @ tf.math.l2_normalize(tf.convert_to_tensor(self.centres), axis=0)
        own = tf.stack([tf.range(tf.shape(identities)[0]), identities], axis=1)
        cosine = tf.gather_nd(cosines, own)
        target = _cosine_with_margin(cosine, margin)
        logits = self.scale * tf.tensor_scatter_nd_update(cosines, own, target)

        cross_entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(identities, logits)
        centre = self.centre_weight * self.scale * (1.0 - cosine)
        return {
            "loss": cross_entropy + centre,
            "cross_entropy": cross_entropy,
            "centre": centre,
            "cosine": cosine,
            "accuracy": _is_nearest(cosines, identities),
            "margin_accuracy": _is_nearest(logits, identities),
        }

    def _checked(self, identities):
        identities = tf.convert_to_tensor(identities)
        if not identities.dtype.is_integer:
            raise ValueError(f"identities: expected integers, received {identities.dtype.name}")
        in_range = tf.reduce_all((identities >= 0) & (identities < self.num_identities))
        # Some devices read zeros out of range; the loss would silently be wrong.
        check = tf.debugging.Assert(
            in_range,
            [f"identities: expected values in [0, {self.num_identities}), received", identities],
            summarize=1024,
        )
        with tf.control_dependencies([check]):  # before anything is looked up by them
            return tf.identity(tf.cast(identities, tf.int32))

    def get_config(self):
        return {
            **super().get_config(),
            "num_identities": self.num_identities,
            "margin": self.margin,
            "scale": self.scale,
            "centre_weight": self.centre_weight,
            "seed": self.seed,
        }


def _cosine_with_margin(cosine, margin):
    """`cos(theta + margin)` and its monotonic continuation, with finite gradients."""
    # At a pole the sine's slope is infinite: there the maximum cuts the gradient off.
    sine = tf.sqrt(tf.maximum(1.0 - cosine * cosine, 1e-9))
    inside = cosine > tf.cos(math.pi - margin)
    return tf.where(
        inside,
        cosine * tf.cos(margin) - sine * tf.sin(margin),
        cosine - margin * tf.sin(margin),
    )


def _is_nearest(similarities, identities):
    nearest = tf.argmax(similarities, axis=1, output_type=tf.int32)
    return tf.cast(nearest == identities, tf.float32)
