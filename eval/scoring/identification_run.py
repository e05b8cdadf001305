"""The dataclasses behind `scores.json` of a run of `eval.test_identify`."""

from dataclasses import asdict, dataclass

from eval.scoring.evaluation_run import Bootstrap, InputFile
from eval.scoring.open_set import RankedProbes, open_set_intervals, open_set_metrics, rates_at

VERSION = 1
KINDS = {"templates": "Templates", "frames": "Single frames"}  # of probes


@dataclass(frozen=True)
class IdentifyThreshold:
    """The threshold that `eval.identify` uses for this gallery, from the model card.

    Attributes:
        value: the threshold of similarity.
        fpir: the requested FPIR.
        reasons: sentences that say where the threshold comes from.
    """

    value: float
    fpir: float
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Rates:
    """TPIR and FPIR at a given threshold. FPIR is `None` without unknown probes."""

    tpir: float
    fpir: float | None


@dataclass(frozen=True, kw_only=True)
class ProbeScores:
    """The scores of one kind of probes; see `eval.scoring.open_set.open_set_metrics`.

    Attributes:
        at_threshold: rates at the threshold of `eval.identify`, or `None` if the model card has no
            thresholds.
    """

    num_probes: int
    num_mated: int
    num_unknown: int
    metrics: dict[str, float | None]
    thresholds: dict[str, float | None]
    intervals: dict[str, tuple[float, float]]
    at_threshold: Rates | None


@dataclass(frozen=True, kw_only=True)
class People:
    """The people in the folder of the gallery or of the probes.

    Attributes:
        path: the folder.
        num_files: number of pictures and videos.
        problems: a sentence for each file that cannot be used.
    """

    path: str
    num_people: int
    num_files: int
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Candidate:
    """A person of the gallery, and the similarity of a probe to this person."""

    person: str
    similarity: float


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """The answer for the template of a file.

    Attributes:
        path: path inside the folder of the probes.
        person: the person that the file shows.
        num_frames: number of frames in the template; 0 without a usable face.
        rank: rank of this person; 0 if the person is not in the gallery.
        nearest: people of the gallery, nearest first; empty without a usable face.
        own: similarity to `person`; `None` if the person is not in the gallery or there is no usable face.
    """

    path: str
    person: str
    num_frames: int
    rank: int
    nearest: tuple[Candidate, ...]
    own: float | None


@dataclass(frozen=True, kw_only=True)
class IdentificationScores:
    """The content of `scores.json`.

    Attributes:
        name: name of the model.
        aligned: whether the files were aligned faces, so that no faces were detected.
        flip: whether the embeddings of mirror images were added, as in the calibration of the model card.
        unknown_people: names of people who are only among the probes.
        kinds: the scores, by the keys of `KINDS`.
        results: one for each file of the probes.
    """

    version: int = VERSION
    name: str
    command: str
    versions: dict[str, str]
    model: InputFile
    gallery: People
    probes: People
    unknown_people: tuple[str, ...]
    aligned: bool
    flip: bool
    threshold: IdentifyThreshold | None
    bootstrap: Bootstrap
    kinds: dict[str, ProbeScores]
    results: tuple[ProbeResult, ...]


def score_probes(
    ranked: RankedProbes, threshold: IdentifyThreshold | None, bootstrap: Bootstrap
) -> ProbeScores:
    """Computes the scores of one kind of probes, with intervals."""
    metrics, thresholds = open_set_metrics(ranked)
    num_mated = int(ranked.is_mated.sum())
    return ProbeScores(
        num_probes=ranked.ranks.size,
        num_mated=num_mated,
        num_unknown=ranked.ranks.size - num_mated,
        metrics=metrics,
        thresholds=thresholds,
        intervals=open_set_intervals(ranked, **asdict(bootstrap)),
        at_threshold=Rates(*rates_at(ranked, threshold.value)) if threshold else None,
    )
