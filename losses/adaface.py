"""A margin that follows the quality of the image."""

import math

import keras
import tensorflow as tf

from .arguments import require
from .centre_layer import CentreLayer
from .cosines import angle, cosines_to, margin_softmax, own_entries
from .replicas import global_batch

# Of the authors' code, head.py::AdaFace: its `eps`, the range of norms, and the initial statistics.
EPSILON = 1e-3
NORM_RANGE = (1e-3, 100.0)
INITIAL_MEAN, INITIAL_STD = 20.0, 100.0


@keras.saving.register_keras_serializable(package="margin_centre_face")
class AdaFaceLoss(CentreLayer):
    """Separates identities by a margin that depends on the length of the embedding.

    Long embeddings come from images of high quality: among them the hard ones are stressed, among short
    embeddings the easy ones. With `theta_j` the angle between an embedding `x` and centre `j`, `y` its
    identity, and moving mean and standard deviation of the lengths,

        z = clip(concentration * (|x| - mean) / std, -1, 1)
        softmax_xent(scale * (cos(theta_y - margin * z) - margin * z - margin),
                     scale * cos(theta_j), j != y)

    The shifted angle is cut off to `[0.001, pi - 0.001]`. No gradient flows through `z`. The statistics
    move to those of the global batch before they are used, whatever the number of replicas.

    Everything is computed in float32 whatever the dtype policy, and gradients are finite for
    every embedding: on its centre, opposite to it, and zero.

    References:
    - [AdaFace](https://arxiv.org/abs/2204.00964), and the authors' code, `head.py::AdaFace`

    Args:
        num_identities: int > 0.
        margin: float in `[0, pi)`. Defaults to `0.4`.
        scale: float > 0, the radius of the hypersphere. Defaults to `64.0`.
        concentration: float > 0, `h` in the paper. Defaults to `0.333`.
        momentum: float in `[0, 1)`, the share of the old statistics that is kept. Defaults to `0.99`.
        seed: int for the initial centres. Defaults to `0`.
        **kwargs: of `keras.layers.Layer`.

    Call arguments:
        embeddings: float, shape `(batch, dim)`; must not be normalised.
        identities: int, shape `(batch,)`, in `[0, num_identities)`.
        margin: float or scalar tensor in `[0, pi)` in place of the constructor's.
        training: bool; `False` keeps the statistics. Defaults to `True`.

    Returns:
        dict of float32, each of shape `(batch,)`:
        `loss` and `cross_entropy`: of the margin softmax;
        `cosine`: to the own centre, in `[-1, 1]`;
        `accuracy`: 1 where the own centre is the nearest, else 0;
        `margin_accuracy`: the same from the logits with margin;
        `norm`: length of the embedding.

    Raises:
        ValueError: an argument is out of range, or the identities are not integers.
        tf.errors.InvalidArgumentError: an identity is outside `[0, num_identities)`.

    Example:

    >>> layer = AdaFaceLoss(num_identities=10)
    >>> terms = layer(np.ones((4, 8), "float32"), np.array([0, 1, 2, 9]))
    >>> terms["loss"].shape
    TensorShape([4])
    """

    def __init__(
        self,
        num_identities,
        margin=0.4,
        scale=64.0,
        concentration=0.333,
        momentum=0.99,
        seed=0,
        **kwargs,
    ):
        super().__init__(num_identities, seed, **kwargs)
        require(0 <= margin < math.pi, "margin", "radians in [0, pi)", margin)
        require(scale > 0, "scale", "a number > 0", scale)
        require(concentration > 0, "concentration", "a number > 0", concentration)
        require(0 <= momentum < 1, "momentum", "a number in [0, 1)", momentum)
        self.margin = margin
        self.scale = scale
        self.concentration = concentration
        self.momentum = momentum
        self.norm_mean = self._statistic("norm_mean", INITIAL_MEAN)
        self.norm_std = self._statistic("norm_std", INITIAL_STD)

    def _statistic(self, name, value):
        return self.add_weight(
            shape=(),
            initializer=keras.initializers.Constant(value),
            dtype="float32",
            autocast=False,
            trainable=False,
            # All replicas see the global batch, so they write the same value.
            aggregation="only_first_replica",
            name=name,
        )

    def call(self, embeddings, identities, margin=None, training=True):
        embeddings, identities, centres = self._taken(embeddings, identities)
        margin = self.margin if margin is None else margin
        norm = tf.norm(tf.stop_gradient(embeddings), axis=1)
        scaler = self._scaler(tf.clip_by_value(norm, *NORM_RANGE), training)
        cosines = cosines_to(centres, embeddings)
        cosine = own_entries(cosines, identities)
        shifted = tf.clip_by_value(angle(cosine) - margin * scaler, EPSILON, math.pi - EPSILON)
        target = tf.cos(shifted) - margin * scaler - margin
        return {
            **margin_softmax(cosines, cosine, target, identities, self.scale, self.label_smoothing),
            "norm": norm,
        }

    def _scaler(self, norm, training):
        mean, std = tf.convert_to_tensor(self.norm_mean), tf.convert_to_tensor(self.norm_std)
        if training:
            norms = global_batch(norm)
            batch_mean = tf.reduce_mean(norms)
            # Unbiased as in the authors' code, but 0 for a single embedding.
            degrees = tf.maximum(tf.cast(tf.size(norms), tf.float32) - 1.0, 1.0)
            batch_std = tf.sqrt(tf.reduce_sum(tf.square(norms - batch_mean)) / degrees)
            mean = self.momentum * mean + (1.0 - self.momentum) * batch_mean
            std = self.momentum * std + (1.0 - self.momentum) * batch_std
            self.norm_mean.value.assign(mean)
            self.norm_std.value.assign(std)
        return tf.clip_by_value(self.concentration * (norm - mean) / (std + EPSILON), -1.0, 1.0)
