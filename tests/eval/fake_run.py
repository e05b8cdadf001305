"""Makes runs like those of `eval.test_ytf` and `eval.test_lfw`, with random distances."""

import dataclasses
import hashlib

import cv2
import numpy as np

from eval.embedding.engines import Engine
from eval.report.pair_pictures import write_pictures
from eval.scoring.coverage import Coverage, FramesPerVideo
from eval.scoring.evaluation import Evaluation, evaluate_distances
from eval.scoring.evaluation_run import (
    ByErrorFilter,
    EvaluationRun,
    FramesPoint,
    HardestPairs,
    InputFile,
    InputFrames,
    Inputs,
    Scores,
    write_run,
)
from eval.scoring.people import identity_of, name_images
from eval.scoring.video_distances import METHODS
from eval.scoring.ytf_protocol import involves_wrong_video, score_lines
from nets.importers.model_files import ModelDescription

FACE_SIZE = (112, 112)


def make_run(
    folder,
    seed=0,
    *,
    name="iter_258000_lfw_0.99133_ytf_0.95900",
    method="normalised_mean",
    num_people=60,
    pairs_per_fold=40,
    quality=1.0,
    num_hardest=12,
    **changes,
):
    """Writes a run and returns it.

    Args:
        folder: Path.
        seed: decides the distances, but not the pairs.
        quality: how far genuine and impostor distances lie apart.
        num_hardest: number of the hardest pairs of each kind, at most.
        changes: fields of the scores to replace.
    """
    first, second, is_same, splits = _pairs(num_people, 10, pairs_per_fold)
    wrong = [first[0], second[pairs_per_fold - 1]]
    is_wrong = involves_wrong_video(first, second, wrong)
    rng = np.random.default_rng(seed)
    common = rng.normal(0, 1, len(first))
    distances = {}
    for number, one in enumerate(METHODS):
        noise = 0.75 * common + 0.25 * rng.normal(0, 1, len(first))
        mean = np.where(is_same, 0.95 - (0.36 - 0.01 * number) * quality, 0.95)
        distances[one] = np.clip(mean + 0.12 * noise, 0, 2)

    def score(values):
        return ByErrorFilter(**score_lines(values, is_same, splits, is_wrong))

    names = {"first": first, "second": second}
    evaluation = evaluate_distances(
        distances, score, **names, is_same=is_same, splits=splits, method=method, num_resamples=100
    )
    accuracy, eer = (evaluation.methods[method].metrics[metric] for metric in ("accuracy", "eer"))
    curve = tuple(
        FramesPoint(count, accuracy - 0.05 / count, eer + 0.05 / count)
        for count in (1, 2, 4, 8, 16, 32, 64, 128, 181)
    )
    hardest = evaluation.hardest
    hardest = HardestPairs(hardest.genuine[:num_hardest], hardest.impostor[:num_hardest])
    scores = Scores(
        name=name,
        set="ytf",
        faithful=False,
        command=f"python -m eval.test_ytf --model_path=output/models/{name} --output=output/ytf",
        versions={"margin-centre-face": "0.1.0", "tensorflow": "2.21.0", "numpy": np.__version__},
        inputs=_inputs(seed),
        engine=Engine("tensorflow"),
        model=ModelDescription(name, "ir50", 258_000, "2026-11-27"),
        coverage=_coverage(first, second, is_same, wrong),
        method=method,
        rule="best",
        folds="official",
        error_filter="none",
        error_match="exact",
        **{part: getattr(evaluation, part) for part in Evaluation.SCORES}
        | {"frames_curve": curve, "hardest": hardest},
    )
    run = write_run(folder, _replaced(scores, changes), evaluation.pairs)
    write_pictures(run, run.pairs, _faces)
    return run


def make_image_run(folder, **arguments):
    """Writes a run like those of `eval.test_lfw`, and returns it; see `make_run`."""
    run = make_run(folder, **arguments)
    names = np.stack([run.pairs.first, run.pairs.second], axis=1).ravel().tolist()
    digests = [hashlib.sha256(name.encode()).hexdigest() for name in names]
    first, second = name_images(digests, run.pairs.is_same).T
    line = dataclasses.replace(run.line, name="lfw")
    method = dataclasses.replace(run.method, intervals={"accuracy": run.method.intervals["accuracy"]})
    scores = {
        **{"set": "lfw", "coverage": None, "method": "cosine", "methods": {"cosine": method}},
        **{"folds": "even", "lines": ByErrorFilter(line, line, line), "frames_curve": ()},
        "inputs": {"splits": None, "ytf_error": None},
    }
    pairs = {"first": first, "second": second, "distances": {"cosine": run.distances}}
    run = changed(run, pairs, **scores)
    return write_run(folder, run.scores, run.pairs)


def changed(run, pairs=None, **changes):
    """Returns the run with other scores and pairs. A dict replaces some fields of a dataclass or tuple."""
    return EvaluationRun(
        run.folder, _replaced(run.scores, changes), dataclasses.replace(run.pairs, **(pairs or {}))
    )


def _replaced(value, changes):
    if not isinstance(changes, dict) or isinstance(value, dict):
        return changes
    fields = {name: _replaced(getattr(value, name), change) for name, change in changes.items()}
    return value._replace(**fields) if isinstance(value, tuple) else dataclasses.replace(value, **fields)


def _pairs(num_people, num_folds, pairs_per_fold):
    """Returns names of videos, whether they show one person, and splits. Half of each split is genuine."""
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


def _inputs(seed):
    hashes = [f"{number:02x}" * 32 for number in range(16 * seed + 1, 16 * seed + 5)]
    return Inputs(
        model=InputFile("output/models/iter_258000", hashes[0]),
        splits=InputFile("data/ytf/splits_corrected.txt", hashes[1]),
        ytf_error=InputFile("data/ytf/ytf-error.txt", hashes[2]),
        frames=InputFrames("data/ytf/aligned", hashes[3], image_size=(112, 112), crop=None, flip=False),
    )


def _coverage(first, second, is_same, wrong):
    videos = len({*first, *second})
    return Coverage(
        videos=videos,
        missing=(),
        empty=(),
        frames=181 * videos,
        unusable={},
        wrong_videos=len(wrong),
        pairs=len(is_same),
        genuine=int(is_same.sum()),
        impostor=int((~is_same).sum()),
        pairs_left_out=0,
        frames_per_video=FramesPerVideo(min=48, median=181.0, max=6070),
    )


def _faces(name, count):
    return np.concatenate([_draw_face(name, frame) for frame in range(count)])


def _draw_face(name, frame):
    """Draws a face in the colour of its person that moves from frame to frame."""
    rng = np.random.default_rng(list(identity_of(name).encode()))
    background, skin = rng.integers(40, 220, (2, 3)).tolist()
    face = np.full((*FACE_SIZE, 3), background, np.uint8)
    middle = (52 + 4 * frame, 58)
    cv2.ellipse(face, middle, (34, 44), 0, 0, 360, skin, -1, cv2.LINE_AA)
    for x in (-14, 14):
        cv2.circle(face, (middle[0] + x, 50), 5, (20, 20, 20), -1, cv2.LINE_AA)
    cv2.ellipse(face, (middle[0], 76), (14, 6), 0, 0, 180, (90, 20, 30), 3, cv2.LINE_AA)
    return face
