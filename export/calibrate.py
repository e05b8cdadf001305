"""Measures the thresholds of a model on pairs, and writes them to its model card.

python -m export.calibrate face.onnx --pairs lfw.bin
"""

from __future__ import annotations

if not __package__:
    raise SystemExit("Start this program in the project's folder: python -m export.calibrate")

import argparse
import dataclasses
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.files import file_sha256
from common.options import exit_on_errors, option, parse_options
from dataset.config import NPDATA_ORDERS
from dataset.pairs.image_pairs import PairSet, read_pairs
from dataset.pairs.video_frames import VideoFrames, find_frames
from dataset.pairs.video_pairs import VideoPairs, read_video_pairs
from eval.embedding.embedder import Embedder, load_embedder
from eval.embedding.engines import EngineOptions
from eval.embedding.extractor import embed_images, embed_into
from eval.embedding.feature_store import FeatureStore, inputs_of_frames
from eval.embedding.input_format import crop_centre
from eval.embedding.model_card import ModelCard, read_card, write_card
from eval.scoring.calibration import Calibration, calibrate, check_pairs
from eval.scoring.coverage import coverage_of, describe_coverage, scorable_pairs
from eval.scoring.distances import pair_distances
from eval.scoring.evaluation_run import InputFrames
from eval.scoring.metrics import accuracy_interval
from eval.scoring.people import identities_of
from eval.scoring.templates import POOLINGS, RECOMMENDED_POOLING
from eval.scoring.verification import evaluate_pairs
from eval.scoring.video_distances import video_distances

