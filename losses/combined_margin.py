"""Multiplicative, angular and cosine margin in one."""

import math

import keras
import tensorflow as tf

from .arguments import require
from .centre_layer import CentreLayer
from .cosines import angle, cosines_to, margin_softmax, own_entries


@keras.saving.register_keras_serializable(package="margin_centre_face")
class CombinedMarginLoss(CentreLayer):
    """Separates identities by the margins of SphereFace, ArcFace and CosFace together.

    With `theta_j` the angle between an embedding and centre `j`, and `y` its identity, the loss of one
    sample is

        softmax_xent(scale * (cos(margin_a * theta_y + margin) - margin_b), scale * cos(theta_j), j != y)

    As in the original the target is not continued past an angle of `pi`, where it rises again;
    `ArcFaceLoss` continues it.

    Everything is computed in float32 whatever the dtype policy, and gradients are finite for
    every embedding: on its centre, opposite to it, and zero (row 4 of docs/fidelity.md).

    References:
    - [ArcFace](https://arxiv.org/abs/1801.07698), and for the defaults (CM1)
    - margin-centre-face, `losses/face_losses.py::combine_loss_val`

    Args:
        num_identities: int > 0.
        margin_a: float > 0, times the angle. Defaults to `1.0`.
        margin: float in `[0, pi)`, radians. Defaults to `0.3`.
        margin_b: float in `[0, 2)`, of the cosine. Defaults to `0.2`.
        scale: float > 0, the radius of the hypersphere. Defaults to `64.0`.
        seed: int for the initial centres. Defaults to `0`.
        **kwargs: of `keras.layers.Layer`.

    Call arguments:
        embeddings: float, shape `(batch, dim)`; need not be normalised.
        identities: int, shape `(batch,)`, in `[0, num_identities)`.
        margin: float or scalar tensor in `[0, pi)` in place of the constructor's.

    Returns:
        dict of float32, each of shape `(batch,)`:
        `loss` and `cross_entropy`: of the margin softmax;
        `cosine`: to the own centre, in `[-1, 1]`;
        `accuracy`: 1 where the own centre is the nearest, else 0;
        `margin_accuracy`: the same from the logits with margin.

    Raises:
        ValueError: an argument is out of range, or the identities are not integers.
        tf.errors.InvalidArgumentError: an identity is outside `[0, num_identities)`.

    Example:

    >>> layer = CombinedMarginLoss(num_identities=10, margin_a=0.9)
    >>> terms = layer(np.ones((4, 8), "float32"), np.array([0, 1, 2, 9]))
    >>> terms["loss"].shape
    TensorShape([4])
    """

    can_be_sharded = True

    def __init__(self, num_identities, margin_a=1.0, margin=0.3, margin_b=0.2, scale=64.0, seed=0, **kwargs):
        super().__init__(num_identities, seed, **kwargs)
        require(margin_a > 0, "margin_a", "a number > 0", margin_a)
        require(0 <= margin < math.pi, "margin", "radians in [0, pi)", margin)
        require(0 <= margin_b < 2, "margin_b", "a cosine in [0, 2)", margin_b)
        require(scale > 0, "scale", "a number > 0", scale)
        self.margin_a = margin_a
        self.margin = margin
        self.margin_b = margin_b
        self.scale = scale

    def call(self, embeddings, identities, margin=None):
        embeddings, identities, centres = self._taken(embeddings, identities)
        margin = self.margin if margin is None else margin
        cosines = cosines_to(centres, embeddings)
        cosine = own_entries(cosines, identities)
        target = tf.cos(self.margin_a * angle(cosine) + margin) - self.margin_b
        return margin_softmax(cosines, cosine, target, identities, self.scale, self.label_smoothing)
