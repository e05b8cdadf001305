"""Prepares pairs and their pictures for a page."""

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from eval.report.words import rate
from eval.scoring.evaluation_run import EvaluationRun, PairPicture
from eval.scoring.people import spread_over_people


@dataclass(frozen=True)
class ShownPair:
    """A pair on a page.

    Attributes:
        first, second: names of the videos or images.
        jpeg: the picture in base64, if there is one.
        distances: the distance; or for each of several runs, the distance with its threshold.
        verdict: `"right"`, `"wrong"` or `"not scored"`, if the pairs of the list have different verdicts.
    """

    first: str
    second: str
    jpeg: str | None
    distances: list[str]
    verdict: str | None = None


@dataclass(frozen=True)
class ShownPairs:
    """A list of pairs. `verdict` is the verdict of all of them, if it is the same."""

    title: str
    pairs: list[ShownPair]
    verdict: str | None = None


def hardest_pairs(run: EvaluationRun, title: str, entries: Iterable[PairPicture]) -> ShownPairs:
    """Returns the hardest pairs of one kind, but no more than two pairs of any person.

    Args:
        run: the run.
        title: title of the list.
        entries: pairs and pictures of the run, hardest first.

    Raises:
        FileNotFoundError: a picture does not exist.
        ValueError: a picture is not a JPEG file.
    """
    # Runs of earlier versions have more pairs of one person.
    pictures = {entry.pair: entry.picture for entry in entries}
    places = list(spread_over_people(pictures, run.pairs.first, run.pairs.second, len(pictures)))
    verdicts = run.verdicts(run.scores.error_filter)[places].tolist()
    differ = len(set(verdicts)) > 1
    pairs = [
        ShownPair(
            *_names(run, pair),
            jpeg=_jpeg(run.folder / pictures[pair]),
            distances=[rate(run.distances[pair])],
            verdict=verdict if differ else None,
        )
        for pair, verdict in zip(places, verdicts, strict=True)
    ]
    return ShownPairs(title, pairs, None if differ or not verdicts else verdicts[0])


def disagreed_pairs(
    runs: tuple[EvaluationRun, EvaluationRun], error_filter: str, title: str, places: Iterable[int]
) -> ShownPairs:
    """Returns pairs of runs A and B with their distances and thresholds on a line.

    A pair has a picture if the run that misclassifies it stored one.

    Args:
        runs: A and B, with the same pairs.
        error_filter: names the line.
        title: title of the list.
        places: positions of the pairs.
    """
    thresholds = [run.thresholds(error_filter) for run in runs]
    pairs = []
    for pair in places:
        compared = [
            f"{letter} {rate(run.distances[pair])} {'<' if run.distances[pair] < limits[pair] else '≥'} "
            f"{rate(limits[pair])}"
            for letter, run, limits in zip("AB", runs, thresholds, strict=True)
        ]
        pictures = [path for run in runs for path in sorted(run.folder.glob(f"errors/*_{pair:06d}_*.jpg"))]
        jpeg = _jpeg(pictures[0]) if pictures else None
        pairs.append(ShownPair(*_names(runs[0], pair), jpeg=jpeg, distances=compared))
    return ShownPairs(title, pairs)


def _names(run: EvaluationRun, pair: int) -> tuple[str, str]:
    return str(run.pairs.first[pair]), str(run.pairs.second[pair])


def _jpeg(path: Path) -> str:
    jpeg = path.read_bytes()
    if not jpeg.startswith(b"\xff\xd8"):
        raise ValueError(f"{path}: not a JPEG file: it starts with {jpeg[:8].hex() or 'nothing'}")
    return base64.b64encode(jpeg).decode()
