"""A margin that grows with the length of the embedding."""

import math

import keras
import tensorflow as tf

from .arguments import require
from .centre_layer import CentreLayer
from .cosines import cosine_with_margin, cosines_to, margin_softmax, own_entries


@keras.saving.register_keras_serializable(package="margin_centre_face")
class MagFaceLoss(CentreLayer):
    """Separates identities by an angular margin and teaches embeddings a length that tells their quality.

    With `theta_j` the angle between an embedding `x` and centre `j`, `y` its identity, and
    `a = clip(|x|, lower_norm, upper_norm)`, the loss of one sample is

        m = margin + (upper_margin - margin) * (a - lower_norm) / (upper_norm - lower_norm)
        softmax_xent(scale * cos(theta_y + m), scale * cos(theta_j), j != y)
        + norm_weight * (a / upper_norm^2 + 1 / a)

    Where `theta_y > pi - m` the target is continued as in `ArcFaceLoss`; the authors' code leaves
    out the margin where `theta_y > pi / 2`, unless told otherwise.

    Everything is computed in float32 whatever the dtype policy, and gradients are finite for
    every embedding: on its centre, opposite to it, and zero.

    References:
    - [MagFace](https://arxiv.org/abs/2103.06627), and the authors' code, `models/magface.py`, for the
      formula and `run/run.sh` for the defaults

    Args:
        num_identities: int > 0.
        margin: float in `(0, pi)`, radians, at `lower_norm`. Defaults to `0.45`.
        upper_margin: float in `[margin, pi)`, radians, at `upper_norm`. Defaults to `0.8`.
        scale: float > 0, the radius of the hypersphere. Defaults to `64.0`.
        lower_norm: float > 0. Defaults to `10.0`.
        upper_norm: float > `lower_norm`. Defaults to `110.0`.
        norm_weight: float >= 0, `lambda_g` in the paper. Defaults to `35.0`.
        seed: int for the initial centres. Defaults to `0`.
        **kwargs: of `keras.layers.Layer`.

    Call arguments:
        embeddings: float, shape `(batch, dim)`; must not be normalised.
        identities: int, shape `(batch,)`, in `[0, num_identities)`.
        margin: float or scalar tensor in `[0, pi)` in place of the constructor's; the upper
            margin changes in proportion.

    Returns:
        dict of float32, each of shape `(batch,)`:
        `loss`: the sum of the two next;
        `cross_entropy`: of the margin softmax;
        `norm_penalty`: the weighted last term;
        `cosine`: to the own centre, in `[-1, 1]`;
        `accuracy`: 1 where the own centre is the nearest, else 0;
        `margin_accuracy`: the same from the logits with margin;
        `norm`: `a` above.

    Raises:
        ValueError: an argument is out of range, or the identities are not integers.
        tf.errors.InvalidArgumentError: an identity is outside `[0, num_identities)`.

    Example:

    >>> layer = MagFaceLoss(num_identities=10)
    >>> terms = layer(np.ones((4, 8), "float32"), np.array([0, 1, 2, 9]))
    >>> terms["norm"].numpy().tolist()
    [10.0, 10.0, 10.0, 10.0]
    """

    can_be_sharded = True

    def __init__(
        self,
        num_identities,
        margin=0.45,
        upper_margin=0.8,
        scale=64.0,
        lower_norm=10.0,
        upper_norm=110.0,
        norm_weight=35.0,
        seed=0,
        **kwargs,
    ):
        super().__init__(num_identities, seed, **kwargs)
        require(0 < margin < math.pi, "margin", "radians in (0, pi)", margin)
        require(margin <= upper_margin < math.pi, "upper_margin", f"radians in [{margin}, pi)", upper_margin)
        require(scale > 0, "scale", "a number > 0", scale)
        require(lower_norm > 0, "lower_norm", "a number > 0", lower_norm)
        require(upper_norm > lower_norm, "upper_norm", f"a number > {lower_norm}", upper_norm)
        require(norm_weight >= 0, "norm_weight", "a number >= 0", norm_weight)
        self.margin = margin
        self.upper_margin = upper_margin
        self.scale = scale
        self.lower_norm = lower_norm
        self.upper_norm = upper_norm
        self.norm_weight = norm_weight

    def call(self, embeddings, identities, margin=None):
        embeddings, identities, centres = self._taken(embeddings, identities)
        margin = tf.convert_to_tensor(self.margin if margin is None else margin, tf.float32)
        # Cut off before the root, which has no gradient at 0.
        squares = tf.reduce_sum(tf.square(embeddings), axis=1)
        norm = tf.sqrt(tf.clip_by_value(squares, self.lower_norm**2, self.upper_norm**2))
        rise = (norm - self.lower_norm) / (self.upper_norm - self.lower_norm)
        margins = margin * (1.0 + (self.upper_margin / self.margin - 1.0) * rise)

        cosines = cosines_to(centres, embeddings)
        cosine = own_entries(cosines, identities)
        target = cosine_with_margin(cosine, margins)
        penalty = self.norm_weight * (norm / self.upper_norm**2 + 1.0 / norm)
        terms = margin_softmax(
            cosines, cosine, target, identities, self.scale, self.label_smoothing, norm_penalty=penalty
        )
        return {**terms, "norm": norm}
