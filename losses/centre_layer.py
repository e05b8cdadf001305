"""What all losses with centres have in common."""

import math

import keras
import tensorflow as tf

from losses.arguments import checked_identities, constructor_arguments, require


class CentreLayer(keras.layers.Layer):
    """Base of the losses that own one centre per identity, or several.

    A subclass defines `call` and keeps the arguments of its constructor as attributes of the same
    names; it overrides nothing of this. Everything is float32 whatever the dtype policy.

    References:
    - margin-centre-face, `train_centre.py` (`w_init`), for the initial centres

    Args:
        num_identities: int > 0.
        seed: int for the initial centres (truncated normal, as the nets' kernels).
        centres_per_identity: int > 0. Defaults to `1`.
        **kwargs: of `keras.layers.Layer`.

    Attributes:
        centres: trainable weight of shape `(dim, num_identities * centres_per_identity)`; the centres
            of an identity stand side by side.

    Raises:
        ValueError: `num_identities` is out of range.
    """

    def __init__(self, num_identities, seed, centres_per_identity=1, **kwargs):
        # Keras would cast the embeddings to the policy's compute dtype; 8 bits of mantissa
        # cannot tell angles near a centre apart.
        super().__init__(**{**kwargs, "autocast": False})
        require(num_identities >= 1, "num_identities", "at least 1", num_identities)
        self.num_identities = num_identities
        self.seed = seed
        self._num_centres = num_identities * centres_per_identity

    def build(self, embeddings_shape, *_):
        dim = embeddings_shape[-1]
        self.centres = self.add_weight(
            shape=(dim, self._num_centres),
            # tf.contrib's xavier initializer multiplied the variance by 1.3 for the truncation.
            initializer=keras.initializers.TruncatedNormal(
                stddev=math.sqrt(1.3 * 2 / (dim + self._num_centres)), seed=self.seed
            ),
            dtype="float32",
            autocast=False,
            name="embedding_weights",
        )

    def _checked(self, embeddings, identities):
        return tf.cast(embeddings, tf.float32), checked_identities(identities, self.num_identities)

    def get_config(self):
        return {**super().get_config(), **constructor_arguments(self)}
