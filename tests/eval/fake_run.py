"""Runs as `eval.test_ytf` writes them, of distances drawn at random."""

import json

import cv2
import numpy as np

from eval.report.runs import Run, write_run
from eval.scoring.metrics import bootstrap_intervals, verification_metrics
from eval.scoring.video_distances import METHODS
from eval.scoring.ytf_protocol import involves_wrong_video, score_lines

FACE_SIZE = (112, 112)


def make_run(
    folder,
    seed=0,
    *,
    name="iter_258000_lfw_0.99133_ytf_0.95900",
    method="normalised_mean",
    num_people=60,
    num_folds=10,
    pairs_per_fold=40,
    quality=1.0,
    num_hardest=12,
    num_resamples=100,
    draw=None,
    **changes,
):
    """Writes a run and returns it.

    Args:
        folder: Path.
        seed: int; it decides the distances, not the pairs.
        quality: float, how far genuine and impostor distances lie apart.
        draw: function from a name of a video and the number of a frame to a face, uint8 RGB of
            `FACE_SIZE`. Defaults to a simple one.
        changes: keys of the scores to replace.
    """
    pairs = _pairs(num_people, num_folds, pairs_per_fold)
    first, second, is_same, splits = pairs
    wrong = [first[0], second[pairs_per_fold - 1]]
    is_wrong = involves_wrong_video(first, second, wrong)
    rng = np.random.default_rng(seed)
    common = rng.normal(0, 1, len(first))
    distances = {}
    for number, one in enumerate(METHODS):
        noise = 0.75 * common + 0.25 * rng.normal(0, 1, len(first))
        mean = np.where(is_same, 0.95 - (0.36 - 0.01 * number) * quality, 0.95)
        distances[one] = np.clip(mean + 0.12 * noise, 0, 2)

    methods = {}
    for one in METHODS:
        lines = score_lines(distances[one], is_same, splits, is_wrong)
        methods[one] = _method_scores(distances[one], is_same, (first, second), lines["none"], num_resamples)
        methods[one]["lines"] = [line.result.accuracy for line in lines.values()]
    lines = score_lines(distances[method], is_same, splits, is_wrong)

    folder.mkdir(parents=True, exist_ok=True)
    order = np.argsort(distances[method])
    hardest = {
        "genuine": [int(pair) for pair in order[::-1] if is_same[pair]][:num_hardest],
        "impostor": [int(pair) for pair in order if not is_same[pair]][:num_hardest],
    }
    scores = {
        "version": 1,
        "name": name,
        "set": "ytf",
        "faithful": False,
        "method": method,
        "rule": "best",
        "folds": "official",
        "error_filter": "none",
        "error_match": "exact",
        "inputs": _inputs(seed),
        "coverage": _coverage(first, second, is_same, wrong),
        "lines": [_line_scores(line, is_same) for line in lines.values()],
        "methods": methods,
        "frames_curve": [
            {
                "num_frames": count,
                "accuracy": lines["none"].result.accuracy - 0.05 / count,
                "eer": methods[method]["metrics"]["eer"] + 0.05 / count,
            }
            for count in (1, 2, 4, 8, 16, 32, 64, 128, 181)
        ],
        "hardest": {
            kind: [
                {"pair": pair, "picture": _draw_pair(folder, kind, number, first[pair], second[pair], draw)}
                for number, pair in enumerate(pairs, start=1)
            ]
            for kind, pairs in hardest.items()
        },
        "bootstrap": {"num_resamples": num_resamples, "confidence": 0.95, "seed": 0},
        "command": f"python -m eval.test_ytf --model_path=output/models/{name} --output=output/ytf",
        "versions": {"margin-centre-face": "0.1.0", "tensorflow": "2.21.0", "numpy": np.__version__},
        **changes,
    }
    arrays = {
        "first": first,
        "second": second,
        "is_same": is_same,
        "splits": splits,
        "used": np.stack([line.used for line in lines.values()]),
        "folds": np.stack([line.folds for line in lines.values()]),
        **{f"distances/{one}": values for one, values in distances.items()},
    }
    return write_run(folder, scores, arrays)


def changed(run, **changes):
    """The run with other scores; `coverage` and so on are changed in part."""
    scores = json.loads(json.dumps(run.scores))
    for key, value in changes.items():
        scores[key] = scores[key] | value if isinstance(value, dict) else value
    return Run(run.folder, scores, run.arrays)


