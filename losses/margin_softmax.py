"""The base class of all losses that are a softmax over cosines with a margin."""

import math
from typing import Any

import tensorflow as tf

from .centre_layer import CentreLayer
from .cosines import cosines_to, is_highest, own_entries, replace_own_entries, softmax_cross_entropy
from .loss_layer import require
from .shards import ShardedCosines


class MarginSoftmaxLoss(CentreLayer):
    """Softmax cross-entropy over cosines, with a margin on the logit of the own identity.

    Let `theta_j` be the angle between an embedding and centre `j`, and `y` the identity of the embedding. The
    loss of one sample is

        softmax_cross_entropy(scale * target(cos(theta_y)), scale * cos(theta_j) for j != y) + penalties

    A subclass defines `target`. It may also define `penalties`, `norm` and `cosines`. See `LossLayer` for
    call arguments, and `CentreLayer` for errors.

    Args:
        num_identities: number of identities, at least 1.
        margin: size of the margin: radians in `[0, pi)`, unless the class says otherwise.
        scale: factor of the cosines before the softmax, greater than 0. It is the radius of the hypersphere.
        **kwargs: arguments of `CentreLayer`.

    Returns:
        dict of float32 tensors of shape `(batch,)`.

        - `loss`: the sum of cross-entropy and penalties
        - `cross_entropy`
        - the penalties, if the class has any
        - `cosine`: cosine to the own centre, in `[-1, 1]`
        - `accuracy`: 1 where the own centre is the nearest, else 0
        - `margin_accuracy`: 1 where the own logit is the highest in spite of the margin, else 0
        - `norm`: length of the embedding, if the class defines it
    """

    margin_range = "radians in [0, pi)"
    margin_limit = math.pi

    def __init__(self, num_identities: int, margin: float = 0.5, scale: float = 64.0, **kwargs: Any) -> None:
        super().__init__(num_identities, **kwargs)
        require(0 <= margin < self.margin_limit, "margin", self.margin_range, margin)
        require(scale > 0, "scale", "a number > 0", scale)
        self.margin = margin
        self.scale = scale

    def target(self, cosine: tf.Tensor, margin: tf.Tensor, norm: Any) -> tf.Tensor:
        """Returns what replaces the cosine to the own centre in the logits, before `scale`.

        Args:
            cosine: cosine to the own centre, float32 `(batch,)`.
            margin: float32 `()`.
            norm: the result of `norm`.

        Returns:
            float32 `(batch,)`.
        """
        raise NotImplementedError

    def penalties(self, cosine: tf.Tensor, norm: Any) -> dict[str, tf.Tensor]:
        """Returns the terms to add to the cross-entropy, by name; each is float32 `(batch,)`. Default: none.

        Args:
            cosine: cosine to the own centre, float32 `(batch,)`.
            norm: the result of `norm`.
        """
        return {}

    def norm(self, embeddings: tf.Tensor) -> Any:
        """Returns the lengths of the embeddings, float32 `(batch,)`, or `None` if the loss ignores them."""
        return None

    def cosines(self, centres: Any, embeddings: tf.Tensor) -> Any:
        """Returns the cosine of every embedding to every identity: float32 `(batch, num_identities)`."""
        return cosines_to(centres, embeddings)

    def call(self, embeddings: Any, identities: Any, margin: Any = None) -> dict[str, tf.Tensor]:
        embeddings, identities, centres = self.prepare(embeddings, identities)
        margin = tf.convert_to_tensor(self.margin if margin is None else margin, tf.float32)
        norm = self.norm(embeddings)
        cosines = self.cosines(centres, embeddings)
        cosine = own_entries(cosines, identities)
        target = self.target(cosine, margin, norm)
        if isinstance(cosines, ShardedCosines):
            terms = cosines.margin_softmax(cosine, target, identities, self.scale)
            entropy, accuracy, margin_accuracy = terms
        else:
            # Scaling makes the only copy, in which the own entries are then replaced in place.
            logits = replace_own_entries(self.scale * cosines, identities, self.scale * target)
            entropy = softmax_cross_entropy(identities, logits, self.label_smoothing)
            accuracy, margin_accuracy = is_highest(cosines, identities), is_highest(logits, identities)
        penalties = self.penalties(cosine, norm)
        return self.with_loss(
            loss=sum(penalties.values(), entropy),
            cross_entropy=entropy,
            **penalties,
            cosine=cosine,
            accuracy=accuracy,
            margin_accuracy=margin_accuracy,
            **({} if norm is None else {"norm": norm}),
        )
