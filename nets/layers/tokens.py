"""Layers of vision transformers: position embedding, removal of tokens, attention."""

from typing import Any

import keras
import tensorflow as tf

from .dropout import uniform_of_batch


@keras.saving.register_keras_serializable(package="margin_centre_face")
class PositionEmbedding(keras.layers.Layer):
    """Adds a trained vector to each token, one for each position.

    Args:
        initializer: Keras initializer of the vectors.
        **kwargs: arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: float, shape `(batch, tokens, channels)`. The output has the same shape and dtype.
    """

    def __init__(self, initializer: Any = "zeros", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.initializer = keras.initializers.get(initializer)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        shape = (1, *input_shape[1:])
        self.tokens = self.add_weight(shape=shape, initializer=self.initializer, name="tokens")

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return inputs + tf.convert_to_tensor(self.tokens)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "initializer": keras.initializers.serialize(self.initializer)}


@keras.saving.register_keras_serializable(package="margin_centre_face")
class DropTokens(keras.layers.Layer):
    """Removes random tokens of each image during training. `RestoreTokens` fills their places later.

    As with `Dropout`, the choice depends only on the seed, the number of earlier draws and the image's place
    in the global batch.

    Args:
        ratio: share of the tokens to remove, in `[0, 1)`.
        seed: seed of the choice.
        **kwargs: arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: float, shape `(batch, tokens, channels)`.
        training: whether to remove tokens. Defaults to `False`, which keeps all of them.

    Returns:
        `(kept, places)`: the kept tokens, `(batch, num_kept, channels)`; and int64 `(batch, tokens)`, the
        index of each token in the sequence of the kept tokens followed by the removed ones.

    Raises:
        ValueError: `ratio` is out of range.
    """

    def __init__(self, ratio: float = 0.1, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 <= ratio < 1:
            raise ValueError(f"mask_ratio: expected a number in [0, 1), received {ratio}")
        self.ratio = ratio
        self.seed = seed

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        # Every replica has its own counter. It is int64, because code compiled for a GPU cannot use int32.
        self.draws = self.add_weight((), "zeros", "int64", trainable=False, name="draws")

    def call(self, inputs: tf.Tensor, training: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
        batch, num_tokens = tf.shape(inputs)[0], inputs.shape[1]
        if not training or self.ratio == 0:
            return inputs, tf.zeros((batch, num_tokens), tf.int64)  # `RestoreTokens` ignores the zeros
        numbers = uniform_of_batch(self.draws, self.seed, batch, [num_tokens])
        order = _argsort(tf.ensure_shape(numbers, (None, num_tokens)))
        kept = order[:, : int(num_tokens * (1 - self.ratio))]
        return tf.gather(inputs, kept, axis=1, batch_dims=1), _argsort(order)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "ratio": self.ratio, "seed": self.seed}


@keras.saving.register_keras_serializable(package="margin_centre_face")
class RestoreTokens(keras.layers.Layer):
    """Puts tokens back in their places. A trained vector replaces the tokens that `DropTokens` removed.

    Args:
        ratio: the `ratio` of `DropTokens`.
        initializer: Keras initializer of the vector.
        **kwargs: arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: the two outputs of `DropTokens`. Any layers may have changed the values of the kept tokens.
        training: whether tokens were removed. Defaults to `False`, which returns the tokens as they are.

    Returns:
        float `(batch, tokens, channels)`.
    """

    def __init__(self, ratio: float = 0.1, initializer: Any = "zeros", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ratio = ratio
        self.initializer = keras.initializers.get(initializer)

    def build(self, input_shape: Any) -> None:
        shape = (1, 1, input_shape[0][-1])
        self.tokens = self.add_weight(shape=shape, initializer=self.initializer, name="tokens")

    def call(self, inputs: list[tf.Tensor], training: bool = False) -> tf.Tensor:
        tokens, places = inputs
        if not training or self.ratio == 0:
            return tokens
        batch, kept, _ = tf.unstack(tf.shape(tokens))
        shape = [batch, tf.shape(places)[1] - kept, tokens.shape[2]]
        removed = tf.broadcast_to(tf.convert_to_tensor(self.tokens), shape)
        restored = tf.gather(tf.concat([tokens, removed], axis=1), places, axis=1, batch_dims=1)
        return tf.ensure_shape(restored, (None, places.shape[1], tokens.shape[2]))

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        return tuple(input_shape[0])

    def get_config(self) -> dict[str, Any]:
        initializer = keras.initializers.serialize(self.initializer)
        return {**super().get_config(), "ratio": self.ratio, "initializer": initializer}


@keras.saving.register_keras_serializable(package="margin_centre_face")
class SelfAttention(keras.layers.Layer):
    """Computes the attention of each token to all tokens of its image.

    With `q`, `k` and `v` the queries, keys and values of a head, and `depth` the number of its channels, the
    output of the head is

        softmax(q k^T / sqrt(depth)) v

    The softmax is float32 under every policy. The layer has no weights: a dense layer before it computes
    queries, keys and values.

    References:
    - [Attention Is All You Need](https://arxiv.org/abs/1706.03762)

    Args:
        num_heads: number of heads.
        **kwargs: arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: float, shape `(batch, tokens, 3 * channels)`: queries, then keys, then values. Each has one
            head after another.

    Returns:
        `(batch, tokens, channels)`, with the dtype of the inputs.
    """

    def __init__(self, num_heads: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_heads = num_heads

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        num_tokens = inputs.shape[1] or tf.shape(inputs)[1]
        width = inputs.shape[2] // 3
        depth = width // self.num_heads
        parts = tf.reshape(inputs, (-1, num_tokens, 3, self.num_heads, depth))
        queries, keys, values = tf.unstack(tf.transpose(parts, (2, 0, 3, 1, 4)))
        scores = tf.matmul(queries, keys, transpose_b=True) * tf.cast(depth**-0.5, inputs.dtype)
        weights = tf.cast(tf.nn.softmax(tf.cast(scores, tf.float32)), inputs.dtype)
        collected = tf.transpose(tf.matmul(weights, values), (0, 2, 1, 3))
        return tf.reshape(collected, (-1, num_tokens, width))

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        return (*input_shape[:2], input_shape[2] // 3)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "num_heads": self.num_heads}


def _argsort(values):
    # int64, because TensorFlow runs int32 operations on the CPU even if there is a GPU.
    return tf.cast(tf.argsort(values, axis=1), tf.int64)
