"""Converts a trained net to an ONNX graph."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from eval.embedding.input_format import PLAIN_PIXELS
from export.file_export import embedding_function

if TYPE_CHECKING:
    import onnx

    from nets.backbone import Backbone

_OPSET = 18
_INPUT_KEY = "input_format"  # of the metadata


def to_onnx(backbone: Backbone, face_size: tuple[int, int] = (112, 112)) -> onnx.ModelProto:
    """Converts a net to ONNX in float32; see `export.file_export.embedding_function` for inputs and outputs.

    The model accepts batches of any size.

    Args:
        backbone: net in any precision.
        face_size: `(height, width)` of the faces, at least the net's input size.

    Raises:
        ValueError: the faces are smaller than the net's input.
    """
    import onnx

    from nets.inference import in_float32

    net = in_float32(backbone)
    model = _convert(embedding_function(net, face_size))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    values = {_INPUT_KEY: json.dumps(dataclasses.asdict(PLAIN_PIXELS)), "net": json.dumps(net.net)}
    onnx.helper.set_model_props(model, values)
    model.producer_name = "margin-centre-face"
    onnx.checker.check_model(model)
    return model


def _convert(embed: Any) -> onnx.ModelProto:
    """Converts the result of `embedding_function`.

    TensorFlow and tf2onnx copy each constant about 40 times. So they get a function that has the kernels as
    inputs, and the values are added to the converted graph.
    """
    import keras
    import tensorflow as tf
    import tf2onnx

    kernels = [variable for variable in embed.net.variables if len(variable.shape) > 1]
    weights = {f"weight_{i}": kernel for i, kernel in enumerate(kernels)}
    specs = [tf.TensorSpec(weight.shape, weight.dtype, name) for name, weight in weights.items()]
    signature = [*embed.input_signature, *specs]

    @tf.function(input_signature=signature)
    def with_weights(images, *values):
        with keras.StatelessScope(list(zip(weights.values(), values, strict=True))):
            return embed.python_function(images)

    # By default tf2onnx copies the net before each of its many passes, to undo a pass that fails.
    os.environ.setdefault("TF2ONNX_CATCH_ERRORS", "FALSE")
    # tf2onnx logs a rewrite that it skips as an error.
    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)
    model, _ = tf2onnx.convert.from_function(with_weights, input_signature=signature, opset=_OPSET)
    _set_constants(model, {name: np.asarray(weight) for name, weight in weights.items()})
    return model


def _set_constants(model: onnx.ModelProto, values: dict[str, np.ndarray]) -> None:
    """Replaces inputs of the graph with constants, and nodes with only constant inputs with their results."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    graph = model.graph
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer} | values
    for value in [value for value in graph.input if value.name in values]:
        graph.input.remove(value)
    for node in list(graph.node):
        if node.input and all(name in constants for name in node.input):
            results: Any = ReferenceEvaluator(node).run(None, {name: constants[name] for name in node.input})
            constants.update(zip(node.output, results, strict=True))
            graph.node.remove(node)
    used = {name for node in graph.node for name in node.input}
    del graph.initializer[:]
    for name, value in constants.items():
        if name in used:
            graph.initializer.append(onnx.numpy_helper.from_array(value, name))
