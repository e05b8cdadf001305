"""Writes a trained net as a TFLite file and scores it with LiteRT.

python -m export.tflite output/ckpt face.tflite --pairs lfw.np
"""

from __future__ import annotations

if not __package__:
    raise SystemExit("Start this program in the project's folder: python -m export.tflite")

import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.file_export import ExportOptions, FileFormat, embedding_function, run_exporter
from nets.importers.saved_model import CARD_NAME

if TYPE_CHECKING:
    import numpy as np

    from nets.backbone import Backbone

# Operations that stay in float32, although the converter could quantise them. The length of an embedding
# would be rounded to about a hundred steps, and sums and norms would cost accuracy. LiteRT has no fast PRelu
# in int8: the net would take three times as long.
_NOT_IN_INT8 = ("ADD", "L2_NORMALIZATION", "MUL", "PRELU", "SQRT", "SUB", "SUM")


class TfliteOptions(ExportOptions):
    """Flags of `export.tflite`."""

    suffix = ".tflite"
    packages = ("ai_edge_litert",)


def write_tflite(
    backbone: Backbone, path: Path, face_size: tuple[int, int], precision: str, images: np.ndarray | None
) -> None:
    """Writes a net as a TFLite file. `FileFormat` explains the arguments.

    The signature `serving_default` computes `export.file_export.embedding_function`. For another batch size,
    resize the input or call the signature. With float16, LiteRT converts the weights to float32 when it loads
    the file on a CPU. With int8, convolutions and the dense layer compute in int8, with one scale for each
    output channel of a kernel.
    """
    import tensorflow as tf

    embed = embedding_function(backbone, face_size, rectified=True)
    module: Any = tf.Module()
    module.variables_to_save = [variable.value for variable in embed.net.variables]
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, signatures={"serving_default": embed})
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["serving_default"])
        if precision == "float16":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.target_spec.supported_types = [tf.float16]
        content: Any = converter.convert() if images is None else _quantize(converter, images)
    path.write_bytes(content)


def _quantize(converter, images):
    """Converts to int8, except `_NOT_IN_INT8`. The converter's public API cannot exclude operations."""
    import tensorflow as tf
    from tensorflow.lite.python.convert import mlir_quantize

    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([image[None]] for image in images)
    converter._experimental_calibrate_only = True
    return mlir_quantize(converter.convert(), denylisted_ops=list(_NOT_IN_INT8))


def _add_card(path: Path, card: str) -> None:
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(CARD_NAME, card)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the program. Raises `SystemExit` with a message if the net cannot be exported."""
    summary = (__doc__ or "").splitlines()[0]
    run_exporter("export.tflite", summary, TfliteOptions, FileFormat(write_tflite, _add_card), argv)


if __name__ == "__main__":
    main()
