"""The plain softmax classifier."""

from typing import Any

import keras
import tensorflow as tf

from .centre_layer import CentreLayer
from .cosines import is_highest, own_entries, softmax_cross_entropy
from .custom_gradients import inner_products, unit_products


@keras.saving.register_keras_serializable(package="margin_centre_face")
class SoftmaxLoss(CentreLayer):
    """Tells identities apart by inner products with their centres, without a margin or a bias.

    With `x` an embedding, `w_j` centre `j`, and `y` its identity, the loss of one sample is

        softmax_cross_entropy(x . w_y, x . w_j for j != y)

    where the centres have unit length if `normalise_centres` is set.

    References: margin-centre-face, `losses/face_losses.py::softmax_loss`; its `w_norm` is `normalise_centres`

    Args:
        normalise_centres: whether centres are divided by their lengths first. Others: see `CentreLayer`.

    Returns:
        float32 terms of shape `(batch,)`: `loss` and `cross_entropy`, which are the same; `cosine` to the own
        centre; `accuracy`, 1 where the own logit is the highest, else 0.
    """

    def __init__(self, num_identities: int, normalise_centres: bool = False, **kwargs: Any) -> None:
        super().__init__(num_identities, **kwargs)
        self.normalise_centres = normalise_centres

    def call(self, embeddings: Any, identities: Any) -> dict[str, tf.Tensor]:
        embeddings, identities, centres = self.prepare(embeddings, identities)
        logits = (unit_products if self.normalise_centres else inner_products)(embeddings, centres)
        cross_entropy = softmax_cross_entropy(identities, logits, self.label_smoothing)
        lengths = tf.norm(embeddings, axis=1)
        if not self.normalise_centres:
            lengths *= tf.norm(tf.gather(centres, identities, axis=1), axis=0)
        return self.with_loss(
            loss=cross_entropy,
            cross_entropy=cross_entropy,
            # Only for the log: the lengths have no gradient at 0.
            cosine=tf.stop_gradient(tf.math.divide_no_nan(own_entries(logits, identities), lengths)),
            accuracy=is_highest(logits, identities),
        )
