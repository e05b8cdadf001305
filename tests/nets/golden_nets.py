"""Compares this project's nets with golden values from the original's nets."""

from pathlib import Path

import numpy as np
import tensorflow as tf

from nets.resnet_ir import resnet_ir
from tests.golden.weight_rule import load_golden_weights

GOLDEN = Path(__file__).parents[1] / "golden" / "nets"
NETS = {
    "ir32_112x96": (32, "ir", (112, 96)),
    "se_ir32_112x112": (32, "se_ir", (112, 112)),
    "ir50_112x96": (50, "ir", (112, 96)),
}


def golden_difference(name, training):
    """Returns the largest difference from each golden array, relative to the largest value of the array."""
    golden = np.load(GOLDEN / f"{name}.npz")
    backbone = resnet_ir(*NETS[name], keep_prob=1.0)
    variables = load_golden_weights(backbone)
    images = tf.constant((golden["images"].astype(np.float32) - 127.5) / 128)
    received = {"embedding": backbone(images, training=training).numpy()}
    expected = {"embedding": golden["embedding_train" if training else "embedding_inference"]}
    if training:
        moving = [key for key in golden.files if "moving" in key]
        assert len(moving) >= 4
        expected |= {key: golden[key] for key in moving}
        received |= {key: variables[f"{backbone.name}/{key}"].numpy() for key in moving}
    return {
        key: float(np.abs(received[key] - value).max() / np.abs(value).max())
        for key, value in expected.items()
    }
