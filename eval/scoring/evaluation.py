"""Scores pairs by one or more methods, from their distances."""

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

from eval.scoring.evaluation_run import (
    Bootstrap,
    ByErrorFilter,
    FramesPoint,
    HardestPairs,
    LineScores,
    MethodScores,
    PairPicture,
    ScoredPairs,
)
from eval.scoring.metrics import bootstrap_intervals, verification_metrics
from eval.scoring.people import identity_of, spread_over_people
from eval.scoring.verification import ScoredLine

_NUM_HARDEST = 12


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The parts of a run that depend on the embeddings; see `eval.scoring.evaluation_run.Scores`."""

    SCORES = ("lines", "methods", "frames_curve", "bootstrap", "hardest")

    lines: ByErrorFilter[LineScores]
    methods: dict[str, MethodScores]
    bootstrap: Bootstrap
    hardest: HardestPairs
    pairs: ScoredPairs
    frames_curve: tuple[FramesPoint, ...] = ()


def evaluate_distances(
    distances: dict[str, np.ndarray],
    score: Callable[[np.ndarray], ByErrorFilter[ScoredLine]],
    *,
    first: np.ndarray,
    second: np.ndarray,
    is_same: np.ndarray,
    splits: np.ndarray,
    method: str,
    error_filter: str = "none",
    names_tell_identities: bool = True,
    more_metrics: dict[str, float] | None = None,
    num_resamples: int = Bootstrap.num_resamples,
) -> Evaluation:
    """Scores pairs by every method.

    All arrays have the shape `(num_pairs,)`.

    Args:
        distances: distances of the pairs, by method.
        score: computes the lines of scores from distances.
        first, second: names of the videos or images.
        is_same: bool: whether a pair is genuine.
        splits: number of each pair's split.
        method, error_filter: the method and the line to choose the hardest pairs and compute the metrics for.
        names_tell_identities: whether `eval.scoring.people.identity_of` is right for all names. Only then do
            metrics other than the accuracy get intervals.
        more_metrics: metrics of the chosen method that are not computed from the distances.
        num_resamples: number of bootstrap resamples for the intervals.

    Raises:
        ValueError: the protocol cannot score these pairs.
    """
    scored = {name: score(values) for name, values in distances.items()}
    used = scored[method].select(error_filter).used
    bootstrap, identities = Bootstrap(num_resamples), None
    if names_tell_identities:
        first_people, second_people = (
            np.array([identity_of(str(name)) for name in names[used]]) for names in (first, second)
        )
        identities = first_people, second_people
    methods = {}
    for name, lines in scored.items():
        result = lines.select(error_filter).result
        used_pairs = distances[name][used], is_same[used]
        metrics = {"accuracy": result.accuracy, **verification_metrics(*used_pairs)}
        methods[name] = MethodScores(
            lines=ByErrorFilter(*(line.result.accuracy for line in lines)),
            std=result.std,
            threshold=result.threshold,
            metrics=metrics | (more_metrics or {}) if name == method else metrics,
            intervals=bootstrap_intervals(
                *used_pairs,
                fold_accuracies=result.fold_accuracies,
                identities=identities,
                **asdict(bootstrap),
            ),
        )
    pairs = ScoredPairs(
        first=first,
        second=second,
        is_same=is_same,
        splits=splits,
        used=ByErrorFilter(*(line.used for line in scored[method])),
        folds=ByErrorFilter(*(line.folds for line in scored[method])),
        distances=distances,
    )
    return Evaluation(
        lines=ByErrorFilter(*(_line_scores(line, is_same) for line in scored[method])),
        methods=methods,
        bootstrap=bootstrap,
        hardest=_hardest(pairs, distances[method], used),
        pairs=pairs,
    )


def _line_scores(line: ScoredLine, is_same: np.ndarray) -> LineScores:
    folds = np.unique(line.folds[line.folds >= 0])
    return LineScores(
        name=line.name,
        num_pairs=int(np.count_nonzero(line.used)),
        num_genuine=int(np.count_nonzero(line.used & is_same)),
        accuracy=line.result.accuracy,
        std=line.result.std,
        threshold=line.result.threshold,
        folds=tuple(folds.tolist()),
        fold_accuracies=line.result.fold_accuracies,
        fold_thresholds=line.result.fold_thresholds,
        fold_sizes=tuple(int(np.count_nonzero(line.folds == fold)) for fold in folds),
    )


def _hardest(pairs: ScoredPairs, distances: np.ndarray, used: np.ndarray) -> HardestPairs:
    def pictures(kind: str, places: np.ndarray) -> tuple[PairPicture, ...]:
        chosen = spread_over_people(places.tolist(), pairs.first, pairs.second, _NUM_HARDEST)
        return tuple(
            PairPicture(pair, f"hardest/{kind}-{place:02d}.jpg") for place, pair in enumerate(chosen, start=1)
        )

    places = np.flatnonzero(used)
    places = places[np.argsort(distances[places], kind="stable")]
    genuine, impostor = places[pairs.is_same[places]][::-1], places[~pairs.is_same[places]]
    return HardestPairs(pictures("genuine", genuine), pictures("impostor", impostor))
