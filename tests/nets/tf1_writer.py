"""Writes TensorFlow 1 checkpoints as the original's trainer left them."""

import json

import numpy as np
import tensorflow.compat.v1 as tf1

from tests.golden.weight_rule import golden_weight


def write_tf1_checkpoint(variables_json, prefix, num_identities=10, leave_out=(), change=None):
    """Writes the variables of a golden list, their slots, step and centres, with values of `golden_weight`.

    Args:
        variables_json: Path of a list of `[name, shape, trainable]`.
        prefix: Path of the checkpoint.
        num_identities: number of centres.
        leave_out: names of variables to leave out.
        change: dict from the name of a variable to another value.
    """
    values = {"global_step": 258000}
    for name, shape, trainable in json.loads(variables_json.read_text()):
        values[name] = golden_weight(name, shape)
        if trainable:
            values[f"{name}/Momentum"] = 0 * values[name]
    centres = "arc_loss/embedding_weights"
    values[centres] = golden_weight(centres, (512, num_identities))
    values |= change or {}
    values = {name: value for name, value in values.items() if name not in leave_out}
    with tf1.Graph().as_default(), tf1.Session() as session:
        fed = {}  # a graph that holds the values may not be larger than 2 GB
        for name, value in values.items():
            value = np.asarray(value)
            placeholder = tf1.placeholder(value.dtype, value.shape)
            tf1.get_variable(name, initializer=placeholder)
            fed[placeholder] = value
        session.run(tf1.global_variables_initializer(), fed)
        prefix.parent.mkdir(parents=True, exist_ok=True)
        tf1.train.Saver().save(session, str(prefix))
    return prefix
