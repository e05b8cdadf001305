"""Writes a trained net as an ONNX file and scores it with ONNX Runtime.

python -m export.onnx output/ckpt face.onnx --pairs lfw.np
"""

from __future__ import annotations

if not __package__:
    raise SystemExit("Start this program in the project's folder: python -m export.onnx")

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.embedding.model_card import METADATA_KEY
from export.file_export import ExportOptions, FileFormat, run_exporter
from export.onnx_graph import to_onnx

if TYPE_CHECKING:
    import numpy as np

    from nets.backbone import Backbone

_CALIBRATION_BATCH = 25  # images


class OnnxOptions(ExportOptions):
    """Flags of `export.onnx`."""

    suffix = ".onnx"
    packages = ("onnxruntime", "tf2onnx")


def write_onnx(
    backbone: Backbone, path: Path, face_size: tuple[int, int], precision: str, images: np.ndarray | None
) -> None:
    """Writes a net as an ONNX file.

    `FileFormat` explains the arguments, `export.onnx_graph.to_onnx` the inputs and outputs.

    With float16, each kernel is stored in 16 bits and followed by a cast to float32. ONNX Runtime casts it
    once, when it loads the file, and is then as fast as with float32. (ONNX Runtime has no float16 kernels
    for most CPUs, so a graph in float16 would cast every activation on every call.) With int8, the dense
    layer and all convolutions but the first compute in int8, with one scale for each output channel of a
    kernel.
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
    # ONNX Runtime warns that its optimizer did not run first. This net does not need it.
    logging.disable(logging.WARNING)
    try:
        quantization.quantize_static(
            model,
            path,
            Batches(),
            op_types_to_quantize=["Conv", "Gemm", "MatMul"],
            nodes_to_exclude=[next(node.name for node in model.graph.node if node.op_type == "Conv")],
            per_channel=True,
            # Averages the ranges over batches, so that one face with large activations does not widen them.
            extra_options={"CalibMovingAverage": True, "CalibMovingAverageConstant": 0.1},
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
