"""Facts about a model for its card, from the files that training leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.typed_json import read_json
from eval.embedding.model_card import ModelCard, read_card
from nets.importers.model_files import find_model
from nets.importers.training_checkpoint import MANIFEST_NAME, read_manifest

RUN_NAME = "run.json"  # the record of a run, in its folder of checkpoints

# These arguments describe the form of a model, not the net.
_OF_THE_FORM = ("sha256", "signatures", "pooling")
_RUN_KEYS = ("start", "loss", "git_commit", "versions")


def card_of_source(path: Path) -> ModelCard:
    """Returns what is known about a model that is exported: its own card, or what its checkpoint says.

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
    own = {key: value for key, value in read_card(model).items() if key not in _OF_THE_FORM}
    scores = {**facts.get("scores", {}), **own.get("scores", {})}
    return ModelCard({**facts, **own, **({"scores": scores} if scores else {})})


def describe_scores(
    step: int,
    scores: dict[str, float],
    intervals: dict[str, tuple[float, float]],
    scored_at: dict[str, int],
    protocols: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    """Describes the validation of a training.

    Args:
        step: of the model.
        scores: accuracy of each validation set.
        intervals: 95 % interval of each accuracy. Checkpoints of earlier versions have none.
        scored_at: step of each accuracy.
        protocols: what each accuracy depends on besides the net.
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
    """Describes the run of a folder of checkpoints: loss, data, flags, versions and date of its last start.

    Paths, the name of the host and the command are left out: a model goes to other people.

    Returns:
        `None` if there is no record, or one that cannot be read.
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
    """Describes a net and what it expects of a face.

    Args:
        net: arguments of `nets.backbone.Backbone`.
        face_size: `(height, width)` of the faces.

    Returns:
        `preprocessing` says that the centre of `image_size` is cut out of a face, and its channels become
        `(pixel - mean) / scale` in this order.
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
