"""Additive angular margin."""

import math

import keras
import tensorflow as tf

from .arguments import require
from .centre_layer import CentreLayer
from .cosines import cosine_with_margin, cosines_to, margin_softmax, own_entries


@keras.saving.register_keras_serializable(package="margin_centre_face")
class ArcFaceLoss(CentreLayer):
    """Separates identities by an angular margin.

    With `theta_j` the angle between an embedding and centre `j`, and `y` its identity, the loss of one
    sample is

        softmax_xent(scale * cos(theta_y + margin), scale * cos(theta_j), j != y)

    Where `theta_y > pi - margin` the target is `cos(theta_y) - margin * sin(margin)`, which keeps
    it monotonic. It is `AngularCentreLoss` with a centre weight of 0, bit for bit.

    Everything is computed in float32 whatever the dtype policy, and gradients are finite for
    every embedding: on its centre, opposite to it, and zero (row 4 of docs/fidelity.md).

    References:
    - [ArcFace](https://arxiv.org/abs/1801.07698)
    - margin-centre-face, `losses/face_losses.py::arcface_loss`

    Args:
        num_identities: int > 0.
        margin: float in `[0, pi)`, radians. Defaults to `0.5`.
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

    >>> layer = ArcFaceLoss(num_identities=10)
    >>> terms = layer(np.ones((4, 8), "float32"), np.array([0, 1, 2, 9]))
    >>> terms["loss"].shape
    TensorShape([4])
    """

    can_be_sharded = True

    def __init__(self, num_identities, margin=0.5, scale=64.0, seed=0, **kwargs):
        super().__init__(num_identities, seed, **kwargs)
        require(0 <= margin < math.pi, "margin", "radians in [0, pi)", margin)
        require(scale > 0, "scale", "a number > 0", scale)
        self.margin = margin
        self.scale = scale

    def call(self, embeddings, identities, margin=None):
        embeddings, identities, centres = self._taken(embeddings, identities)
        margin = tf.convert_to_tensor(self.margin if margin is None else margin, tf.float32)
        cosines = cosines_to(centres, embeddings)
        cosine = own_entries(cosines, identities)
        target = cosine_with_margin(cosine, margin)
        return margin_softmax(cosines, cosine, target, identities, self.scale, self.label_smoothing)
