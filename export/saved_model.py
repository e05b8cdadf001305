"""Write a trained net as a SavedModel for TensorFlow Serving, or as a file for another program.

python -m export.saved_model --model_path=output/ckpt --out=model
"""

from __future__ import annotations

if not __package__:
    raise SystemExit("Start this program in the project's folder: python -m export.saved_model")

import argparse
import dataclasses
import functools
import importlib.util
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.files import atomic_folder, one_line
from common.options import exit_on_errors, option, parse_options
from nets.start_tensorflow import start_tensorflow

if TYPE_CHECKING:
    from nets.backbone import Backbone

# Suffix of `--out` -> module with a function `export(backbone, path, face_size)`. Any other: a SavedModel.
_EXPORTERS = {".keras": "export.keras_file"}
# Formats that this program does not write: a folder of such a name would be mistaken for a file.
_OTHER_FORMATS = (
    *(".bin", ".caffemodel", ".ckpt", ".engine", ".h5", ".hdf5", ".mlmodel", ".mlpackage", ".npz", ".onnx"),
    *(".params", ".pb", ".pt", ".pth", ".safetensors", ".tflite", ".xml", ".zip"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Model and output."""

    model_path: Path = option(help="training checkpoint, or a net in any other format")
    out: Path = option(
        help=f"folder of the SavedModel to write, or a file that ends in {', '.join(_EXPORTERS)}"
    )
    face_size: tuple[int, int] = option((112, 112), "size of the faces", nargs=2, metavar=("H", "W"))
    overwrite: bool = option(False, "replace an existing model")

    def problems(self) -> Iterator[str]:
        """Yields a sentence if the output has the suffix of another format."""
        suffix = self.out.suffix.lower()
        if suffix in _OTHER_FORMATS and suffix not in _EXPORTERS:
            other = f" python -m export{suffix} does." if importlib.util.find_spec(f"export{suffix}") else ""
            yield (
                f"--out {self.out}: this program does not write {suffix} files.{other} Give the name of a "
                f"folder for a SavedModel, or of a file that ends in {', '.join(_EXPORTERS)}."
            )


def export_saved_model(
    backbone: Backbone,
    path: Path,
    face_size: tuple[int, int] = (112, 112),
    card: dict[str, Any] | None = None,
    *,
    overwrite: bool = False,
) -> None:
    """Writes a SavedModel with two signatures, in float32 whatever precision the net was trained in.

    - `serving_default`: uint8 `images` `(n, *face_size, 3)`, RGB -> float32 `embedding` `(n, dim)` of
      unit length, and `norm` `(n,)`, its length before. It crops, orders the channels and normalises.
    - `raw`: float32 `images` `(n, *image_size, 3)`, cropped, BGR, normalised -> `embedding` `(n, dim)`,
      not normalised.

    Both call the net in the faster form of `nets.inference.inference_net`. The SavedModel also holds the
    variables of the net itself and `net.json`: `nets.load_backbone` rebuilds the net from them to train it
    further.

    The folder appears complete or not at all. With `card`, its values are in `model_card.json`. Both
    signatures refuse images of another size, and give `(0, dim)` for none.

    Args:
        overwrite: replace a SavedModel at `path`.

    Raises:
        FileExistsError: `path` exists and may not be replaced.
        OSError: the model could not be written, for instance because the disk is full.
        ValueError: the faces are smaller than the net's input.
    """
    import tensorflow as tf

    from dataset.preprocess import preprocess
    from nets.importers.saved_model import NET_NAME, VARIABLES
    from nets.inference import in_float32, inference_net

    _check_output(path, overwrite)
    net = in_float32(backbone)
    fast = inference_net(net)
    image_size = net.input_shape[1:3]

    @tf.function(input_signature=[tf.TensorSpec((None, *face_size, 3), tf.uint8, name="images")])
    def serve(images):
        embedding = _embed(fast, preprocess(_check_shape(images), image_size))
        norm = tf.norm(embedding, axis=1)
        return {"embedding": tf.math.l2_normalize(embedding, axis=1), "norm": norm}

    @tf.function(input_signature=[tf.TensorSpec((None, *image_size, 3), tf.float32, name="images")])
    def raw(images):
        return {"embedding": _embed(fast, _check_shape(images))}

    module = tf.Module()
    for name, owner in ((VARIABLES, net), ("fast", fast)):
        setattr(module, name, [variable.value for variable in owner.variables])
    with atomic_folder(path) as folder:
        try:
            tf.saved_model.save(module, str(folder), signatures={"serving_default": serve, "raw": raw})
        except tf.errors.OpError as error:
            raise OSError(f"{path}: cannot write the model: {one_line(error.message)}") from None
        (folder / NET_NAME).write_text(json.dumps(net.net) + "\n")
        if card is not None:
            (folder / "model_card.json").write_text(json.dumps(card, indent=1) + "\n")


def _check_output(path, overwrite):
    from nets.importers.saved_model import is_saved_model

    if not path.exists():
        return
    if not overwrite:
        raise FileExistsError(f"{path}: exists already. Give --overwrite to replace it, or another --out.")
    if path.is_dir() == (path.suffix in _EXPORTERS) or (path.is_dir() and not is_saved_model(path)):
        raise FileExistsError(f"{path}: exists and is another kind of model, or none. Give another --out.")


def _check_shape(images):
    """Returns the images, after a comparison of their shape with the signature's when the model runs.

    TensorFlow does not compare them itself. It would leave the comparison out if it saw the shape in the
    signature, so the shape is hidden first.
    """
    import tensorflow as tf

    hidden = tf.raw_ops.PlaceholderWithDefault(input=images, shape=tf.TensorShape(None))
    return tf.ensure_shape(hidden, images.shape, name="images")


def _embed(net, images):
    """Embeds images. An empty batch, which convolutions refuse, is filled with one image that is removed."""
    import tensorflow as tf

    num_images = tf.shape(images)[0]
    num_added = tf.cast(tf.equal(num_images, 0), tf.int32)
    filled = tf.pad(images, [[0, num_added], [0, 0], [0, 0], [0, 0]])
    filled = tf.reshape(filled, (-1, *images.shape[1:]))  # tells converters the shape
    return net(filled, training=False)[:num_images]


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the program. Raises `SystemExit` with a message if the net cannot be exported."""
    parser = argparse.ArgumentParser(
        prog="python -m export.saved_model", description=(__doc__ or "").splitlines()[0]
    )
    options = parse_options(parser, ExportOptions, argv)
    exporter = _EXPORTERS.get(options.out.suffix)
    export = functools.partial(export_saved_model, overwrite=options.overwrite)
    if exporter:
        export = importlib.import_module(exporter).export
    start_tensorflow()
    from nets.backbone import load_backbone

    with exit_on_errors("export.saved_model"):
        _check_output(options.out, options.overwrite)
        export(load_backbone(options.model_path), options.out, options.face_size)
    print(options.out)


if __name__ == "__main__":
    main()