# The faces of published sets have this size. Nets with a smaller input use the centre of a face.
_ALIGNED = (112, 112)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CalibrateOptions:
    """The model, and the pairs to measure its thresholds on."""

    model_path: Path = option(
        help="a model in any format that eval.test_lfw reads", flags=("model_path",), metavar="MODEL"
    )
    pairs: Path | None = option(
        None, "pairs of images, to measure thresholds for single images: an InsightFace .bin file, or lfw.np"
    )
    order: str = option("rgb", "order of the colour channels in a .np file", choices=NPDATA_ORDERS)
    splits: Path | None = option(
        None,
        "pairs of videos, to measure thresholds for templates: splits.txt or splits_corrected.txt",
        metavar="FILE",
    )
    prefix: Path | None = option(
        None, "with --splits: folder of the frames, Name/number/*.jpg", metavar="DIR"
    )
    allow_missing: bool = option(
        False, "with --splits: if frames are missing, continue with the videos that have frames"
    )
    pooling: str = option(
        RECOMMENDED_POOLING, "with --splits: how the frames of a video are pooled", choices=POOLINGS
    )
    flip: bool = option(
        False,
        "add the embedding of the mirrored face; programs that use these thresholds then do the same",
    )
    batch_size: int = option(64, "number of faces to embed at once", minimum=1)
    features: Path = option(
        Path("output/features"),
        "with --splits: folder in which to store the embeddings of frames",
        metavar="DIR",
    )
    engine: EngineOptions

    def problems(self) -> Iterator[str]:
        """Yields a sentence for each missing flag."""
        if self.pairs is None and self.splits is None:
            yield "--pairs and --splits are both missing. Give one of them, or both."
        if (self.splits is None) != (self.prefix is None):
            yield "--splits and --prefix belong together. Give both or neither."


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the program. Raises `SystemExit` with a message if the thresholds cannot be measured."""
    parser = argparse.ArgumentParser(
        prog="python -m export.calibrate", description=(__doc__ or "").splitlines()[0]
    )
    options = parse_options(parser, CalibrateOptions, argv)
    logging.basicConfig(format="%(message)s")
    logging.getLogger("common").setLevel(logging.INFO)  # progress
    with exit_on_errors("export.calibrate"):
        calibrate_model(options)


def calibrate_model(options: CalibrateOptions, load: Callable[..., Embedder] = load_embedder) -> None:
    """Measures and prints the thresholds of a model, and writes them to its card.

    Args:
        load: function that loads the model. Tests replace it.

    Raises:
        FileNotFoundError: the model, a set or a frame does not exist.
        ValueError: the model, its existing card or a set cannot be used.
    """
    # Check every input first, so that a bad path fails in seconds, not after hours of embedding.
    card = read_card(options.model_path)
    pairs = videos = None
    if options.pairs is not None:
        pairs = read_pairs(options.pairs, options.order)
        check_pairs(pairs.is_same, str(options.pairs))
    if options.splits is not None and options.prefix is not None:
        videos = _open_videos(options, options.splits, options.prefix)
    embedder = load(
        options.model_path, flip=options.flip, engine=options.engine, batch_size=options.batch_size
    )
    print(f"Engine : {embedder.engine}", file=sys.stderr)
    if pairs is not None:
        _check_size(options.pairs, pairs.image_size, embedder)
    if videos is not None:
        _check_size(options.prefix, videos[1].image_size, embedder)
    if pairs is not None and options.pairs is not None:
        card = _with_thresholds(card, *_calibrate_images(embedder, pairs, options.pairs))
    if videos is not None:
        card = _with_thresholds(card, *_calibrate_videos(embedder, *videos, options))
    print(f"Model card : {write_card(embedder.path, card)}")


def _open_videos(
    options: CalibrateOptions, splits: Path, prefix: Path
) -> tuple[VideoPairs, VideoFrames, np.ndarray]:
    """Returns the pairs, their frames, and a bool array `(num_pairs,)`: whether both videos have frames."""
    pairs = read_video_pairs(splits)
    frames = find_frames(prefix, pairs.videos, memo=options.features)
    coverage = coverage_of(pairs, frames, ())
    if not coverage.is_complete:
        print("\n".join(describe_coverage(coverage)))
        if not options.allow_missing:
            raise ValueError(
                f"{prefix}: frames are missing. Add them, or give --allow_missing to leave out these videos."
            )
    scorable = scorable_pairs(pairs, frames)
    check_pairs(pairs.is_same[scorable], str(splits))
    return pairs, frames, scorable


def _check_size(path, size, embedder):
    is_cropped = size == _ALIGNED and all(np.less_equal(embedder.face_size, size))
    if size != embedder.face_size and not is_cropped:
        received, taken = ("x".join(map(str, one)) for one in (size, embedder.face_size))
        raise ValueError(
            f"{path}: the faces are {received}, but the model takes {taken}. Give faces of the model's size."
        )


def _calibrate_images(embedder: Embedder, pairs: PairSet, path: Path) -> tuple[Calibration, dict[str, Any]]:
    def decode(start: int, stop: int) -> np.ndarray:
        return crop_centre(pairs.batch(start, stop), embedder.face_size)

    batches = embed_images(
        embedder.model, decode, 2 * len(pairs), embedder.batch_size, flip=embedder.flip, progress="images"
    )
    embeddings = np.concatenate(list(batches))
    distances = pair_distances(embeddings[0::2], embeddings[1::2], "cosine")
    calibration = calibrate(
        1 - distances,
        pairs.is_same,
        kind="single",
        name=path.stem,
        flip=embedder.flip,
        files={path.name: file_sha256(path)},
    )
    return calibration, _score(distances, pairs.is_same)


def _calibrate_videos(
    embedder: Embedder,
    pairs: VideoPairs,
    frames: VideoFrames,
    scorable: np.ndarray,
    options: CalibrateOptions,
) -> tuple[Calibration, dict[str, Any]]:
    def decode(start: int, stop: int) -> np.ndarray:
        return crop_centre(frames.decode(start, stop), embedder.face_size)

    crop = None if embedder.face_size == frames.image_size else embedder.face_size
    described = InputFrames(str(frames.prefix), frames.sha256, frames.image_size, crop, embedder.flip)
    # `eval.test_ytf` describes its inputs in the same way, so the two programs share stored embeddings.
    inputs = inputs_of_frames(embedder.sha256, described, embedder.engine)
    first, second, is_same = (values[scorable] for values in (pairs.first, pairs.second, pairs.is_same))
    with FeatureStore(options.features, inputs, len(frames)) as store:
        if not store.is_complete:
            embed_into(
                store, embedder.model, decode, embedder.batch_size, flip=embedder.flip, progress="frames"
            )
        videos = (store.features, frames.offsets, first, second)
        distances = video_distances(*videos, [options.pooling], progress=True)[options.pooling]
    calibration = calibrate(
        1 - distances,
        is_same,
        kind="template",
        name=pairs.path.stem,
        flip=embedder.flip,
        pooling=options.pooling,
        identities=identities_of(pairs.videos, first, second),
        files={pairs.path.name: file_sha256(pairs.path), "frames": frames.sha256},
    )
    splits = pairs.splits[scorable]
    return calibration, _score(distances, is_same, splits if len(set(splits.tolist())) > 1 else None)


def _score(distances, is_same, folds=None):
    """Returns the accuracy and its 95 % interval, for the card."""
    result = evaluate_pairs(distances, is_same, folds=folds)
    return {"accuracy": result.accuracy, "interval": accuracy_interval(result.fold_accuracies)}


def _with_thresholds(card: ModelCard, calibration: Calibration, score: dict[str, Any]) -> ModelCard:
    """Prints thresholds and accuracy, and returns the card with both added."""
    print("\n".join(calibration.lines()))
    low, high = score["interval"]
    print(f"  accuracy {score['accuracy']:.5f} [{low:.5f}, {high:.5f}]")
    protocol = {
        "kind": calibration.kind,
        "flip": calibration.flip,
        "pooling": calibration.pooling,
        "files": calibration.files,
    }
    scores = {**card.get("scores", {}), calibration.set: {**score, "protocol": protocol}}
    return ModelCard({**card, "scores": scores}).with_calibration(calibration)


if __name__ == "__main__":
    main()
