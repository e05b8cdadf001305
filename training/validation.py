"""Opens the validation sets that are scored during training.

To add one, write a function that opens it and add a line to `VALIDATION_SETS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from common.files import file_sha256
from dataset.config import Config
from dataset.pairs.image_pairs import read_image_pairs, read_pairs
from dataset.pairs.video_frames import find_frames
from dataset.pairs.video_pairs import read_video_pairs
from eval.embedding.extractor import embed_images, embed_pairs
from eval.embedding.face_model import FaceModel
from eval.scoring.calibration import Calibration, calibrate, can_calibrate
from eval.scoring.coverage import coverage_of, describe_coverage
from eval.scoring.distances import pair_distances
from eval.scoring.people import identities_of
from eval.scoring.templates import RECOMMENDED_POOLING
from eval.scoring.verification import VerificationResult, evaluate_pairs, original_folds
from eval.scoring.video_distances import DEFAULT_METHOD, video_distances
from nets.backbone import Backbone
from nets.inference import copy_weights, in_float32
from training.options import ValidationOptions


@dataclass(frozen=True)
class Validator:
    """A validation set with the net to score.

    Attributes:
        name: name in the log, in TensorBoard and in checkpoints.
        threshold: accuracy, a fraction. A new best above it is exported.
        score: scores the net with its current weights. Returns the result and the embeddings,
            `(num_images, dim)`.
        protocol: everything that the score depends on apart from the net. Scores of different protocols
            cannot be compared.
        calibrate: measures the thresholds for the model card from these embeddings. `None` if there are too
            few pairs.
    """

    name: str
    threshold: float
    score: Callable[[], tuple[VerificationResult, np.ndarray]]
    protocol: dict[str, Any] = field(default_factory=dict)
    calibrate: Callable[[np.ndarray], Calibration] | None = None


class OpenSet(NamedTuple):
    """The images of a validation set and its protocol."""

    image_size: tuple[int, int]
    is_same: np.ndarray  # bool, shape (num_pairs,)
    folds: np.ndarray | None  # int, shape (num_pairs,)
    embed: Callable[[FaceModel, int], np.ndarray]  # model and batch size -> (num_images, dim)
    distances: Callable[[np.ndarray], np.ndarray]  # these embeddings -> (num_pairs,)
    protocol: dict[str, Any]  # as JSON
    calibrate: Callable[[np.ndarray], Calibration]  # these embeddings -> thresholds


class ValidationSet(NamedTuple):
    """A validation set: how to open it and what its score is used for."""

    name: str
    open: Callable[[Config, ValidationOptions], OpenSet | None]  # returns `None` if it is switched off
    threshold: str  # name of the option that holds `Validator.threshold`
    in_model_name: bool  # whether its accuracy is part of the names of SavedModels


def _open_pairs(pairs, path, **protocol):
    def distances(embeddings):
        first, second = np.split(embeddings, 2)
        return pair_distances(first, second, "cosine")

    digest = file_sha256(path)

    def calibrate_pairs(embeddings):
        similarities, files = 1 - distances(embeddings), {path.name: digest}
        return calibrate(similarities, pairs.is_same, kind="single", name=path.stem, files=files)

    # Row 10 of docs/fidelity.md: every pair, dropout off; the original scored 64 pairs.
    return OpenSet(
        pairs.image_size,
        pairs.is_same,
        None,
        lambda model, batch_size: np.concatenate(embed_pairs(model, pairs, batch_size)),
        distances,
        {"file": path.name, "sha256": digest, **protocol},
        calibrate_pairs,
    )


def _open_lfw(config, options):
    if not config.lfw.enable:
        return None
    # Row 24 of docs/fidelity.md: the net takes BGR, whatever the file holds.
    order = "bgr" if options.lfw_as_stored else config.lfw.npdata_order
    path = config.lfw.npdata
    return _open_pairs(read_pairs(path, order), path, order=order, compare_with="eval.test_lfw")


def _open_ytf(config, options):
    if not config.ytf.enable:
        return None
    path, prefix = config.ytf.pairs, config.ytf.prefix
    note = "nothing: eval.test_ytf compares videos, this compares pairs of images"
    return _open_pairs(read_image_pairs(path, prefix), path, prefix=str(prefix), compare_with=note)


def _open_ytf_videos(config, options):
    if options.validate_videos is None:
        return None
    for key in ("splits", "prefix"):
        if getattr(config.ytf, key) is None:
            raise ValueError(f"{config.path}, [ytf]: --validate_videos needs the key '{key}'. Set it.")
    pairs = read_video_pairs(config.ytf.splits)
    frames = find_frames(config.ytf.prefix, pairs.videos, max_frames=options.validate_videos)
    coverage = coverage_of(pairs, frames, ())
    if not coverage.is_complete:
        lines = "\n".join(describe_coverage(coverage))
        raise ValueError(f"{config.ytf.prefix}: --validate_videos needs all frames of all videos.\n{lines}")

    def distances(embeddings, method=DEFAULT_METHOD):
        videos = (frames.offsets, pairs.first, pairs.second)
        return video_distances(embeddings, *videos, [method])[method]

    digest = file_sha256(config.ytf.splits)

    def calibrate_videos(embeddings):
        # The score uses the original's pooling. Thresholds are for users, so they use the recommended one.
        return calibrate(
            1 - distances(embeddings, RECOMMENDED_POOLING),
            pairs.is_same,
            kind="template",
            name=config.ytf.splits.stem,
            pooling=RECOMMENDED_POOLING,
            identities=identities_of(pairs.videos, pairs.first, pairs.second),
            files={config.ytf.splits.name: digest},
            max_frames=options.validate_videos,
        )

    return OpenSet(
        frames.image_size,
        pairs.is_same,
        pairs.splits,
        lambda model, size: np.concatenate(list(embed_images(model, frames.decode, len(frames), size))),
        distances,
        {
            "file": config.ytf.splits.name,
            "sha256": digest,
            "prefix": str(config.ytf.prefix),
            "frames_per_video": options.validate_videos,
            "pooling": DEFAULT_METHOD,
            "compare_with": "eval.test_ytf, which takes all frames",
        },
        calibrate_videos,
    )


VALIDATION_SETS = (
    ValidationSet("lfw", _open_lfw, "lfw_threshold", in_model_name=True),
    ValidationSet("ytf", _open_ytf, "ytf_threshold", in_model_name=True),
    ValidationSet("ytf_videos", _open_ytf_videos, "ytf_threshold", in_model_name=False),
)
MODEL_NAME_SETS = tuple(entry.name for entry in VALIDATION_SETS if entry.in_model_name)


def make_validators(
    backbone: Backbone, config: Config, options: ValidationOptions, batch_size: int
) -> list[Validator]:
    """Opens and checks the validation sets that config and flags ask for.

    The net is scored without dropout, and in float32 whatever the precision of training. SavedModels compute
    the same way, so a model has the score that its name says.

    Args:
        backbone: the net to score.
        config: paths of the validation sets.
        options: the flags.
        batch_size: number of images that the net embeds at a time.

    Raises:
        FileNotFoundError: a set is missing.
        ValueError: a set cannot be read, or the config lacks a key.
    """
    opened_sets = ((entry, entry.open(config, options)) for entry in VALIDATION_SETS)
    found = [(entry, opened) for entry, opened in opened_sets if opened is not None]
    is_float32 = not found or backbone.get_config().get("dtype", "float32") == "float32"
    scored = backbone if is_float32 else in_float32(backbone)

    def make(entry: ValidationSet, opened: OpenSet) -> Validator:
        model = FaceModel.from_backbone(scored, opened.image_size)

        def score():
            if scored is not backbone:
                copy_weights(backbone, scored)
            embeddings = opened.embed(model, batch_size)
            # Rows 18 and 19 of docs/fidelity.md: the original's rule comes with its folds.
            folds = original_folds(opened.is_same) if options.threshold == "crossing" else opened.folds
            distances = opened.distances(embeddings)
            result = evaluate_pairs(distances, opened.is_same, options.threshold, folds=folds)
            return result, embeddings

        protocol = {"pairs": len(opened.is_same), "threshold": options.threshold, **opened.protocol}
        measure = opened.calibrate if can_calibrate(opened.is_same) else None
        return Validator(entry.name, getattr(options, entry.threshold), score, protocol, measure)

    return [make(entry, opened) for entry, opened in found]
