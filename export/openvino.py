"""Writes a trained net for OpenVINO, as an .xml and a .bin file, and scores it with OpenVINO.

python -m export.openvino output/ckpt face.xml --pairs lfw.np
"""

from __future__ import annotations

if not __package__:
    raise SystemExit("Start this program in the project's folder: python -m export.openvino")

import contextlib
import io
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from eval.embedding.model_card import METADATA_KEY
from export.file_export import ExportOptions, FileFormat, run_exporter
from export.onnx_graph import to_onnx

if TYPE_CHECKING:
    import numpy as np

    from nets.backbone import Backbone


class OpenVinoOptions(ExportOptions):
    """Flags of `export.openvino`."""

    suffix = ".xml"
    packages = ("nncf", "openvino", "tf2onnx")

    def problems(self) -> Iterator[str]:
        """Yields a sentence for each wrong value, and one if the .bin file would replace another file."""
        yield from super().problems()
        weights = self.out.with_suffix(".bin")
        if weights.exists() and not self.out.exists():
            yield f"{weights}: exists, but the weights of {self.out} need this name. Give another OUT."


def write_openvino(
    backbone: Backbone, path: Path, face_size: tuple[int, int], precision: str, images: np.ndarray | None
) -> None:
    """Writes a net as `NAME.xml` and `NAME.bin`.

    `FileFormat` explains the arguments, `export.onnx_graph.to_onnx` the inputs and outputs.

    The net is converted to ONNX first, where each PReLU can become a single operation. With float16,
    OpenVINO converts the weights back to float32 when it loads the file on a CPU. With int8, NNCF quantises
    the operations that OpenVINO can compute in int8, with weights of 7 bits, so that processors without VNNI
    compute correctly, too. The embedding and its normalisation stay in float32.
    """
    import openvino

    model = to_onnx(backbone, face_size)
    _fuse_prelu(model.graph)
    net = openvino.Core().read_model(model.SerializeToString())
    if images is not None:
        net = _quantize(net, images)
    openvino.save_model(net, path, compress_to_fp16=precision != "float32")


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


def _quantize(net, images):
    import nncf

    nncf.set_log_level(logging.ERROR)
    ignored = nncf.IgnoredScope(names=list(_after_last_product(net)), validate=False)
    # Older processors add pairs of products in 16 bits, which weights of 8 bits can overflow.
    advanced = nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE)
    with contextlib.redirect_stdout(io.StringIO()):  # hides progress bars
        return nncf.quantize(
            net,
            nncf.Dataset(images[:, None]),
            subset_size=len(images),
            ignored_scope=ignored,
            advanced_parameters=advanced,
        )


def _after_last_product(net):
    """Yields the names of the operations after the last layer with weights."""
    operations = net.get_ordered_ops()
    kinds = [operation.get_type_name() for operation in operations]
    last = max(place for place, kind in enumerate(kinds) if kind in ("Convolution", "MatMul"))
    for operation, kind in zip(operations[last + 1 :], kinds[last + 1 :], strict=True):
        if kind not in ("Constant", "Result"):
            yield operation.get_friendly_name()


def _add_card(path: Path, card: str) -> None:
    tree = ElementTree.parse(path)
    info = tree.find("rt_info")
    if info is None:
        info = ElementTree.SubElement(tree.getroot(), "rt_info")
    ElementTree.SubElement(info, METADATA_KEY, value=card)
    tree.write(path)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the program. Raises `SystemExit` with a message if the net cannot be exported."""
    summary = (__doc__ or "").splitlines()[0]
    run_exporter("export.openvino", summary, OpenVinoOptions, FileFormat(write_openvino, _add_card), argv)


if __name__ == "__main__":
    main()
