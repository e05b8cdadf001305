"""Metrics of verification beside accuracy, and their confidence intervals.

Distances shrink with likeness; a pair is accepted where `distance < threshold`. FAR is the
fraction of the impostor pairs that are accepted, TAR that of the genuine ones.
"""

import numpy as np

FARS = (1e-1, 1e-2, 1e-3)


def tar_name(far):
    """What the metric TAR at this FAR is called, such as `tar@far=0.001`."""
    return f"tar@far={far:g}"


def roc(distances, is_same, weights=None):
    """The receiver operating characteristic: a point for every distinct distance.

    The point of a distance counts the pairs below it, and a last one all pairs: `far` and `tar`
    rise from 0 to 1.

    Args:
        distances: float, finite, shape `(pairs,)`.
        is_same: bool, shape `(pairs,)`: whether a pair is genuine.
        weights: float, not negative, shape `(pairs,)`. Defaults to 1 for each; a pair of weight
            2 counts as two pairs.

    Returns:
        `(far, tar, thresholds)`, float64 arrays, shape `(distinct distances + 1,)`.

    Raises:
        ValueError: arguments that do not fit together, or no genuine or no impostor pairs.
    """
    distances, is_same = _checked_pairs(distances, is_same)
    if weights is None:
        weights = np.ones(distances.size)
    weights = np.asarray(weights, np.float64)
    if weights.shape != distances.shape or not ((weights >= 0) & (weights < np.inf)).all():
        raise ValueError(
            f"expected a finite weight from 0 for each of {distances.size} pairs, "
            f"received shape {weights.shape}, {weights.min(initial=0)} to {weights.max(initial=0)}"
        )
    if not weights[is_same].any() or not weights[~is_same].any():
        raise ValueError("expected genuine and impostor pairs of a weight above 0, received none of a kind")
    order, ends = _sort(distances)
    far, tar = _rates(is_same[order], weights[order], ends)
    values = distances[order][ends]
    return far, tar, np.append(values, np.nextafter(values[-1], np.inf))


def tar_at_far(distances, is_same, far):
    """The largest TAR at a FAR not above the one asked for.

    Args:
        distances, is_same: as for `roc`.
        far: float in (0, 1].

    Returns:
        float, or None where there are fewer than `1 / far` impostor pairs: to accept a single
        one would be more.

    Raises:
        ValueError: as `roc`, or another FAR.
    """
    if not 0 < far <= 1:
        raise ValueError(f"expected a FAR above 0 and up to 1, received {far}")
    far_curve, tar_curve, _ = roc(distances, is_same)
    return _tar_at_far(far_curve, tar_curve, far) if _can_measure(far, is_same) else None


def equal_error_rate(distances, is_same):
    """The rate at which as many impostors are accepted as genuine pairs refused: `FAR = 1 - TAR`.

    Between two points of the ROC both are interpolated linearly.

    Args:
        distances, is_same: as for `roc`.

    Returns:
        float.
    """
    far, tar, _ = roc(distances, is_same)
    return _equal_error_rate(far, tar)


def area_under_roc(distances, is_same):
    """The chance that a genuine pair is nearer than an impostor pair; of equal ones half count.

    The area under the ROC, by the trapezium rule; the Mann-Whitney statistic as a fraction.

    Args:
        distances, is_same: as for `roc`.

    Returns:
        float.
    """
    far, tar, _ = roc(distances, is_same)
    return float(np.trapezoid(tar, far))


def verification_metrics(distances, is_same):
    """All metrics of this file, by name.

    Args:
        distances, is_same: as for `roc`.

    Returns:
        dict of floats: `eer`, `auc`, and `tar@far=0.1` and so on for `FARS`, of which None where
        there are too few impostor pairs.

    Example:

    >>> verification_metrics([0.1, 0.6, 0.5, 0.9], np.array([True, True, False, False]))
    {'eer': 0.5, 'auc': 0.75, 'tar@far=0.1': None, 'tar@far=0.01': None, 'tar@far=0.001': None}
    """
    far, tar, _ = roc(distances, is_same)
    measured = _curve_metrics(far, tar, [asked for asked in FARS if _can_measure(asked, is_same)])
    return dict.fromkeys(["eer", "auc", *map(tar_name, FARS)]) | measured


