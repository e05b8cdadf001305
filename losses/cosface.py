"""Additive cosine margin."""

import keras

from .arguments import require
from .centre_layer import CentreLayer
from .cosines import cosines_to, margin_softmax, own_entries


@keras.saving.register_keras_serializable(package="margin_centre_face")
class CosFaceLoss(CentreLayer):
    """Separates identities by a margin of the cosine.

    With `theta_j` the angle between an embedding and centre `j`, and `y` its identity, the loss of one
    sample is

        softmax_xent(scale * (cos(theta_y) - margin), scale * cos(theta_j), j != y)

    Everything is computed in float32 whatever the dtype policy.

    References:
    - [CosFace](https://arxiv.org/abs/1801.09414)
    - margin-centre-face, `losses/face_losses.py::cosineface_losses`, with its scale and margin

    Args:
        num_identities: int > 0.
        margin: float in `[0, 2)`, of the cosine: no angle. Defaults to `0.4`.
        scale: float > 0, the radius of the hypersphere. Defaults to `30.0`.
        seed: int for the initial centres. Defaults to `0`.
        **kwargs: of `keras.layers.Layer`.

    Call arguments:
        embeddings: float, shape `(batch, dim)`; need not be normalised.
        identities: int, shape `(batch,)`, in `[0, num_identities)`.
        margin: float or scalar tensor in `[0, 2)` in place of the constructor's.

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

    >>> layer = CosFaceLoss(num_identities=10)
    >>> terms = layer(np.ones((4, 8), "float32"), np.array([0, 1, 2, 9]))
    >>> terms["loss"].shape
    TensorShape([4])
    """

    can_be_sharded = True

    def __init__(self, num_identities, margin=0.4, scale=30.0, seed=0, **kwargs):
        super().__init__(num_identities, seed, **kwargs)
        require(0 <= margin < 2, "margin", "a cosine in [0, 2)", margin)
        require(scale > 0, "scale", "a number > 0", scale)
        self.margin = margin
        self.scale = scale

    def call(self, embeddings, identities, margin=None):
        embeddings, identities, centres = self._taken(embeddings, identities)
        cosines = cosines_to(centres, embeddings)
        cosine = own_entries(cosines, identities)
        target = cosine - (self.margin if margin is None else margin)
        return margin_softmax(cosines, cosine, target, identities, self.scale, self.label_smoothing)
