"""Distances between the embeddings of pairs."""

import numpy as np

DISTANCES = ("cosine", "L2", "SSD")

# So few that what they are computed from stays in a core's cache.
_PAIRS_AT_ONCE = 256


def pair_distances(first, second, distance):
    """Distances between the embeddings of pairs.

    `"cosine"` is `1 - cos`, in [0, 2]; `"SSD"` the sum of squared differences and `"L2"` its
    root, both of the embeddings as they are: like the original, they do not normalise. A zero
    embedding has no direction and is at cosine distance 1 from everything.

    References:
    - margin-centre-face, `util/distance.py`

    Args:
        first, second: float, shape `(pairs, dim)`.
        distance: `"cosine"`, `"L2"` or `"SSD"`.

    Returns:
        float64 array, shape `(pairs,)`.

    Raises:
        ValueError: another distance, or shapes that do not match.
    """
    first, second = np.asarray(first), np.asarray(second)
    if first.ndim != 2 or first.shape != second.shape:
        raise ValueError(
            f"expected two arrays of one shape (pairs, dim), received {first.shape} and {second.shape}"
        )
    if distance not in DISTANCES:
        raise ValueError(f"expected distance cosine, L2 or SSD, received '{distance}'")
    distances = np.empty(len(first))
    # Some pairs at a time: float64 copies of all embeddings would be four times their memory.
    for start in range(0, len(first), _PAIRS_AT_ONCE):
        block = slice(start, start + _PAIRS_AT_ONCE)
        distances[block] = _distances(
            first[block].astype(np.float64), second[block].astype(np.float64), distance
        )
    return distances


def _distances(first, second, distance):
    if distance == "cosine":
        lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
        products = np.einsum("pd,pd->p", first, second)
        cosines = np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)
        return 1 - np.clip(cosines, -1, 1)
    squared = np.square(first - second).sum(axis=1)
    return np.sqrt(squared) if distance == "L2" else squared
