"""Scores open-set identification, where some probes show people who are not in the gallery.

A probe is mated if its person is in the gallery, and unknown otherwise. It gets the name of the most similar
person in the gallery if that similarity reaches a threshold. FPIR is the fraction of the unknown probes that
get a name. TPIR is the fraction of the mated probes that get the right name.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

FPIRS = (0.01, 0.1)
RANKS = (1, 5)


def tpir_name(fpir: float) -> str:
    """Returns the name of the metric TPIR at this FPIR, such as `tpir@fpir=0.01`."""
    return f"tpir@fpir={fpir:g}"


def rank_name(rank: int) -> str:
    """Returns the name of the fraction of mated probes with at most this rank, such as `rank-5`."""
    return f"rank-{rank}"


@dataclass(frozen=True, eq=False)
class RankedProbes:
    """Probes with their best similarity and the rank of the right person: all that the scores depend on.

    Attributes:
        people: str `(num_probes,)`, the person that each probe shows.
        best: float64 `(num_probes,)`, the largest similarity to a person in the gallery.
        ranks: int64 `(num_probes,)`, the number of people in the gallery who are at least as similar as the
            right person, including that person. So a tie counts against the model. 0 for unknown probes.
        num_gallery: number of people in the gallery.
    """

    people: np.ndarray
    best: np.ndarray
    ranks: np.ndarray
    num_gallery: int

    @classmethod
    def from_similarities(
        cls, similarities: np.ndarray, gallery: Sequence[str], probes: Sequence[str]
    ) -> Self:
        """Ranks the people in the gallery for each probe. `concatenate` joins the results of several calls.

        Args:
            similarities: float, finite, shape `(num_probes, num_gallery)`.
            gallery: unique names of the people in the gallery.
            probes: names of the people that the probes show.

        Raises:
            ValueError: the shapes do not match, a similarity is not finite, or a name is in the gallery
                twice.
        """
        similarities, people = np.asarray(similarities), np.asarray(probes, dtype=np.str_)
        expected = len(probes), len(gallery)
        if similarities.shape != expected:
            raise ValueError(f"similarities: expected shape {expected}, received {similarities.shape}")
        if not np.isfinite(similarities).all():
            probe, column = np.argwhere(~np.isfinite(similarities))[0].tolist()
            raise ValueError(
                f"similarities: expected finite numbers, received {similarities[probe, column]} for probe "
                f"{probe} and {gallery[column]}"
            )
        columns = {person: column for column, person in enumerate(gallery)}
        if len(columns) < len(gallery):
            twice = next(person for column, person in enumerate(gallery) if columns[person] != column)
            raise ValueError(f"gallery: expected unique names, received {twice} twice")
        own = np.array([columns.get(person, -1) for person in probes], np.int64)
        to_own = np.take_along_axis(similarities, own[:, np.newaxis], axis=1)
        ranks = np.count_nonzero(similarities >= to_own, axis=1)
        best = similarities.max(axis=1).astype(np.float64)
        return cls(people, best, np.where(own >= 0, ranks, 0), len(gallery))

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """Joins probes that were ranked in the same gallery."""
        people, best, ranks = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("people", "best", "ranks")
        )
        return cls(people, best, ranks, parts[0].num_gallery)

    @property
    def is_mated(self) -> np.ndarray:
        """True for probes whose person is in the gallery: bool `(num_probes,)`."""
        return self.ranks > 0

    @property
    def measurable_fpirs(self) -> tuple[float, ...]:
        """The `FPIRS` that can be measured: those with at least `1 / FPIR` unknown probes."""
        num_unknown = np.count_nonzero(~self.is_mated)
        return tuple(fpir for fpir in FPIRS if num_unknown >= 1 / fpir)

    @property
    def measurable_ranks(self) -> tuple[int, ...]:
        """The `RANKS` that can be measured: those below the number of people in the gallery."""
        return tuple(rank for rank in RANKS if self.num_gallery > rank)


def open_set_curve(probes: RankedProbes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Computes FPIR and TPIR at every threshold.

    At the first point no probe is accepted. Then comes a point for each distinct `best`, the largest first.
    There must be mated and unknown probes.

    Returns:
        `(fpir, tpir, thresholds)`, float64 `(distinct + 1,)`. Similarities of at least the threshold are
        accepted.
    """
    ordered = _Ordered(probes)
    none_accepted = np.nextafter(probes.best.max(), np.inf)
    thresholds = np.append(none_accepted, ordered.best[ordered.ends])
    return *ordered.rates(np.ones(len(probes.best), np.int64)), thresholds


def rank_curve(probes: RankedProbes, most: int | None = None) -> np.ndarray:
    """Returns the fraction of the mated probes with a rank of at most 1, 2, ..., `most` (CMC).

    Args:
        probes: the probes, at least one of them mated.
        most: the last rank. Defaults to the number of people in the gallery.

    Returns:
        float64 `(most,)`.
    """
    ranks = probes.ranks[probes.is_mated]
    counts = np.bincount(ranks, minlength=probes.num_gallery + 1)[1:]
    return (np.cumsum(counts) / ranks.size)[:most]