def _pairs(num_people, num_folds, pairs_per_fold):
    """Names of videos, whether they are of one person, and splits; half of each split is genuine."""
    rng = np.random.default_rng(1)
    people = [f"{one}_{other}" for one in ("Ana", "Bo", "Chi", "Dara") for other in ("Ek", "Fu", "Gil")]
    people = [f"{people[number % len(people)]}_{number}" for number in range(num_people)]
    first, second, is_same = [], [], []
    for _ in range(num_folds):
        for pair in range(pairs_per_fold):
            one, other = rng.choice(num_people, 2, replace=False)
            same = pair < pairs_per_fold // 2
            first.append(f"{people[one]}/{rng.integers(3)}")
            second.append(f"{people[one if same else other]}/{3 + rng.integers(3)}")
            is_same.append(same)
    splits = np.repeat(np.arange(1, num_folds + 1), pairs_per_fold)
    return np.array(first), np.array(second), np.array(is_same), splits


def _method_scores(distances, is_same, names, line, num_resamples):
    metrics = {"accuracy": line.result.accuracy, **verification_metrics(distances, is_same)}
    intervals = bootstrap_intervals(
        distances,
        is_same,
        fold_accuracies=line.result.fold_accuracies,
        identities=[[name.split("/")[0] for name in side] for side in names],
        num_resamples=num_resamples,
    )
    intervals = {
        metric: list(interval) for metric, interval in intervals.items() if metrics[metric] is not None
    }
    return {
        "std": line.result.std,
        "threshold": line.result.threshold,
        "metrics": metrics,
        "intervals": intervals,
    }


def _line_scores(line, is_same):
    folds = sorted({int(fold) for fold in line.folds if fold >= 0})
    return {
        "name": line.name,
        "num_pairs": int(line.used.sum()),
        "num_genuine": int((line.used & is_same).sum()),
        "accuracy": line.result.accuracy,
        "std": line.result.std,
        "threshold": line.result.threshold,
        "folds": folds,
        "fold_accuracies": list(line.result.fold_accuracies),
        "fold_thresholds": list(line.result.fold_thresholds),
        "fold_sizes": [int((line.folds == fold).sum()) for fold in folds],
    }


def _inputs(seed):
    hashes = [f"{number:02x}" * 32 for number in range(16 * seed + 1, 16 * seed + 5)]
    return {
        "model": {"path": "output/models/iter_258000", "sha256": hashes[0]},
        "splits": {"path": "data/ytf/splits_corrected.txt", "sha256": hashes[1]},
        "ytf_error": {"path": "data/ytf/ytf-error.txt", "sha256": hashes[2]},
        "frames": {
            "path": "data/ytf/aligned",
            "sha256": hashes[3],
            "image_size": [112, 112],
            "crop": None,
            "flip": False,
        },
    }


def _coverage(first, second, is_same, wrong):
    videos = len({*first, *second})
    return {
        "videos": videos,
        "missing": [],
        "empty": [],
        "frames": 181 * videos,
        "unusable": {},
        "wrong_videos": len(wrong),
        "pairs": len(is_same),
        "genuine": int(is_same.sum()),
        "impostor": int((~is_same).sum()),
        "pairs_left_out": 0,
        "frames_per_video": {"min": 48, "median": 181.0, "max": 6070},
    }


def _draw_pair(folder, kind, number, first, second, draw):
    """Three frames of each video, one video to a column; returns the path inside the folder."""
    columns = [
        np.concatenate([(draw or _draw_face)(str(name), frame) for frame in range(3)])
        for name in (first, second)
    ]
    gap = np.full((len(columns[0]), 4, 3), 255, np.uint8)
    picture = np.concatenate([columns[0], gap, columns[1]], axis=1)
    path = folder / "hardest" / f"{kind}-{number:02d}.jpg"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes())
    return path.relative_to(folder).as_posix()


def _draw_face(name, frame):
    """A circle in a colour of the person's, moving from frame to frame."""
    rng = np.random.default_rng(list(name.split("/")[0].encode()))
    background, skin = rng.integers(40, 220, (2, 3)).tolist()
    face = np.full((*FACE_SIZE, 3), background, np.uint8)
    middle = (52 + 4 * frame, 58)
    cv2.ellipse(face, middle, (34, 44), 0, 0, 360, skin, -1, cv2.LINE_AA)
    for x in (-14, 14):
        cv2.circle(face, (middle[0] + x, 50), 5, (20, 20, 20), -1, cv2.LINE_AA)
    cv2.ellipse(face, (middle[0], 76), (14, 6), 0, 0, 180, (90, 20, 30), 3, cv2.LINE_AA)
    return face
