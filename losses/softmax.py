"""The plain softmax loss, without a margin."""

from typing import Any

import keras
import tensorflow as tf

from .centre_layer import CentreLayer
from .cosines import is_highest, own_entries, softmax_cross_entropy
from .custom_gradients import inner_products, unit_products


@keras.saving.register_keras_serializable(package="margin_centre_face")
class SoftmaxLoss(CentreLayer):
    """Classifies embeddings by inner products with the centres, without a margin or a bias.

    With `x` an embedding, `y` its identity and `w_j` centre `j`, the loss of one sample is

        softmax_cross_entropy(x . w_y, x . w_j for j != y)

    References: margin-centre-face, `losses/face_losses.py::softmax_loss`; its `w_norm` is `normalise_centres`

    Args:
        num_identities: number of identities, at least 1.
        normalise_centres: whether to scale each centre to unit length first.
        **kwargs: arguments of `CentreLayer`. A `SoftmaxLoss` cannot be sharded.

    Returns:
        dict of float32 tensors of shape `(batch,)`.

        - `loss`
        - `cross_entropy`: the same as `loss`
        - `cosine`: cosine to the own centre
        - `accuracy`: 1 where the own logit is the highest, else 0
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
            # Without a gradient, because it is only logged, and a length of 0 has no finite gradient.
            cosine=tf.stop_gradient(tf.math.divide_no_nan(own_entries(logits, identities), lengths)),
            accuracy=is_highest(logits, identities),
        )
