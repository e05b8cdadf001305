"""Converts a trained net to an ONNX graph."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from typing import TYPE_CHECKING, Any

from eval.embedding.input_format import PLAIN_PIXELS
from export.file_export import embedding_function

if TYPE_CHECKING:
    import onnx

    from nets.backbone import Backbone

_OPSET = 18
_INPUT_KEY = "input_format"  # of the metadata


def to_onnx(backbone: Backbone, face_size: tuple[int, int] = (112, 112)) -> onnx.ModelProto:
    """Converts a net to ONNX in float32; see `export.file_export.embedding_function` for inputs and outputs.

    The model accepts batches of any size. The conversion needs about 40 times the memory of the weights: 8 GB
    for IR-50.

    Args:
        backbone: net in any precision.
        face_size: `(height, width)` of the faces, at least the net's input size.

    Raises:
        ValueError: the faces are smaller than the net's input.
    """
    import onnx
    import tf2onnx

    from nets.inference import in_float32

    net = in_float32(backbone)
    embed = embedding_function(net, face_size)
    # By default tf2onnx copies the net before each of its many passes, to undo a pass that fails.
    os.environ.setdefault("TF2ONNX_CATCH_ERRORS", "FALSE")
    # tf2onnx logs a rewrite that it skips as an error.
    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)
    model, _ = tf2onnx.convert.from_function(embed, input_signature=embed.input_signature, opset=_OPSET)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    _fuse_prelu(model.graph)
    values = {_INPUT_KEY: json.dumps(dataclasses.asdict(PLAIN_PIXELS)), "net": json.dumps(net.net)}
    onnx.helper.set_model_props(model, values)
    model.producer_name = "margin-centre-face"
    onnx.checker.check_model(model)
    return model


def _fuse_prelu(graph: Any) -> None:
    """Replaces `max(x, slope * x)`, the PReLU of `nets.inference.inference_net`, with a PRelu node."""
    import onnx

    producers = {node.output[0]: node for node in graph.node}
    uses = [name for node in graph.node for name in node.input]
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in list(graph.node):
        if node.op_type != "Max" or len(node.input) != 2:
            continue
        for inputs, product in (node.input, reversed(node.input)):
            scaled = producers.get(product)
            if scaled is None or scaled.op_type != "Mul" or uses.count(product) > 1:
                continue
            slopes = [name for name in scaled.input if name in constants]
            if len(slopes) == 1 and inputs in scaled.input:
                prelu = onnx.helper.make_node("PRelu", [inputs, slopes[0]], node.output, name=node.name)
                node.CopyFrom(prelu)
                graph.node.remove(scaled)
                break
