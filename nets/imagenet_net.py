"""The nets of ImageNet as backbones of faces, from `keras.applications`."""

import keras

from .building import named_seed
from .layers.batch_norm import BatchNorm
from .layers.dropout import Dropout

_APPLICATIONS = {
    "vgg16": "VGG16",
    "vgg19": "VGG19",
    "resnet50": "ResNet50",
    "resnet101": "ResNet101",
    "resnet152": "ResNet152",
}


def imagenet_net(name, image_size=(112, 112), embedding_size=512, keep_prob=0.4, seed=0, dtype="float32"):
    """Builds VGG or ResNet up to its last feature map, with the tail of LResNet-E-IR on it.

    The tail is norm, dropout, flatten, dense and norm; the classifier is left out. Weights are
    random, since faces are cropped and normalised in another way than ImageNet's pictures. Batch
    normalisation is this project's layer with the momentum and epsilon of the application.

    References:
    - margin-centre-face, `nets/vgg16.py`, `nets/vgg19.py`, `nets/resnet.py`: classifiers there, which
      no face training script uses
    - [VGG](https://arxiv.org/abs/1409.1556), [ResNet](https://arxiv.org/abs/1512.03385)

    Args:
        name: `"vgg16"`, `"vgg19"`, `"resnet50"`, `"resnet101"` or `"resnet152"`.
        image_size: `(height, width)`, each at least 32.
        embedding_size: int > 0.
        keep_prob: float in `(0, 1]`, what dropout keeps. Defaults to `0.4`.
        seed: int; the initial weights and dropout masks follow from it and the layers' names.
        dtype: dtype policy of the layers.

    Returns:
        A `keras.Model` as `nets.resnet_ir.resnet_ir` returns it.

    Raises:
        ValueError: too small an image.
    """
    application = getattr(keras.applications, _APPLICATIONS[name])
    features = application(include_top=False, weights=None, input_shape=(*image_size, 3))

    def adapted(layer):
        config = {**layer.get_config(), "dtype": dtype}
        if isinstance(layer, keras.layers.BatchNormalization):
            return BatchNorm(config["momentum"], config["epsilon"], dtype=dtype, name=layer.name)
        if "kernel_initializer" in config:
            config["kernel_initializer"] = keras.initializers.HeNormal(named_seed(layer.name, seed))
        return type(layer).from_config(config)

    def call(layer, *args, **kwargs):
        kwargs.pop("mask", None)  # which Keras's own batch normalisation takes
        return layer(*args, **kwargs)

    features = keras.models.clone_model(features, clone_function=adapted, call_function=call)
    x = BatchNorm(dtype=dtype, name="E_BN1")(features.output)
    x = Dropout(keep_prob, seed=seed, dtype=dtype, name="E_Dropout")(x)
    x = keras.layers.Flatten(dtype=dtype, name="E_Flatten")(x)
    x = keras.layers.Dense(
        embedding_size,
        kernel_initializer=keras.initializers.GlorotNormal(named_seed("E_DenseLayer", seed)),
        dtype=dtype,
        name="E_DenseLayer",
    )(x)
    embedding = BatchNorm(train_gamma=False, dtype="float32", name="E_BN2")(x)
    return keras.Model(features.input, embedding, name=name)
