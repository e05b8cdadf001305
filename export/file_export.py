"""Flags and steps that the exporters of ONNX, TFLite and OpenVINO files share."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from common.files import atomic_files, file_sha256, readable_size
from common.options import exit_on_errors, option, parse_options
from dataset.pairs.image_pairs import read_pairs
from eval.scoring.calibration import calibrate
from export.calibration_images import NUM_IMAGES, read_calibration_images
from nets.start_tensorflow import start_tensorflow

if TYPE_CHECKING:
    import numpy as np

    from nets.backbone import Backbone

PRECISIONS = ("float32", "float16", "int8")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """The model, the file to write, and the pairs to score it on."""

    suffix: ClassVar[str]  # suffix of the file to write
    packages: ClassVar[tuple[str, ...]]  # packages that this exporter needs in addition to requirements.txt

    model_path: Path = option(
        help="training checkpoint, or a net in any other format", flags=("model_path",), metavar="MODEL"
    )
    out: Path = option(help="file to write", flags=("out",), metavar="OUT")
    pairs: Path = option(
        help="pairs on which to score the file and measure thresholds: lfw.np, or an InsightFace .bin file"
    )
    precision: str = option(
        "float32",
        "float16 stores the weights in 16 bits, which halves the file; processors without float16 still "
        "compute in float32. int8 computes most layers in 8 bits, and the file shrinks to a quarter",
        choices=PRECISIONS,
    )
    calibration: Path | None = option(
        None,
        "with --precision int8: aligned faces on which to measure the value range of each layer: a folder of "
        f"converted records, a folder of images, or a file of pairs; {NUM_IMAGES} faces are drawn from it. "
        "Use training images, so that the score on the pairs stays independent",
    )
    face_size: tuple[int, int] = option(
        (112, 112), "height and width of the faces", nargs=2, metavar=("H", "W")
    )
    max_drop: float = option(
        0.005, "write no file if the accuracy on the pairs drops by more than X", minimum=0
    )
    overwrite: bool = option(False, "replace an existing file")

    def problems(self) -> Iterator[str]:
        """Yields a sentence for each wrong value, and one if packages are missing."""
        missing = [name for name in self.packages if importlib.util.find_spec(name) is None]
        if missing:
            yield f"Not installed: {', '.join(missing)}. Run: pip install -r requirements-export.txt"
        if self.out.suffix != self.suffix:
            yield f"OUT is {self.out}. Give a name that ends in {self.suffix}."
        elif self.out.exists() and not self.overwrite:
            yield f"{self.out}: already exists. Give another name, or --overwrite."
        if self.precision == "int8" and self.calibration is None:
            yield "--precision int8 needs --calibration: a folder of converted records or of aligned faces."
        elif self.precision != "int8" and self.calibration is not None:
            yield "Only --precision int8 uses --calibration. Leave it out, or give --precision int8."


class FileFormat(NamedTuple):
    """A file format to export to.

    Attributes:
        write: `write(backbone, path, face_size, precision, images)` writes a float32 net to a file. `images`
            is `None`, or for int8 the faces to calibrate with: uint8 `(n, *face_size, 3)`, RGB.
        add_card: `add_card(path, card)` stores a model card, as JSON, inside the file.
    """

    write: Callable[[Backbone, Path, tuple[int, int], str, np.ndarray | None], None]
    add_card: Callable[[Path, str], None]


def embedding_function(backbone: Backbone, face_size: tuple[int, int], *, rectified: bool = False) -> Any:
    """Builds the function that an exported file computes, from faces to embeddings.

    - Input `images`: uint8 `(batch, *face_size, 3)`, RGB. The function crops and normalises them.
    - Output `embedding`: float32 `(batch, dim)`, of unit length.
    - Output `norm`: float32 `(batch,)`, the length of the embedding before normalisation.

    Args:
        backbone: net in float32.
        face_size: `(height, width)` of the faces, at least the net's input size.
        rectified: see `nets.inference.inference_net`.

    Returns:
        `tf.function`. Its attribute `net` is the net that it computes, a `keras.Model`.

    Raises:
        ValueError: the faces are smaller than the net's input.
    """
    import tensorflow as tf

    from dataset.preprocess import preprocess
    from nets.inference import inference_net

    fast = inference_net(backbone, rectified)
    image_size = backbone.input_shape[1:3]

    @tf.function(input_signature=[tf.TensorSpec((None, *face_size, 3), tf.uint8, name="images")])
    def embed(images):
        embedding = fast(preprocess(images, image_size), training=False)
        return {"embedding": tf.math.l2_normalize(embedding, axis=1), "norm": tf.norm(embedding, axis=1)}

    embed.net = fast
    return embed


def run_exporter(
    program: str,
    description: str,
    options_class: type[ExportOptions],
    file_format: FileFormat,
    argv: Sequence[str] | None,
) -> None:
    """Runs an export program from its command line. Raises `SystemExit` with a message if it fails.

    Args:
        program: name of the module, such as `export.onnx`.
        description: what the program does, for `--help`.
        argv: arguments of the program; `None` takes those of this process.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {program}", description=description)
    options = parse_options(parser, options_class, argv)
    with exit_on_errors(program):
        _export(options, file_format)
    print(options.out)


def _export(options, file_format):
    pairs = read_pairs(options.pairs)
    if pairs.image_size != options.face_size:
        raise ValueError(
            "{}: the images are {}x{}, but --face_size is {} {}. Give other pairs, or another "
            "--face_size.".format(options.pairs, *pairs.image_size, *options.face_size)
        )
    images = None
    if options.calibration is not None:
        images = read_calibration_images(options.calibration, options.face_size)
    start_tensorflow()
    from eval.embedding.embedder import load_embedder
    from eval.embedding.face_model import FaceModel
    from eval.embedding.model_card import ModelCard
    from export.card import card_of_source, describe_net
    from export.scoring import compare, describe, measure_speeds, score_model
    from nets.backbone import load_backbone
    from nets.inference import in_float32

    backbone = in_float32(load_backbone(options.model_path))
    reference = FaceModel.from_backbone(backbone, options.face_size)
    # The file appears under its final name only if it scores well.
    with atomic_files(options.out) as path:
        file_format.write(backbone, path, options.face_size, options.precision, images)
        exported = load_embedder(path, options.face_size)
        scores = score_model(exported.model, pairs)
        comparison = compare(score_model(reference, pairs), scores)
        print(f"Size : {readable_size(sum(file.stat().st_size for file in path.parent.iterdir()))}")
        print("\n".join(describe(comparison, measure_speeds(exported.model, pairs.batch(0, 2)))))
        drop = -comparison.differences["accuracy"].value
        if drop > options.max_drop:
            raise ValueError(
                f"{options.out}: not written, because the accuracy drops by {drop:.5f}, "
                f"more than --max_drop {options.max_drop}. Try another --precision, or raise --max_drop."
            )
        calibration = calibrate(
            1 - scores.distances,
            pairs.is_same,
            kind="single",
            name=options.pairs.stem,
            identities=scores.identities,
            files={options.pairs.name: file_sha256(options.pairs)},
        )
        # The thresholds of the source do not apply: they were measured with its own embeddings.
        source = {**card_of_source(options.model_path), "calibrations": None}
        net = describe_net(backbone.net, options.face_size)
        card = ModelCard({**source, **net, "precision": options.precision}).with_calibration(calibration)
        file_format.add_card(path, card.to_embed())
    print("\n".join(calibration.lines()))
