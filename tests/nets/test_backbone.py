import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import nets
from nets.backbone import Backbone, decayed_variables
from nets.imagenet_net import imagenet_net
from nets.layers.batch_norm import BatchNorm
from nets.variants import VARIANTS

IMAGES = np.random.default_rng(0).uniform(-1, 1, (4, 32, 32, 3)).astype(np.float32)


# One name of each builder. tests/nets/test_resnet_ir.py has more names of the first.
@pytest.mark.parametrize("name", ["se_ir32", "iresnet18", "vgg16", "resnet50"])
def test_nets_train_embed_and_reload(name, tmp_path):
    backbone = nets.build_backbone(name, image_size=(32, 32), embedding_size=48, keep_prob=0.9, seed=3)
    backbone(IMAGES, training=True)  # moves statistics and dropout's counter
    embedding = backbone(IMAGES, training=False)
    assert embedding.shape == (4, 48) and embedding.dtype == tf.float32 and np.isfinite(embedding).all()

    backbone.save(tmp_path / "net.keras")
    loaded = nets.load_backbone(tmp_path / "net.keras")
    np.testing.assert_array_equal(loaded(IMAGES, training=False), embedding)
    assert loaded.net == backbone.net
    assert json.loads(json.dumps(backbone.net)) == backbone.net
    assert backbone.net["architecture"] == name

    # All weights follow from the seed.
    first, again, other = (Backbone(**{**backbone.net, "seed": seed}) for seed in (3, 3, 4))
    assert [(v.path, v.shape) for v in again.variables] == [(v.path, v.shape) for v in backbone.variables]
    weights = [net.get_weights() for net in (first, again, other)]
    assert all((one == two).all() for one, two in zip(*weights[:2], strict=True))
    assert any((one != two).any() for one, two in zip(*weights[1:], strict=True))

    kernels = {id(v) for v in backbone.trainable_variables if v.name == "kernel" and len(v.shape) == 4}
    decayed = {id(v) for v in decayed_variables(backbone)}
    assert kernels <= decayed
    assert len(decayed_variables(backbone, dense=False)) == len(decayed) - 1


@pytest.mark.parametrize("name", ["resnet50", "iresnet18"])
def test_mixed_precision_keeps_weights_and_embedding_in_float32(name):
    precise = Backbone(name, image_size=(32, 32), keep_prob=1.0)
    mixed = Backbone(name, image_size=(32, 32), keep_prob=1.0, dtype="mixed_bfloat16")
    assert {v.dtype for v in mixed.variables if v.name != "draws"} == {"float32"}
    embedding = mixed(IMAGES, training=False)
    assert embedding.dtype == tf.float32
    assert any(layer.compute_dtype == "bfloat16" for layer in mixed.layers)
    similarity = -keras.losses.cosine_similarity(embedding, precise(IMAGES, training=False))
    assert float(tf.reduce_min(similarity)) > 0.99


@pytest.mark.parametrize(("name", "expected"), [("vgg16", 13), ("vgg19", 16), ("resnet50", 53)])
def test_imagenet_nets_have_the_layers_of_the_papers(name, expected):
    # The papers count 3 more layers in VGG's classifier, 1 in ResNet's, and not the 4 shortcuts.
    layers = imagenet_net(name, (32, 32), embedding_size=8).layers
    assert sum(isinstance(layer, keras.layers.Conv2D) for layer in layers) == expected
    if name == "resnet50":
        norms = [layer for layer in layers if layer.name == "conv1_bn"]
        assert [(type(n), n.momentum, n.epsilon) for n in norms] == [(BatchNorm, 0.99, 1.001e-5)]


def test_the_default_keep_prob_is_that_of_the_architecture():
    assert Backbone("ir32", (32, 32)).net["keep_prob"] == 0.4
    assert VARIANTS["ir50"].keep_prob == 0.4 and VARIANTS["iresnet50"].keep_prob == 1.0


def test_errors_suggest_a_similar_name_and_name_the_argument():
    with pytest.raises(ValueError, match=r"iresnet50.*'ires50'"):
        Backbone("ires50")
    with pytest.raises(ValueError, match=r"iresnet18: .*random_final_gamma"):
        Backbone("iresnet18", random_final_gamma=True)


def test_names_agree_with_the_arguments_of_their_builders():
    for name, variant in VARIANTS.items():
        assert name.startswith(variant.arguments.get("name", "")) and variant.keep_prob in (0.4, 1.0)
        if variant.builder != "vit":  # The sizes of these nets are letters.
            assert str(variant.arguments.get("depth", "")) in name
