"""What a run is scored on while it trains."""

import numpy as np

from dataset.pairs.image_pairs import read_image_pairs, read_pairs
from dataset.pairs.video_frames import find_frames
from dataset.pairs.video_pairs import read_video_pairs
from eval.embedding.extractor import embed_images, embed_pairs
from eval.embedding.face_model import FaceModel
from eval.scoring.coverage import coverage_of, describe_coverage
from eval.scoring.distances import pair_distances
from eval.scoring.verification import evaluate_pairs, original_folds
from eval.scoring.video_distances import DEFAULT_METHOD, video_distances


def make_validators(backbone, config, args, monitor=None):
    """The validations that config and flags ask for; all that they need is opened and checked now.

    Args:
        backbone: `keras.Model`, scored as it is when a validator is called, with dropout off.
        config: `dataset.config.Config`.
        args: parsed flags: `batch_size`, `threshold`, `lfw_as_stored`, `validate_videos`.
        monitor: `training.monitoring.EmbeddingMonitor` that measures all embeddings. Defaults to none.

    Returns:
        dict from `"lfw"` (pairs of LFW), `"ytf"` (pairs of images of YTF) and `"ytf_videos"` (templates of
        videos of YTF) to functions that return an `eval.scoring.verification.VerificationResult`.

    Raises:
        FileNotFoundError: a set that is not there.
        ValueError: one that cannot be read, or a key that the config lacks.
    """
    validators = {}
    if config.lfw.enable:
        # Row 24 of docs/fidelity.md: the net takes BGR, whatever the file holds.
        order = "bgr" if args.lfw_as_stored else config.lfw.npdata_order
        validators["lfw"] = _pair_validator(
            backbone, read_pairs(config.lfw.npdata, order), args, "lfw", monitor
        )
    if config.ytf.enable:
        pairs = read_image_pairs(config.ytf.pairs, config.ytf.prefix)
        validators["ytf"] = _pair_validator(backbone, pairs, args, "ytf", monitor)
    if args.validate_videos is not None:
        validators["ytf_videos"] = _video_validator(backbone, config, args, monitor)
    return validators


def _pair_validator(backbone, pairs, args, name, monitor):
    model = FaceModel.from_backbone(backbone, pairs.image_size)

    # Row 10 of docs/fidelity.md: every pair, dropout off; the original scored 64 pairs.
    def validate():
        first, second = embed_pairs(model, pairs, args.batch_size)
        if monitor is not None:
            monitor.measure(name, np.concatenate([first, second]))
        distances = pair_distances(first, second, "cosine")
        # Rows 18 and 19: the original's rule comes with its folds.
        folds = original_folds(pairs.is_same) if args.threshold == "crossing" else None
        return evaluate_pairs(distances, pairs.is_same, args.threshold, folds=folds)

    return validate


def _video_validator(backbone, config, args, monitor):
    if args.validate_videos < 1:
        raise ValueError(f"--validate_videos: expected at least 1 frame, received {args.validate_videos}")
    for key in ("splits", "prefix"):
        if getattr(config.ytf, key) is None:
            raise ValueError(f"{config.path}: section [ytf]: expected key '{key}' for --validate_videos")
    pairs = read_video_pairs(config.ytf.splits)
    frames = find_frames(config.ytf.prefix, pairs.videos, max_frames=args.validate_videos)
    coverage = coverage_of(pairs, frames, ())
    if not coverage.is_complete:
        raise ValueError(
            f"{config.ytf.prefix}: expected all frames of all videos for --validate_videos, received\n"
            + "\n".join(describe_coverage(coverage))
        )
    model = FaceModel.from_backbone(backbone, frames.image_size)

    def validate():
        features = np.concatenate(list(embed_images(model, frames.decode, len(frames), args.batch_size)))
        if monitor is not None:
            monitor.measure("ytf_videos", features)
        distances = video_distances(features, frames.offsets, pairs.first, pairs.second, [DEFAULT_METHOD])
        folds = original_folds(pairs.is_same) if args.threshold == "crossing" else pairs.splits
        return evaluate_pairs(distances[DEFAULT_METHOD], pairs.is_same, args.threshold, folds=folds)

    return validate
