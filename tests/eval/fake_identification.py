"""Makes runs like those of `eval.test_identify`, with random similarities."""

import base64

import cv2
import numpy as np

from eval.report.identification import write_identification_page
from eval.report.shown_pairs import ShownPair, ShownPairs
from eval.scoring.evaluation_run import Bootstrap, InputFile
from eval.scoring.identification_run import (
    Candidate,
    IdentificationScores,
    IdentifyThreshold,
    People,
    ProbeResult,
    score_probes,
)
from eval.scoring.open_set import RankedProbes


def make_identification(
    path, seed=0, *, num_people=12, num_unknown=6, files=3, frames=20, name="mobile", text=""
):
    """Writes a page.

    Args:
        path: of the page, a `Path`.
        files: files of each person.
        frames: frames of each file.
        text: is added to all names of people and files.

    Returns:
        `(scores, ranked)`.
    """
    rng = np.random.default_rng(seed)
    people = [f"{text}Person_{number}" for number in range(num_people + num_unknown)]
    gallery, probes = people[:num_people], np.repeat(people, files).tolist()
    similarities = rng.normal(0.1, 0.1, (len(probes), num_people))
    for probe in range(num_people * files):
        similarities[probe, probe // files] += 0.5
    noise = rng.normal(0, 0.15, (len(probes) * frames, num_people))
    by_kind = {
        "templates": RankedProbes.from_similarities(similarities, gallery, probes),
        "frames": RankedProbes.from_similarities(
            np.repeat(similarities, frames, axis=0) + noise, gallery, np.repeat(probes, frames).tolist()
        ),
    }
    threshold = IdentifyThreshold(0.45, 0.01, ("It keeps FPIR 0.01.", f"{text}It is raised."))
    order = np.argsort(-similarities, axis=1)
    results = tuple(
        ProbeResult(
            path=f"{person}/video {probe % files}.mkv",
            person=person,
            num_frames=frames,
            rank=int(by_kind["templates"].ranks[probe]),
            nearest=tuple(Candidate(gallery[c], float(similarities[probe, c])) for c in order[probe, :3]),
            own=None,
        )
        for probe, person in enumerate(probes)
    )
    scores = IdentificationScores(
        name=name,
        command=f"python -m eval.test_identify --gallery {text}gallery --probes probes --model_path {name}",
        versions={"margin-centre-face": "0.1.0", "numpy": np.__version__},
        model=InputFile(f"models/{name}", "0f" * 32),
        gallery=People(
            path="data/gallery",
            num_people=num_people,
            num_files=num_people,
            problems=(f"{gallery[0]}/dark.jpg: no face",),
        ),
        probes=People(path="data/probes", num_people=len(people), num_files=len(probes), problems=()),
        unknown_people=tuple(people[num_people:]),
        aligned=False,
        flip=True,
        threshold=threshold,
        bootstrap=Bootstrap(100),
        kinds={kind: score_probes(ranked, threshold, Bootstrap(100)) for kind, ranked in by_kind.items()},
        results=results,
    )
    picture = rng.integers(0, 255, (112, 228, 3), np.uint8)
    jpeg = base64.b64encode(cv2.imencode(".jpg", picture)[1].tobytes()).decode()
    shown = [
        ShownPairs(f"{kind} probes", [ShownPair(r.path, r.nearest[0].person, jpeg, ["0.4711"]) for r in some])
        for kind, some in (("Mated", results[:5]), ("Unknown", results[-4:]))
    ]
    write_identification_page(path, scores, by_kind, shown)
    return scores, by_kind
