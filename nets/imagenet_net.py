"""Makes backbones of VGG and ResNet from `keras.applications`."""

from typing import Any

import keras

from .building import named_seed
from .layers.batch_norm import BatchNorm
from .layers.dropout import Dropout


def imagenet_net(
    name: str,
    image_size: tuple[int, int] = (112, 112),
    embedding_size: int = 512,
    keep_prob: float = 0.4,
    seed: int = 0,
    dtype: Any = "float32",
) -> keras.Model:
    """Builds VGG or ResNet up to its last feature map, followed by the tail of LResNet-E-IR.

    The tail (norm, dropout, flatten, dense, norm) replaces the classifier. The initial weights are
    random, not ImageNet's, because faces are cropped and normalised differently. Batch normalisation is this
    project's layer, with Keras's momentum and epsilon for the net.

    References:
    - margin-centre-face, `nets/vgg16.py`, `nets/vgg19.py`, `nets/resnet.py`: classifiers that no face
      training script uses
    - [VGG](https://arxiv.org/abs/1409.1556), [ResNet](https://arxiv.org/abs/1512.03385)

    Args:
        name: `"vgg16"`, `"vgg19"`, `"resnet50"`, `"resnet101"` or `"resnet152"`.
        image_size: `(height, width)`, each at least 32.
        keep_prob: share that dropout keeps before the dense layer.
        embedding_size, seed, dtype: see `nets.backbone.Backbone`, also for inputs and outputs of the model.

    Raises:
        ValueError: the image is too small.
    """
    application = getattr(keras.applications, name.replace("vgg", "VGG").replace("resnet", "ResNet"))
    features = application(include_top=False, weights=None, input_shape=(*image_size, 3))

    def adapted(layer):
        config = {**layer.get_config(), "dtype": dtype}
        if isinstance(layer, keras.layers.BatchNormalization):
            return BatchNorm(config["momentum"], config["epsilon"], dtype=dtype, name=layer.name)
        if "kernel_initializer" in config:
            config["kernel_initializer"] = keras.initializers.HeNormal(named_seed(layer.name, seed))
        return type(layer).from_config(config)

    def call(layer, *args, **kwargs):
        kwargs.pop("mask", None)  # only Keras's own batch normalisation takes it
        return layer(*args, **kwargs)

    features = keras.models.clone_model(features, clone_function=adapted, call_function=call)
    x = BatchNorm(dtype=dtype, name="E_BN1")(features.output)
    x = Dropout(keep_prob, seed=seed, dtype=dtype, name="E_Dropout")(x)
    x = keras.layers.Flatten(dtype=dtype, name="E_Flatten")(x)
    kernel: Any = keras.initializers.GlorotNormal(named_seed("E_DenseLayer", seed))
    x = keras.layers.Dense(embedding_size, kernel_initializer=kernel, dtype=dtype, name="E_DenseLayer")(x)
    embedding = BatchNorm(train_gamma=False, dtype="float32", name="E_BN2")(x)
    return keras.Model(features.input, embedding, name=name)
