"""MagFace: an angular margin that grows with the length of the embedding."""

import math
from typing import Any

import keras
import tensorflow as tf

from .cosines import cosine_with_margin
from .loss_layer import require
from .margin_softmax import MarginSoftmaxLoss


@keras.saving.register_keras_serializable(package="margin_centre_face")
class MagFaceLoss(MarginSoftmaxLoss):
    """Separates identities by an angular margin, and makes the length of an embedding measure image quality.

    Do not normalise the embeddings before you pass them.

    This is a `MarginSoftmaxLoss`. Let `theta` be the angle between an embedding `x` and its own centre, and
    `a = clip(|x|, lower_norm, upper_norm)` the clipped length of the embedding. The target is

        m = margin + (upper_margin - margin) * (a - lower_norm) / (upper_norm - lower_norm)
        cos(theta + m)

    Where `theta > pi - m` it continues as in `ArcFaceLoss`. The authors' code applies no margin where
    `theta > pi / 2` by default. The penalty is

        norm_weight * (a / upper_norm^2 + 1 / a)

    References: [MagFace](https://arxiv.org/abs/2103.06627), and the authors' code: `models/magface.py` for
    the formula, `run/run.sh` for the defaults

    Args:
        num_identities: number of identities, at least 1.
        margin: margin at `lower_norm`, radians in `(0, pi)`. A margin at the call scales `upper_margin`, too.
        upper_margin: margin at `upper_norm`, radians in `[margin, pi)`.
        scale: factor of the cosines before the softmax, greater than 0.
        lower_norm, upper_norm: range of the length; `0 < lower_norm < upper_norm`.
        norm_weight: weight of the penalty, at least 0; `lambda_g` in the paper.
        **kwargs: arguments of `CentreLayer`.

    Returns:
        The terms of `MarginSoftmaxLoss`, `norm_penalty`: the penalty, and `norm`: the clipped length `a`.
    """

    can_be_sharded = True

    def __init__(
        self,
        num_identities: int,
        margin: float = 0.45,
        upper_margin: float = 0.8,
        scale: float = 64.0,
        lower_norm: float = 10.0,
        upper_norm: float = 110.0,
        norm_weight: float = 35.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_identities, margin, scale, **kwargs)
        require(margin > 0, "margin", "radians in (0, pi)", margin)
        require(margin <= upper_margin < math.pi, "upper_margin", f"radians in [{margin}, pi)", upper_margin)
        require(lower_norm > 0, "lower_norm", "a number > 0", lower_norm)
        require(upper_norm > lower_norm, "upper_norm", f"a number > {lower_norm}", upper_norm)
        require(norm_weight >= 0, "norm_weight", "a number >= 0", norm_weight)
        self.upper_margin = upper_margin
        self.lower_norm = lower_norm
        self.upper_norm = upper_norm
        self.norm_weight = norm_weight

    def norm(self, embeddings: tf.Tensor) -> tf.Tensor:
        # Clip before the root, which has no gradient at 0.
        squares = tf.reduce_sum(tf.square(embeddings), axis=1)
        return tf.sqrt(tf.clip_by_value(squares, self.lower_norm**2, self.upper_norm**2))

    def target(self, cosine: tf.Tensor, margin: tf.Tensor, norm: tf.Tensor) -> tf.Tensor:
        rise = (norm - self.lower_norm) / (self.upper_norm - self.lower_norm)
        margins = margin * (1.0 + (self.upper_margin / self.margin - 1.0) * rise)
        return cosine_with_margin(cosine, margins)

    def penalties(self, cosine: tf.Tensor, norm: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"norm_penalty": self.norm_weight * (norm / self.upper_norm**2 + 1.0 / norm)}
