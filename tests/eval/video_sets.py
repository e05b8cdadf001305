"""Helps to test `eval.test_ytf`: flags, printed scores, and a set of videos with golden scores."""

from pathlib import Path

import cv2
import numpy as np

from dataset.pairs.video_frames import find_frames
from dataset.pairs.video_pairs import read_video_pairs, write_video_pairs
from eval.embedding.feature_store import FeatureStore
from nets.importers.model_files import model_sha256

GOLDEN = Path(__file__).parents[1] / "golden" / "verification"


def flags(folder, **values):
    values = {
        "model_path": folder / "model",
        "splits": folder / "ytf" / "splits.txt",
        "prefix": folder / "ytf" / "112x112",
        "features": folder / "features",
        **values,
    }
    return [f"--{name}={value}" for name, value in values.items()]


def precisions(printed):
    """Returns TEXT of each printed line `Precision on NAME : TEXT`, by name."""
    lines = [line for line in printed.splitlines() if line.startswith("Precision on ")]
    return dict(line.removeprefix("Precision on ").split(" : ") for line in lines)


def write_golden_set(tmp_path, name, num_wrong=0, *, person="P", model="model.keras"):
    """Writes a set of videos of one frame each whose features are golden embeddings, and wrong positives.

    Args:
        person: start of the names of people.
        model: name of the file of the model. A name without a suffix is a folder with a training checkpoint.

    Returns:
        What the original gave, and the flags of `eval.test_ytf`.
    """
    with np.load(GOLDEN / f"{name}.npz") as file:
        positive, negative = file["pos_embeddings"], file["neg_embeddings"]
        expected = {key: file[f"cosine/{key}"] for key in ("accuracy", "std", "fold_accuracies")}
    rng = np.random.default_rng(0)
    places = np.sort(rng.integers(len(positive) + 1, size=num_wrong))
    wrong = places + np.arange(num_wrong)
    positive = np.insert(positive, places, rng.normal(size=(num_wrong, *positive.shape[1:])), axis=0)
    is_same = np.repeat([True, False], [len(positive), len(negative)])
    frame = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    for pair in range(is_same.size):
        for side in "ab":
            (tmp_path / "frames" / f"{person}{pair:04d}" / side).mkdir(parents=True)
            (tmp_path / "frames" / f"{person}{pair:04d}" / side / "0.1.jpg").write_bytes(frame)
    write_video_pairs(
        tmp_path / "splits.txt",
        [(1, f"{person}{pair:04d}/a", f"{person}{pair:04d}/b", same) for pair, same in enumerate(is_same)],
    )
    # The original keeps negatives with a wrong video, and a part of the name is enough to find it.
    (tmp_path / "wrong.txt").write_text("".join(f"{pair:04d}/a\n" for pair in [*wrong, is_same.size - 1]))
    content = tmp_path / model if "." in model else tmp_path / model / "step_00000007" / "checkpoint.json"
    content.parent.mkdir(parents=True, exist_ok=True)
    # No weights are loaded.
    content.write_text('{"version": 1, "step": 7, "net": {"architecture": "ir32"}, "sha256": {}}')
    frames = find_frames(tmp_path / "frames", read_video_pairs(tmp_path / "splits.txt").videos)
    of_frames = {"sha256": frames.sha256, "image_size": [8, 8], "crop": None, "flip": False}
    engine = {"name": "tensorflow", "precision": "float32"}
    inputs = {"model": model_sha256(tmp_path / model), "frames": of_frames, "engine": engine}
    with FeatureStore(tmp_path / "features", inputs, len(frames)) as store:
        store.append(np.concatenate([positive, negative]).reshape(len(frames), -1))
    return expected, flags(
        tmp_path,
        model_path=tmp_path / model,
        splits=tmp_path / "splits.txt",
        prefix=tmp_path / "frames",
        ytf_error=tmp_path / "wrong.txt",
        output=tmp_path / "run",
    )
