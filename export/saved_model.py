"""Writes a trained net as a SavedModel for TensorFlow Serving, or as a .keras file.

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
from eval.embedding.model_card import write_card
from eval.scoring.templates import NORM_POWERS, RECOMMENDED_POOLING
from export.card import card_of_source, describe_net
from nets.start_tensorflow import start_tensorflow

if TYPE_CHECKING:
    from nets.backbone import Backbone

# Suffix of `--out` -> module with a function `export(backbone, path, face_size)`. Other names: a SavedModel.
_EXPORTERS = {".keras": "export.keras_file"}
# Suffixes that `--out` may not have, because a SavedModel folder with such a name would look like a file.
_OTHER_FORMATS = (
    *(".bin", ".caffemodel", ".ckpt", ".engine", ".h5", ".hdf5", ".mlmodel", ".mlpackage", ".npz", ".onnx"),
    *(".params", ".pb", ".pt", ".pth", ".safetensors", ".tflite", ".xml", ".zip"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """The model, and where to write it."""

    model_path: Path = option(help="training checkpoint, or a net in any other format")
    out: Path = option(
        help=f"folder to write a SavedModel to, or a file whose name ends in {', '.join(_EXPORTERS)}"
    )
    face_size: tuple[int, int] = option(
        (112, 112), "height and width of the faces", nargs=2, metavar=("H", "W")
    )
    pooling: str = option(
        RECOMMENDED_POOLING,
        "how the SavedModel's signature `template` pools the frames of a video",
        choices=tuple(NORM_POWERS),
    )
    overwrite: bool = option(False, "replace an existing model")

    def problems(self) -> Iterator[str]:
        """Yields a sentence if the output has the suffix of another format."""
        suffix = self.out.suffix.lower()
        if suffix in _OTHER_FORMATS and suffix not in _EXPORTERS:
            program = {".xml": ".openvino"}.get(suffix, suffix)
            other = (
                f" Use python -m export{program}, or give"
                if importlib.util.find_spec(f"export{program}")
                else " Give"
            )
            yield (
                f"--out {self.out}: this program does not write {suffix} files.{other} a folder name for a "
                f"SavedModel, or a file name that ends in {', '.join(_EXPORTERS)}."
            )


def export_saved_model(
    backbone: Backbone,
    path: Path,
    face_size: tuple[int, int] = (112, 112),
    card: dict[str, Any] | None = None,
    *,
    pooling: str = RECOMMENDED_POOLING,
    overwrite: bool = False,
) -> None:
    """Writes a SavedModel in float32, whatever precision the net was trained in.

    You can run it without this project: `tf.saved_model.load(path).signatures[name](images=...)`. The
    signatures share their weights. The number of images `n` is free and may be 0.

    - `serving_default`: uint8 `images` `(n, *face_size, 3)`, RGB -> float32 `embedding` `(n, dim)` of
      unit length, and `norm` `(n,)`, its length before normalisation. It crops the images, orders their
      channels and normalises them.
    - `embed_bgr`: the same for BGR `images`, as OpenCV reads them.
    - `embed_jpeg`: the same for string `images` `(n,)`, each the bytes of a JPEG or PNG file of `face_size`.
    - `template`: uint8 `images` as for `serving_default`, and int64 `video` `(n,)`, the number of the video
      that each image belongs to -> `template` `(num_videos, dim)` of unit length, and `video`
      `(num_videos,)`, the numbers in ascending order. See `eval.scoring.templates.pool`.
    - `raw`: float32 `images` `(n, *image_size, 3)`, cropped, BGR, normalised -> `embedding` `(n, dim)`,
      not normalised.

    All signatures use the faster net of `nets.inference.inference_net`, and refuse images of another size.
    The SavedModel also holds the variables of the original net and `net.json`, from which
    `nets.load_backbone` rebuilds the net to train it further. `model_card.json` describes the net and the
    signatures; see `eval.embedding.model_card`.

    The folder appears complete or not at all.

    Args:
        backbone: net in any precision.
        path: folder to write.
        face_size: `(height, width)` of the faces, at least the net's input size.
        card: further values for the model card.
        pooling: how `template` pools the frames of a video, a key of `NORM_POWERS`.
        overwrite: whether to replace a SavedModel at `path`.

    Raises:
        FileExistsError: `path` exists and may not be replaced.
        OSError: the model could not be written, for instance because the disk is full.
        ValueError: the faces are smaller than the net's input.
    """
    import tensorflow as tf

    from export.signatures import describe_signatures, make_signatures
    from nets.importers.saved_model import NET_NAME, VARIABLES
    from nets.inference import in_float32, inference_net

    _check_output(path, overwrite)
    net = in_float32(backbone)
    fast = inference_net(net)
    signatures = make_signatures(fast, face_size, pooling)
    module = tf.Module()
    for name, owner in ((VARIABLES, net), ("fast", fast)):
        setattr(module, name, [variable.value for variable in owner.variables])
    with atomic_folder(path) as folder:
        try:
            tf.saved_model.save(module, str(folder), signatures=signatures)
        except tf.errors.OpError as error:
            raise OSError(f"{path}: cannot write the model: {one_line(error.message)}") from None
        (folder / NET_NAME).write_text(json.dumps(net.net) + "\n")
        described = {"signatures": describe_signatures(signatures), "pooling": pooling}
        write_card(folder, {**(card or {}), **describe_net(net.net, face_size), **described})


def _check_output(path, overwrite):
    from nets.importers.saved_model import is_saved_model

    if not path.exists():
        return
    if not overwrite:
        raise FileExistsError(f"{path}: already exists. Give --overwrite to replace it, or another --out.")
    if path.is_dir() == (path.suffix in _EXPORTERS) or (path.is_dir() and not is_saved_model(path)):
        raise FileExistsError(f"{path}: exists, but is not a model of this format. Give another --out.")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the program. Raises `SystemExit` with a message if the net cannot be exported."""
    parser = argparse.ArgumentParser(
        prog="python -m export.saved_model", description=(__doc__ or "").splitlines()[0]
    )
    options = parse_options(parser, ExportOptions, argv)
    exporter = _EXPORTERS.get(options.out.suffix)
    with exit_on_errors("export.saved_model"):
        _check_output(options.out, options.overwrite)
        if exporter:
            export = importlib.import_module(exporter).export
        else:
            export = functools.partial(
                export_saved_model,
                card=card_of_source(options.model_path),
                pooling=options.pooling,
                overwrite=options.overwrite,
            )
        start_tensorflow()
        from nets.backbone import load_backbone

        export(load_backbone(options.model_path), options.out, options.face_size)
    print(options.out)


if __name__ == "__main__":
    main()
