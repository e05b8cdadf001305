"""Base of all losses that are a softmax over cosines with a margin."""

import math
from typing import Any

import tensorflow as tf

from .centre_layer import CentreLayer
from .cosines import cosines_to, is_highest, own_entries, replace_own_entries, softmax_cross_entropy
from .loss_layer import require
from .shards import ShardedCosines


class MarginSoftmaxLoss(CentreLayer):
    """Softmax cross-entropy over cosines, with a margin on the logit of the own identity.

    A subclass defines `target`, and may define `penalties`, `norm` or `cosines`. With `theta_j` the angle
    between an embedding and centre `j`, and `y` its identity, the loss of one sample is

        softmax_cross_entropy(scale * target(cos(theta_y)), scale * cos(theta_j) for j != y) + penalties

    Call arguments and errors: see `LossLayer`.

    Args:
        margin: size of the margin, in radians in `[0, pi)` unless the class says otherwise.
        scale: factor of the cosines before the softmax, greater than 0: the radius of the hypersphere.
        num_identities, **kwargs: see `CentreLayer`.

    Returns:
        float32 terms of shape `(batch,)`: `loss`; `cross_entropy`; the penalties; `cosine` to the own centre,
        in `[-1, 1]`; `accuracy`, 1 where the own centre is the nearest, else 0; `margin_accuracy`, the same
        from the logits with margin; and `norm` if the class defines it.
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
        """Returns the value that replaces `cosine`, to the own centre, in the logits: float32 `(batch,)`."""
        raise NotImplementedError

    def penalties(self, cosine: tf.Tensor, norm: Any) -> dict[str, tf.Tensor]:
        """Returns the terms that are added to the cross-entropy, by name: float32 `(batch,)` each."""
        return {}

    def norm(self, embeddings: tf.Tensor) -> Any:
        """Returns the lengths of the embeddings, float32 `(batch,)`, for losses that depend on them."""
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
            # Scaling makes the only copy; its entries are then replaced in place.
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