def open_set_metrics(probes: RankedProbes) -> tuple[dict[str, float | None], dict[str, float | None]]:
    """Computes metrics by name, and the thresholds of those that have one.

    - `rank-1`, `rank-5`: the fraction of the mated probes with at most this rank, whatever the similarity. It
      is `None` if the gallery does not have more people than the rank, because every model would score 1.
    - `tpir@fpir=0.01`, `tpir@fpir=0.1`: the largest TPIR at an FPIR up to this one. It is `None` with fewer
      than `1 / FPIR` unknown probes, because a name for a single one would exceed the FPIR. Its threshold is
      the smallest `best` of all probes that does not exceed the FPIR.

    References:
    - ISO/IEC 19795-1: identification rates in open sets
    - Grother, Ngan and Hanaoka, NIST IR 8271 (FRVT part 2), section 3

    Returns:
        `(metrics, thresholds)`.

    Raises:
        ValueError: no probe is mated.

    Example:

    >>> probes = RankedProbes.from_similarities([[0.9, 0.1], [0.6, 0.5], [0.3, 0.4]], ["a", "b"], "abx")
    >>> open_set_metrics(probes)[0]
    {'rank-1': 0.5, 'rank-5': None, 'tpir@fpir=0.01': None, 'tpir@fpir=0.1': None}
    """
    _check_mated(probes)
    fpirs = probes.measurable_fpirs
    measured = _metrics(probes, _Ordered(probes), np.ones(len(probes.best), np.int64), fpirs)
    tpirs = [tpir_name(fpir) for fpir in FPIRS]
    thresholds: dict[str, float | None] = dict.fromkeys(tpirs)
    if fpirs:
        fpir, _, at = open_set_curve(probes)
        thresholds |= {tpir_name(asked): float(at[place]) for asked, place in _places(fpir, fpirs)}
    return dict.fromkeys([*map(rank_name, RANKS), *tpirs]) | measured, thresholds


def rates_at(probes: RankedProbes, threshold: float) -> tuple[float, float | None]:
    """Returns `(tpir, fpir)` at a given threshold. FPIR is `None` without unknown probes."""
    is_accepted, is_mated = probes.best >= threshold, probes.is_mated
    tpir = np.mean(is_accepted[is_mated] & (probes.ranks[is_mated] == 1))
    return float(tpir), None if is_mated.all() else float(np.mean(is_accepted[~is_mated]))


def open_set_intervals(
    probes: RankedProbes, *, num_resamples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Computes confidence intervals of the metrics: percentiles over resamples.

    Probes of one person are not independent, so each resample draws people, with replacement, as many as the
    probes show. If a person is drawn `k` times, each probe of that person counts `k` times. A draw without
    mated probes is repeated. If the set has unknown probes, so is a draw without unknown probes. The gallery
    stays the same.

    Args:
        probes: the probes.
        num_resamples: number of resamples.
        confidence: in (0, 1).
        seed: seed of the draws.

    Returns:
        `(low, high)` by the name of each metric that is not `None`.

    Raises:
        ValueError: no probe is mated.
    """
    _check_mated(probes)
    rng = np.random.default_rng(seed)
    ordered, fpirs = _Ordered(probes), probes.measurable_fpirs
    names, people = np.unique(probes.people, return_inverse=True)
    is_mated, has_unknown = probes.is_mated, not probes.is_mated.all()
    samples = []
    while len(samples) < num_resamples:
        weights = np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names))[people]
        if weights[is_mated].any() and (weights[~is_mated].any() or not has_unknown):
            samples.append(_metrics(probes, ordered, weights, fpirs))
    bounds = [(1 - confidence) / 2, (1 + confidence) / 2]
    return {
        name: tuple(np.quantile([sample[name] for sample in samples], bounds).tolist()) for name in samples[0]
    }


class _Ordered:
    """Probes by descending similarity, sorted once for all resamples."""

    def __init__(self, probes: RankedProbes) -> None:
        self._order = np.argsort(-probes.best, kind="stable")
        self.best = probes.best[self._order]
        # The last position of each run of equal similarities.
        self.ends = np.flatnonzero(np.diff(self.best, append=-np.inf))
        ranks = probes.ranks[self._order]
        self._is_unknown, self._is_first = ranks == 0, ranks == 1

    def rates(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns FPIR and TPIR: 0, then the rate at each of `ends`. A probe counts `weights` times."""
        weights = weights[self._order]
        totals = weights[self._is_unknown].sum(), weights[~self._is_unknown].sum()
        kinds = zip((self._is_unknown, self._is_first), totals, strict=True)
        fpir, tpir = (
            np.append(0, np.cumsum(np.where(kind, weights, 0))[self.ends] / total) for kind, total in kinds
        )
        return fpir, tpir


def _check_mated(probes):
    if not probes.is_mated.any():
        raise ValueError("probes: expected at least one probe of a person in the gallery, received none")


def _metrics(probes, ordered, weights, fpirs):
    """Returns the metrics that can be measured."""
    num_mated = weights[probes.is_mated].sum()
    metrics = {
        rank_name(rank): float(weights[probes.is_mated & (probes.ranks <= rank)].sum() / num_mated)
        for rank in probes.measurable_ranks
    }
    if fpirs:
        fpir, tpir = ordered.rates(weights)
        metrics |= {tpir_name(asked): float(tpir[place]) for asked, place in _places(fpir, fpirs)}
    return metrics


def _places(fpir, fpirs):
    """Pairs each FPIR with the last position of the curve that does not exceed it."""
    return zip(fpirs, np.searchsorted(fpir, fpirs, side="right") - 1, strict=True)
