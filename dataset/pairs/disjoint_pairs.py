"""Draws genuine and impostor pairs from your own data. No identity is in more than one fold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np


def make_disjoint_pairs(
    items: Mapping[str, Sequence[str]], num_folds: int, pairs_per_fold: int, seed: int = 0
) -> list[tuple[int, str, str, bool]]:
    """Draws equally many genuine and impostor pairs at random, the same number in every fold.

    Each identity belongs to one fold, so a threshold is never tested on people that it was fitted to. No
    pair occurs twice, and no item is paired with itself. Within a fold, all identities are used equally
    often if they have enough items, so one with thousands of items does not dominate. If a fold cannot have
    `pairs_per_fold` pairs of each kind, all folds get as many as the smallest.

    Args:
        items: dict from identity to its items, which are images or videos.
        num_folds: at least 2.
        pairs_per_fold: largest number of pairs of each kind in a fold, at least 1.
        seed: at least 0. Defaults to `0`.

    Returns:
        `(fold, first item, second item, is same)` in the order of the folds, numbered from 1. The genuine
        pairs of a fold come first. `even_folds` of `eval/scoring/verification.py` finds the same folds.

    Raises:
        ValueError: a fold would have no genuine or no impostor pair.
    """
    groups = list(items.values())
    sizes = np.array([len(group) for group in groups], np.int64)
    _check_identities(sizes, num_folds)
    rng = np.random.default_rng(seed)
    folds = _assign_identities(sizes, num_folds, pairs_per_fold, rng)
    available = (_num_pairs(sizes[fold].sum(), _choose_two(sizes[fold]).sum()) for fold in folds)
    num_pairs = int(min(pairs_per_fold, *available))
    rows = []
    for number, fold in enumerate(folds, start=1):
        members = [groups[identity] for identity in rng.permutation(fold)]
        rows += [(number, *pair, True) for pair in _genuine(members, num_pairs, rng)]
        rows += [(number, *pair, False) for pair in _impostor(members, num_pairs, rng)]
    return rows


def _check_identities(sizes, num_folds):
    num_pairable = np.count_nonzero(sizes >= 2)
    if num_pairable < num_folds:
        raise ValueError(
            f"expected at least {num_folds} identities with two images or videos, so that each fold has a "
            f"genuine pair, received {num_pairable} of {sizes.size} identities"
        )
    if sizes.size < 2 * num_folds:
        raise ValueError(
            f"expected at least {2 * num_folds} identities, so that each fold has an impostor pair, "
            f"received {sizes.size}"
        )


def _assign_identities(sizes, num_folds, pairs_per_fold, rng):
    """Assigns identities to folds, the largest first, each to the fold with the fewest pairs.

    A fold with one identity has no pairs yet, so each fold gets a second identity before any gets a third.
    An identity with a single item adds no genuine pair and goes to the fold with the fewest identities.
    """
    order = rng.permutation(sizes.size)
    order = order[np.argsort(-sizes[order], kind="stable")]
    folds = [[] for _ in range(num_folds)]
    num_identities, num_items, num_genuine = np.zeros((3, num_folds), np.int64)
    for identity in order.tolist():
        size = sizes[identity]
        num_pairs = np.minimum(_num_pairs(num_items, num_genuine), pairs_per_fold) * (size > 1)
        fold = np.lexsort((num_genuine, num_identities, num_pairs))[0]  # sorts by the last key first
        folds[fold].append(identity)
        num_identities[fold] += 1
        num_items[fold] += size
        num_genuine[fold] += _choose_two(size)
    return folds


def _num_pairs(num_items, num_genuine):
    """Returns the number of pairs of each kind that a fold can have."""
    return np.minimum(num_genuine, _choose_two(num_items) - num_genuine)


def _genuine(members, num_pairs, rng):
    capacities = np.array([_choose_two(len(items)) for items in members])
    for items, capacity, share in zip(members, capacities, _shares(capacities, num_pairs), strict=True):
        for number in rng.choice(capacity, share, replace=False).tolist():
            # Pairs (first < second) are numbered by the second, then by the first.
            second = (1 + math.isqrt(1 + 8 * number)) // 2
            yield items[number - _choose_two(second)], items[second]


def _impostor(members, num_pairs, rng):
    # Put the identities on a circle. Pair neighbours first, then those two places apart, and so on. Each
    # round uses all identities equally, and the rounds find every pair of identities once.
    numbers = np.arange(min(num_pairs, _choose_two(len(members))))
    distances, firsts = np.divmod(numbers, len(members))
    seconds = (firsts + distances + 1) % len(members)
    sizes = np.array([len(items) for items in members])
    capacities = sizes[firsts] * sizes[seconds]
    for first, second, share in zip(firsts, seconds, _shares(capacities, num_pairs), strict=True):
        for number in rng.choice(sizes[first] * sizes[second], share, replace=False).tolist():
            row, column = divmod(number, len(members[second]))
            yield members[first][row], members[second][column]


def _shares(capacities, total):
    """Divides `total` equally, as far as the capacities allow. Their sum must be at least `total`."""
    shares = np.zeros_like(capacities)
    while left := total - shares.sum():
        takers = np.flatnonzero(shares < capacities)[:left]
        shares[takers] += np.minimum(capacities[takers] - shares[takers], left // takers.size)
    return shares


def _choose_two(count):
    return count * (count - 1) // 2
