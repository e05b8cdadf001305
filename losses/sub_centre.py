"""Several centres per identity."""

import math

import keras
import tensorflow as tf

from .arguments import require
from .centre_layer import CentreLayer
from .cosines import cosine_with_margin, cosines_to, margin_softmax, own_entries


@keras.saving.register_keras_serializable(package="margin_centre_face")
class SubCentreLoss(CentreLayer):
    """Separates identities by an angular margin, each to the nearest of its own sub-centres.

    Images with a wrong label gather at a sub-centre of their own, where they harm the others less. With
    `theta_jk` the angle between an embedding and sub-centre `k` of identity `j`, and `y` its identity,
    the loss of one sample is that of `ArcFaceLoss` with

        cos(theta_j) = max over k of cos(theta_jk)

    and is equal to it with one sub-centre.

    Everything is computed in float32 whatever the dtype policy, and gradients are finite for
    every embedding: on its centre, opposite to it, and zero.

    References:
    - [Sub-center ArcFace](https://ibug.doc.ic.ac.uk/media/uploads/documents/eccv_1445.pdf)

    Args:
        num_identities: int > 0.
        num_sub_centres: int > 0, per identity. Defaults to `3`, the paper's.
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
        `cosine`: to the nearest of the own sub-centres, in `[-1, 1]`;
        `accuracy`: 1 where the nearest sub-centre is one of the own, else 0;
        `margin_accuracy`: the same from the logits with margin.

    Raises:
        ValueError: an argument is out of range, or the identities are not integers.
        tf.errors.InvalidArgumentError: an identity is outside `[0, num_identities)`.

    Example:

    >>> layer = SubCentreLoss(num_identities=10, num_sub_centres=2)
    >>> terms = layer(np.ones((4, 8), "float32"), np.array([0, 1, 2, 9]))
    >>> terms["loss"].shape, tuple(layer.centres.shape)
    (TensorShape([4]), (8, 20))
    """

    def __init__(self, num_identities, num_sub_centres=3, margin=0.5, scale=64.0, seed=0, **kwargs):
        require(num_sub_centres >= 1, "num_sub_centres", "at least 1", num_sub_centres)
        require(0 <= margin < math.pi, "margin", "radians in [0, pi)", margin)
        require(scale > 0, "scale", "a number > 0", scale)
        super().__init__(num_identities, seed, centres_per_identity=num_sub_centres, **kwargs)
        self.num_sub_centres = num_sub_centres
        self.margin = margin
        self.scale = scale

    def call(self, embeddings, identities, margin=None):
        embeddings, identities, centres = self._taken(embeddings, identities)
        margin = tf.convert_to_tensor(self.margin if margin is None else margin, tf.float32)
        to_sub_centres = cosines_to(centres, embeddings)
        cosines = tf.reduce_max(
            tf.reshape(to_sub_centres, (tf.shape(embeddings)[0], -1, self.num_sub_centres)), axis=2
        )
        cosine = own_entries(cosines, identities)
        target = cosine_with_margin(cosine, margin)
        return margin_softmax(cosines, cosine, target, identities, self.scale, self.label_smoothing)
