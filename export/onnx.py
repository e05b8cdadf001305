"""Write a trained net as an ONNX file and score it with ONNX Runtime.

python -m export.onnx output/ckpt face.onnx --pairs lfw.np
"""

from __future__ import annotations

if not __package__:
    raise SystemExit("Start this program in the project's folder: python -m export.onnx")

import dataclasses
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.embedding.input_format import PLAIN_PIXELS
from eval.embedding.model_card import METADATA_KEY
from export.file_export import ExportOptions, FileFormat, embedding_function, run_exporter

if TYPE_CHECKING:
    import numpy as np
    import onnx

    from nets.backbone import Backbone

_OPSET = 18
_INPUT_KEY = "input_format"  # of the metadata
_CALIBRATION_BATCH = 25


class OnnxOptions(ExportOptions):
    """Model, output and pairs."""

    suffix = ".onnx"
    packages = ("onnxruntime", "tf2onnx")


def to_onnx(backbone: Backbone, face_size: tuple[int, int] = (112, 112)) -> onnx.ModelProto:
    """Converts a net to ONNX in float32; see `export.file_export.embedding_function` for inputs and outputs.

    The size of the batch is free. The conversion takes about 40 times the memory of the weights: 8 GB for
    IR-50.

    Raises:
        ValueError: the faces are smaller than the net's input.
    """
    import onnx
    import tf2onnx

    from nets.inference import in_float32

    net = in_float32(backbone)
    embed = embedding_function(net, face_size)
    # Otherwise tf2onnx copies the net before each of its many passes.
    os.environ.setdefault("TF2ONNX_CATCH_ERRORS", "FALSE")
    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)  # It reports a rewrite that it skips as an error.
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
    """Replaces `max(x, slope * x)`, the PReLU of `nets.inference.inference_net`, by ONNX's PRelu."""
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


def write_onnx(
    backbone: Backbone, path: Path, face_size: tuple[int, int], precision: str, images: np.ndarray | None
) -> None:
    """Writes a net as an ONNX file; see `to_onnx` and `export.file_export.FileFormat`.

    With float16, each kernel is stored in 16 bits and followed by a cast. ONNX Runtime casts it once, when it
    loads the file, and is as fast as with float32. (It has no kernels for float16 on most CPUs, and would
    cast all activations again and again.) With int8, convolutions and the dense layer compute in int8, with
    a scale for each channel of a kernel.
    """
    model = to_onnx(backbone, face_size)
    if images is not None:
        _quantize(model, path, images)
        return
    if precision == "float16":
        _store_in_16_bits(model.graph)
    path.write_bytes(model.SerializeToString())


def _store_in_16_bits(graph):
    import numpy as np
    import onnx

    kernels = {
        name for node in graph.node if node.op_type in ("Conv", "Gemm", "MatMul") for name in node.input[1:2]
    }
    casts = []
    for tensor in graph.initializer:
        if tensor.name in kernels:
            name, stored = tensor.name, f"{tensor.name}/float16"
            values = onnx.numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, stored))
            casts.append(onnx.helper.make_node("Cast", [stored], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _quantize(model, path, images):
    from onnxruntime import quantization

    class Batches(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self._starts = iter(range(0, len(images), _CALIBRATION_BATCH))

        def get_next(self) -> dict[str, Any] | None:
            start = next(self._starts, None)
            return None if start is None else {"images": images[start : start + _CALIBRATION_BATCH]}

    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)  # It advises to run its optimizer first, which this net does not need.
    try:
        quantization.quantize_static(
            model, path, Batches(), op_types_to_quantize=["Conv", "Gemm", "MatMul"], per_channel=True
        )
    finally:
        logging.disable(disabled)


def _add_card(path: Path, card: str) -> None:
    import onnx

    model = onnx.load(str(path))
    model.metadata_props.add(key=METADATA_KEY, value=card)
    path.write_bytes(model.SerializeToString())


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the program. Raises `SystemExit` with a message if the net cannot be exported."""
    summary = (__doc__ or "").splitlines()[0]
    run_exporter("export.onnx", summary, OnnxOptions, FileFormat(write_onnx, _add_card), argv)


if __name__ == "__main__":
    main()
