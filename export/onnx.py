"""Write a trained net as an ONNX file and score it with ONNX Runtime.

python -m export.onnx output/ckpt face.onnx --pairs lfw.np
"""

from __future__ import annotations

if not __package__:
    raise SystemExit("Start this program in the project's folder: python -m export.onnx")

import argparse
import dataclasses
import importlib.util
import json
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.files import atomic_file, readable_size
from common.options import exit_on_errors, option, parse_options
from dataset.pairs.image_pairs import read_pairs
from eval.embedding.input_format import PLAIN_PIXELS
from eval.embedding.onnx_file import OnnxModel
from export.scoring import compare_models, describe
from nets.start_tensorflow import start_tensorflow

if TYPE_CHECKING:
    import onnx

    from nets.backbone import Backbone

_OPSET = 18
_PACKAGES = ("onnxruntime", "tf2onnx")
_INPUT_KEY = "input_format"  # of the metadata


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnnxOptions:
    """Model, output and pairs."""

    model_path: Path = option(help="training checkpoint, or a net in any other format", flags=("model_path",))
    out: Path = option(help="ONNX file to write", flags=("out",))
    pairs: Path = option(help="score the file on these pairs: lfw.np, or a .bin file of InsightFace")
    face_size: tuple[int, int] = option((112, 112), "size of the faces", nargs=2, metavar=("H", "W"))
    max_drop: float = option(
        0.005, "write nothing if the accuracy on the pairs falls by more than X", minimum=0
    )
    overwrite: bool = option(False, "replace an existing file")

    def problems(self) -> Iterator[str]:
        """Yields a sentence for each wrong value, and one if a package is missing."""
        missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
        if missing:
            yield f"{' and '.join(missing)} not installed. Run: pip install -r requirements-export.txt"
        if self.out.suffix != ".onnx":
            yield f"out is {self.out}. Give a name that ends in .onnx."
        elif self.out.exists() and not self.overwrite:
            yield f"{self.out}: exists already. Give another name, or --overwrite."


def to_onnx(backbone: Backbone, face_size: tuple[int, int] = (112, 112)) -> onnx.ModelProto:
    """Converts a net to ONNX, from faces to embeddings, in float32.

    - Input `images`: uint8 `(batch, *face_size, 3)`, RGB. Cropping and normalising are part of the file.
    - Output `embedding`: float32 `(batch, dim)`, of unit length.
    - Output `norm`: float32 `(batch,)`, the length before.

    The size of the batch is free. The conversion takes about 40 times the memory of the weights: 8 GB for
    IR-50.

    Raises:
        ValueError: the faces are smaller than the net's input.
    """
    import onnx
    import tensorflow as tf
    import tf2onnx

    from dataset.preprocess import preprocess
    from nets.inference import in_float32, inference_net

    net = in_float32(backbone)
    fast = inference_net(net)
    image_size = net.input_shape[1:3]

    @tf.function(input_signature=[tf.TensorSpec((None, *face_size, 3), tf.uint8, name="images")])
    def embed(images):
        embedding = fast(preprocess(images, image_size), training=False)
        return {"embedding": tf.math.l2_normalize(embedding, axis=1), "norm": tf.norm(embedding, axis=1)}

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


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the program. Raises `SystemExit` with a message if the net cannot be exported."""
    parser = argparse.ArgumentParser(
        prog="python -m export.onnx", description=(__doc__ or "").splitlines()[0]
    )
    options = parse_options(parser, OnnxOptions, argv)
    with exit_on_errors("export.onnx"):
        _export(options)


def _export(options: OnnxOptions) -> None:
    pairs = read_pairs(options.pairs)
    if pairs.image_size != options.face_size:
        sizes = f"{pairs.image_size}, --face_size is {options.face_size}"
        raise ValueError(f"{options.pairs}: has images of {sizes}. Give pairs of the same size.")
    start_tensorflow()
    from eval.embedding.face_model import FaceModel
    from nets.backbone import load_backbone
    from nets.inference import in_float32

    backbone = load_backbone(options.model_path)
    content = to_onnx(backbone, options.face_size).SerializeToString()
    reference = FaceModel.from_backbone(in_float32(backbone), options.face_size)
    # The file gets its name only if it scores well.
    with atomic_file(options.out) as file:
        file.write(content)
        file.flush()
        exported = OnnxModel(Path(file.name), options.face_size)
        comparison = compare_models(reference, exported, pairs)
        print(f"Size : {readable_size(len(content))}")
        print("\n".join(describe(comparison)))
        if comparison.difference < -options.max_drop:
            raise ValueError(
                f"{options.out}: not written. The accuracy falls by {-comparison.difference:.5f}, "
                f"more than --max_drop {options.max_drop}."
            )
    print(options.out)


if __name__ == "__main__":
    main()
