"""Collects what a model card says about a model, from the files that training writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.typed_json import read_json
from eval.embedding.model_card import ModelCard, read_card
from nets.importers.model_files import find_model
from nets.importers.training_checkpoint import MANIFEST_NAME, read_manifest

RUN_NAME = "run.json"  # the record of a training run, in its folder of checkpoints

# These keys of a card describe the exported file, not the net, so an export from this file leaves them out.
_FILE_KEYS = ("sha256", "signatures", "pooling")
_RUN_KEYS = ("start", "loss", "git_commit", "versions")


def card_of_source(path: Path) -> ModelCard:
    """Returns what is known about the source of an export: its own card, and what its checkpoint says.

    Where both have a value, the card wins.

    Args:
        path: a model, or a folder of training checkpoints, whose newest checkpoint is used.

    Raises:
        FileNotFoundError: the model does not exist.
        ValueError: the card is damaged, or belongs to another model.
    """
    model = find_model(path)
    facts = {}
    if (model / MANIFEST_NAME).is_file():
        manifest = read_manifest(model)
        names = ("scores", "intervals", "scored_at", "protocols")
        facts = describe_scores(manifest["step"], *(manifest.get(name) or {} for name in names))
        facts["run"] = describe_run(model.parent)
    own = {key: value for key, value in read_card(model).items() if key not in _FILE_KEYS}
    scores = {**facts.get("scores", {}), **own.get("scores", {})}
    return ModelCard({**facts, **own, **({"scores": scores} if scores else {})})


def describe_scores(
    step: int,
    scores: dict[str, float],
    intervals: dict[str, tuple[float, float]],
    scored_at: dict[str, int],
    protocols: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    """Returns the values of a card that describe how a model scored during training.

    Args:
        step: training step of the model.
        scores: accuracy in [0, 1] on each validation set, by name.
        intervals: 95 % interval of each accuracy. Checkpoints of earlier versions have none.
        scored_at: training step at which each accuracy was measured.
        protocols: how each accuracy was measured, such as the number of pairs.
    """
    described = {
        name: {
            "accuracy": accuracy,
            "interval": intervals.get(name),
            "scored_at_step": scored_at.get(name),
            "protocol": protocols.get(name),
        }
        for name, accuracy in scores.items()
    }
    return {"step": step, "precision": "float32", "scores": described}


def describe_run(folder: Path) -> dict[str, Any] | None:
    """Describes the training run of a folder of checkpoints: its loss, data, flags, versions and last start.

    Leaves out paths, the host name and the command, because models are passed on to other people.

    Returns:
        dict of these values, or `None` if the record of the run is missing or unreadable.
    """
    try:
        start = read_json(folder / RUN_NAME)["starts"][-1]
        options = {
            flag: value
            for flag, value in start["options"].items()
            if value is not None and not (isinstance(value, str) and ("/" in value or "." in value))
        }
        return {**{key: start.get(key) for key in _RUN_KEYS}, "sources": start["sources"], "options": options}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
        return None


def describe_net(net: dict[str, Any], face_size: tuple[int, int]) -> dict[str, Any]:
    """Returns the values of a card that describe a net and how to prepare a face for it.

    Args:
        net: arguments of `nets.backbone.Backbone`.
        face_size: `(height, width)` of the faces.

    Returns:
        dict of `net`, `embedding_size` and `preprocessing`: cut the central `image_size` out of a face, order
        its channels as `channels` says, and compute `(pixel - mean) / scale`.
    """
    from dataset.preprocess import MEAN, SCALE

    return {
        "net": net,
        "embedding_size": net["embedding_size"],
        "preprocessing": {
            "face_size": list(face_size),
            "image_size": list(net["image_size"]),
            "channels": "bgr",
            "layout": "nhwc",
            "mean": [MEAN] * 3,
            "scale": [SCALE] * 3,
        },
    }
