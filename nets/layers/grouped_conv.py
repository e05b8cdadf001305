"""Grouped convolution that is fast on CPUs."""

from typing import Any

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="margin_centre_face")
class GroupedConv(keras.layers.Layer):
    """Convolves each group of neighbouring channels into the same number of channels, with a stride of 1.

    TensorFlow's own grouped convolution takes seconds on CPUs. This layer computes all products by a
    depthwise convolution and sums them over the inputs of each group. `kernel[i, j, c, m]` is the weight of
    input channel `c` for output `m` of the group of `c`.

    Args:
        kernel_size: height and width of the kernel, odd. The input is padded with zeros by half of it.
        groups: number of groups, a divisor of the number of channels.
        use_bias: whether to add a trained number to each output channel.
        kernel_initializer: Keras initializer of the kernel.
        **kwargs: arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: float, shape `(batch, height, width, channels)`. The output has the same shape and dtype.

    Raises:
        ValueError: the number of channels is not a multiple of `groups`.
    """

    def __init__(
        self,
        kernel_size: int,
        groups: int,
        use_bias: bool = False,
        kernel_initializer: Any = "glorot_uniform",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.kernel_size = kernel_size
        self.groups = groups
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        channels = input_shape[-1]
        if not channels or channels % self.groups:
            raise ValueError(
                f"{self.name}: expected a multiple of {self.groups} channels, received {channels}"
            )
        shape = (self.kernel_size, self.kernel_size, channels, channels // self.groups)
        self.kernel = self.add_weight(shape=shape, initializer=self.kernel_initializer, name="kernel")
        if self.use_bias:
            self.bias = self.add_weight(shape=(channels,), initializer="zeros", name="bias")

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        height, width, channels = inputs.shape[1:]
        products = tf.nn.depthwise_conv2d(inputs, tf.convert_to_tensor(self.kernel), [1, 1, 1, 1], "SAME")
        size = channels // self.groups
        outputs = tf.reduce_sum(tf.reshape(products, (-1, height, width, self.groups, size, size)), axis=4)
        outputs = tf.reshape(outputs, (-1, height, width, channels))
        return outputs + tf.convert_to_tensor(self.bias) if self.use_bias else outputs

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "kernel_size": self.kernel_size,
            "groups": self.groups,
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }
