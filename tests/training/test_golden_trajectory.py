"""Five steps of the original's training graph, number for number."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from losses.angular_centre import AngularCentreLoss
from nets.resnet_ir import decayed_variables, resnet_ir
from tests.golden.weight_rule import golden_weight, load_golden_weights
from training.optimizer import MomentumSGD
from training.trainer import Trainer

GOLDEN = Path(__file__).parents[1] / "golden" / "train" / "train_centre_ir32.npz"
TERMS = {
    "inference_loss": "cross_entropy",
    "centre_loss": "centre",
    "wd_loss": "weight_decay",
    "total_loss": "total",
}


@pytest.fixture(scope="module")
def trained():
    golden = np.load(GOLDEN)
    backbone = resnet_ir(32, image_size=(112, 96), keep_prob=1.0)
    variables = load_golden_weights(backbone)
    head = AngularCentreLoss(10, margin=0.5, scale=64.0, centre_weight=0.3)
    head.build(backbone.output_shape)
    head.centres.assign(golden_weight("arc_loss/embedding_weights", head.centres.shape))
    decayed = [*decayed_variables(backbone), head.centres]
    trainer = Trainer(tf.distribute.get_strategy(), backbone, head, MomentumSGD(0.001, 0.9), decayed)
    steps = []
    for images, labels in zip(golden["images"], golden["labels"], strict=True):
        normalised = (images.astype(np.float32) - 127.5) / 128
        terms = trainer.train_step(tf.constant(normalised), tf.constant(labels, tf.int32))
        steps.append({name: float(value) for name, value in terms.items()})
    return golden, variables, backbone, steps


@pytest.mark.parametrize("golden_name", TERMS)
def test_every_term_of_every_step(trained, golden_name):
    golden, _, _, steps = trained
    received = [step[TERMS[golden_name]] for step in steps]
    np.testing.assert_allclose(received, golden[golden_name], rtol=1e-4)


def test_variables_after_the_last_step(trained):
    golden, variables, _, _ = trained
    names = [name for name in golden.files if "/" in name]
    assert len(names) == 7
    for name in names:
        received = variables[f"resnet_v1_32/{name}"].numpy()
        scale = np.abs(golden[name]).max()
        np.testing.assert_allclose(received / scale, golden[name] / scale, atol=1e-4, err_msg=name)


def test_embedding_after_the_last_step(trained):
    golden, _, backbone, _ = trained
    images = (golden["images"][0][:4].astype(np.float32) - 127.5) / 128
    expected = golden["embedding_after"]
    received = backbone(images, training=False).numpy()
    scale = np.abs(expected).max()
    np.testing.assert_allclose(received / scale, expected / scale, atol=1e-4)
