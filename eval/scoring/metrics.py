"""Computes metrics of verification other than accuracy, and confidence intervals of all metrics.

Distances shrink with likeness. A pair is accepted if `distance < threshold`. FAR is the fraction of the
impostor pairs that are accepted, and TAR is the fraction of the genuine pairs that are accepted.
"""

from collections.abc import Sequence

import numpy as np

FARS = (1e-1, 1e-2, 1e-3)


def tar_name(far: float) -> str:
    """Returns the name of the metric TAR at this FAR, such as `tar@far=0.001`."""
    return f"tar@far={far:g}"


def roc(distances: np.ndarray, is_same: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Computes the receiver operating characteristic (ROC).

    It has one point for each distinct distance, where the pairs below it are accepted, and a last point where
    all pairs are accepted.

    Args:
        distances: float, finite, shape `(pairs,)`.
        is_same: bool, shape `(pairs,)`: whether a pair is genuine. There must be pairs of both kinds.

    Returns:
        `(far, tar)`, float64, shape `(distinct distances + 1,)`, rising from 0 to 1.
    """
    from sklearn.metrics import roc_curve  # The import takes a second.

    far, tar, _ = roc_curve(is_same, -np.asarray(distances), drop_intermediate=False)
    return far, tar


def equal_error_rate(far: np.ndarray, tar: np.ndarray) -> float:
    """Returns the rate where `FAR = 1 - TAR`, interpolated linearly between the points of an ROC.

    Args:
        far, tar: float, shape `(points,)`, rising from 0 to 1; see `roc`.
    """
    return float(np.interp(0, far + tar - 1, far))


def verification_metrics(distances: np.ndarray, is_same: np.ndarray) -> dict[str, float | None]:
    """Returns the metrics of the ROC by name; see `roc`.

    - `eer`: see `equal_error_rate`.
    - `auc`: area under the ROC by the trapezium rule. It is the probability that a genuine pair is nearer
      than an impostor pair, where equal distances count half.
    - `tar@far=0.1` and so on for `FARS`: the largest TAR at a FAR up to this one. It is `None` with fewer
      than `1 / FAR` impostor pairs, because accepting a single one would exceed the FAR.

    Example:

    >>> verification_metrics(np.array([0.1, 0.6, 0.5, 0.9]), np.array([True, True, False, False]))
    {'eer': 0.5, 'auc': 0.75, 'tar@far=0.1': None, 'tar@far=0.01': None, 'tar@far=0.001': None}
    """
    measured = _curve_metrics(*roc(distances, is_same), _measurable_fars(is_same, FARS))
    return dict.fromkeys(["eer", "auc", *map(tar_name, FARS)]) | measured


def bootstrap_intervals(
    distances: np.ndarray,
    is_same: np.ndarray,
    *,
    fold_accuracies: Sequence[float] | np.ndarray | None = None,
    identities: tuple[np.ndarray, np.ndarray] | None = None,
    fars: Sequence[float] = FARS,
    num_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Computes confidence intervals of the metrics: percentiles over the resamples of `bootstrap_samples`.

    Args:
        confidence: in (0, 1). For the other arguments, see `bootstrap_samples`.

    Returns:
        `(low, high)` by the name of the metric. Metrics that are `None`, or that need an argument that is not
        given, are left out.
    """
    samples = bootstrap_samples(
        distances,
        is_same,
        fold_accuracies=fold_accuracies,
        identities=identities,
        fars=fars,
        num_resamples=num_resamples,
        seed=seed,
    )
    return {name: interval_of(values, confidence) for name, values in samples.items()}


def interval_of(samples: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """Returns the two percentiles between which this fraction of the samples lies."""
    low, high = np.quantile(samples, [(1 - confidence) / 2, (1 + confidence) / 2]).tolist()
    return low, high


def bootstrap_samples(
    distances: np.ndarray,
    is_same: np.ndarray,
    *,
    fold_accuracies: Sequence[float] | np.ndarray | None = None,
    identities: tuple[np.ndarray, np.ndarray] | None = None,
    fars: Sequence[float] = FARS,
    num_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Computes the metrics of resampled sets.

    Accuracy: each resample draws as many folds as the set has, with replacement, and takes their mean.

    Other metrics: pairs that share an identity are not independent, so each resample draws as many identities
    as the set has, with replacement. If an identity is drawn `k` times, a pair of only that identity counts
    `k` times. A pair of two identities counts `k1 * k2` times, whatever its label says, because in real sets
    some videos have a wrong name. A draw without genuine or without impostor pairs is repeated.

    The draws depend only on the identities and the seed. So you can subtract the samples of two models on the
    same pairs from each other.

    References:
    - Snijders and Borgatti 1999, "Non-parametric standard errors and tests for network
      statistics", Connections 22(2): the bootstrap of vertices
    - [Owen and Eckles 2012](https://arxiv.org/abs/1106.2125): products of the weights of two factors, which
      make the intervals slightly too wide
    - Bolle, Ratha and Pankanti 2004, "Error analysis of pattern recognition systems: the subsets
      bootstrap", Computer Vision and Image Understanding 93

    Args:
        distances, is_same: see `roc`.
        fold_accuracies: one per fold, for samples of `accuracy`.
        identities: int or str, shape `(pairs,)` each: the identities of the first and of the second face of
            every pair, for samples of all other metrics.
        fars: FARs to compute the TAR at.
        num_resamples: number of resamples.
        seed: seed of the draws.

    Returns:
        float `(num_resamples,)` by the name of the metric.
    """
    # Two streams of random numbers, so that the samples of one metric do not depend on the others.
    fold_rng, identity_rng = np.random.default_rng(seed).spawn(2)
    samples = {}
    if fold_accuracies is not None:
        num_folds = len(fold_accuracies)
        drawn = fold_rng.integers(num_folds, size=(num_resamples, num_folds))
        samples["accuracy"] = np.asarray(fold_accuracies)[drawn].mean(axis=1)
    if identities is not None:
        measurable = _measurable_fars(is_same, fars)
        samples |= _resample_identities(
            distances, is_same, identities, measurable, num_resamples, identity_rng
        )
    return samples


def accuracy_interval(fold_accuracies: Sequence[float]) -> tuple[float, float]:
    """Computes the 95 % interval of an accuracy; see `bootstrap_intervals`."""
    no_pairs = np.empty(0)
    return bootstrap_intervals(no_pairs, no_pairs, fold_accuracies=fold_accuracies)["accuracy"]


def _resample_identities(distances, is_same, identities, fars, num_resamples, rng):
    # The pairs are sorted once for all resamples: calling scikit-learn for each takes ten times as long.
    order = np.argsort(distances)
    # The last position of each run of equal distances.
    ends = np.flatnonzero(np.diff(distances[order], append=np.inf))
    is_same = is_same[order]
    first, second = (np.asarray(identity)[order] for identity in identities)
    names, numbers = np.unique(np.concatenate([first, second]), return_inverse=True)
    first, second = numbers.reshape(2, -1)
    samples = []
    while len(samples) < num_resamples:
        times = np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names))
        weights = times[first] * np.where(first == second, 1, times[second])
        # In the worst case, one pair of each kind and three identities, every fifth draw has both kinds.
        if weights[is_same].any() and weights[~is_same].any():
            far, tar = (np.cumsum(np.where(kind, weights, 0)) for kind in (~is_same, is_same))
            far, tar = (np.append(0, accepted[ends] / accepted[-1]) for accepted in (far, tar))
            samples.append(_curve_metrics(far, tar, fars))
    return {name: np.array([sample[name] for sample in samples]) for name in samples[0]}


def _curve_metrics(far, tar, fars):
    metrics = {"eer": equal_error_rate(far, tar), "auc": float(np.trapezoid(tar, far))}
    places = np.searchsorted(far, fars, side="right") - 1
    return metrics | {tar_name(asked): float(tar[place]) for asked, place in zip(fars, places, strict=True)}


def _measurable_fars(is_same, fars):
    return [far for far in fars if np.count_nonzero(~is_same) >= 1 / far]