def bootstrap_intervals(
    distances,
    is_same,
    *,
    fold_accuracies=None,
    identities=None,
    num_resamples=1000,
    confidence=0.95,
    seed=0,
):
    """Confidence intervals of the metrics: percentiles over resamples.

    Accuracy: the folds are drawn with replacement, as many as there are; their mean.

    The others: pairs that share an identity are not independent, so it is identities that are
    drawn with replacement, as many as there are. With `k` the times that an identity is drawn, a
    pair of one identity counts `k` times and a pair of two `k1 * k2` times, whatever the pair is
    said to be: in real sets some videos have a wrong name. Draws that leave no genuine or no
    impostor pair are repeated.

    References:
    - Snijders and Borgatti 1999, "Non-parametric standard errors and tests for network
      statistics", Connections 22(2): the bootstrap of vertices
    - [Owen and Eckles 2012](https://arxiv.org/abs/1106.2125): products of the weights of two
      factors; errs mildly to the side of wide intervals
    - Bolle, Ratha and Pankanti 2004, "Error analysis of pattern recognition systems: the subsets
      bootstrap", Computer Vision and Image Understanding 93

    Args:
        distances, is_same: as for `roc`.
        fold_accuracies: float, shape `(num_folds,)`, at least two; for `accuracy`.
        identities: two arrays of int or str, shape `(pairs,)`: the identities of the first and of
            the second face of every pair; for all other metrics.
        num_resamples: int > 0. Defaults to `1000`.
        confidence: float in (0, 1). Defaults to `0.95`.
        seed: int >= 0. Defaults to `0`.

    Returns:
        dict of `(low, high)` by the metric's name: `accuracy`, then those of
        `verification_metrics` that are not None; without what was not given.

    Raises:
        ValueError: arguments that do not fit together.
    """
    distances, is_same = _checked_pairs(distances, is_same)
    if num_resamples < 1 or not 0 < confidence < 1:
        raise ValueError(
            f"expected at least 1 resample and a confidence between 0 and 1, "
            f"received {num_resamples} and {confidence}"
        )
    # Two streams: what else is asked for does not change an interval.
    fold_rng, identity_rng = np.random.default_rng(seed).spawn(2)
    samples = {}
    if fold_accuracies is not None:
        fold_accuracies = np.asarray(fold_accuracies, np.float64)
        num_folds = fold_accuracies.size
        if fold_accuracies.ndim != 1 or num_folds < 2:
            raise ValueError(f"expected accuracies of at least 2 folds, received {fold_accuracies}")
        drawn = fold_rng.integers(num_folds, size=(num_resamples, num_folds))
        samples["accuracy"] = fold_accuracies[drawn].mean(axis=1)
    if identities is not None:
        samples |= _resample_identities(distances, is_same, identities, num_resamples, identity_rng)
    bounds = [(1 - confidence) / 2, (1 + confidence) / 2]
    return {name: tuple(np.quantile(values, bounds).tolist()) for name, values in samples.items()}


def _resample_identities(distances, is_same, identities, num_resamples, rng):
    first, second = _numbered_identities(identities, is_same.size)
    num_identities = max(first.max(), second.max()) + 1
    fars = [far for far in FARS if _can_measure(far, is_same)]
    order, ends = _sort(distances)
    first, second, is_same = first[order], second[order], is_same[order]
    samples = []
    while len(samples) < num_resamples:
        drawn = rng.integers(num_identities, size=num_identities)
        times = np.bincount(drawn, minlength=num_identities).astype(np.float64)
        weights = times[first] * np.where(first == second, 1, times[second])
        # At worst, with one pair of each kind and three identities, every fifth draw has both.
        if weights[is_same].any() and weights[~is_same].any():
            samples.append(_curve_metrics(*_rates(is_same, weights, ends), fars))
    return {name: [sample[name] for sample in samples] for name in samples[0]}


def _numbered_identities(identities, num_pairs):
    first, second = map(np.asarray, identities)
    if first.shape != (num_pairs,) or second.shape != (num_pairs,):
        raise ValueError(
            f"expected two identities for each of {num_pairs} pairs, "
            f"received shapes {first.shape} and {second.shape}"
        )
    _, numbers = np.unique(np.concatenate([first, second]), return_inverse=True)
    return numbers.reshape(2, -1)


def _sort(distances):
    """The order of the distances, and where in it the runs of equal ones end."""
    order = np.argsort(distances)
    return order, np.flatnonzero(np.diff(distances[order], append=np.inf))


def _rates(is_same, weights, ends):
    """`(far, tar)` of pairs in the order of their distances."""
    impostor, genuine = (np.cumsum(np.where(kind, weights, 0)) for kind in (~is_same, is_same))
    return tuple(np.append(0, accepted[ends] / accepted[-1]) for accepted in (impostor, genuine))


def _curve_metrics(far, tar, fars):
    metrics = {"eer": _equal_error_rate(far, tar), "auc": float(np.trapezoid(tar, far))}
    return metrics | {tar_name(asked): _tar_at_far(far, tar, asked) for asked in fars}


def _equal_error_rate(far, tar):
    return float(np.interp(0, far + tar - 1, far))


def _tar_at_far(far_curve, tar_curve, far):
    return float(tar_curve[np.searchsorted(far_curve, far, side="right") - 1])


def _can_measure(far, is_same):
    return np.size(is_same) - np.count_nonzero(is_same) >= 1 / far


def _checked_pairs(distances, is_same):
    distances, is_same = np.asarray(distances, np.float64), np.asarray(is_same)
    if is_same.dtype != bool or is_same.ndim != 1 or distances.shape != is_same.shape:
        raise ValueError(
            f"expected distances and booleans of one shape (pairs,), received shape {distances.shape}, "
            f"and {is_same.dtype} of shape {is_same.shape}"
        )
    if not np.isfinite(distances).all():
        number = np.flatnonzero(~np.isfinite(distances))[0]
        raise ValueError(f"expected finite distances, received {distances[number]} for pair {number}")
    if is_same.all() or not is_same.any():
        raise ValueError(
            f"expected genuine and impostor pairs, received {np.count_nonzero(is_same)} "
            f"and {np.count_nonzero(~is_same)}"
        )
    return distances, is_same
