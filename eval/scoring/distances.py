"""Computes distances between the embeddings of pairs."""

import numpy as np

DISTANCES = ("cosine", "L2", "SSD")

PAIRS_AT_ONCE = 256  # Few enough that their embeddings stay in a core's cache.


def pair_distances(first: np.ndarray, second: np.ndarray, distance: str) -> np.ndarray:
    """Computes distances between the embeddings of pairs.

    `"cosine"` is `1 - cos`, in [0, 2]. `"SSD"` is the sum of squared differences, and `"L2"` is its square
    root. Like the original, these two do not normalise the embeddings. A zero embedding has no direction and
    is at cosine distance 1 from everything.

    References:
    - margin-centre-face, `util/distance.py`

    Args:
        first, second: float, shape `(pairs, dim)`.
        distance: one of `DISTANCES`.

    Returns:
        float64, shape `(pairs,)`.
    """
    distances = np.empty(len(first))
    # Float64 copies of all embeddings would take four times their memory, so this works in blocks.
    for start in range(0, len(first), PAIRS_AT_ONCE):
        block = slice(start, start + PAIRS_AT_ONCE)
        one, other = (embeddings[block].astype(np.float64) for embeddings in (first, second))
        distances[block] = _distances(one, other, distance)
    return distances


def _distances(first, second, distance):
    if distance == "cosine":
        lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
        products = np.einsum("pd,pd->p", first, second)
        cosines = np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)
        return 1 - np.clip(cosines, -1, 1)
    squared = np.square(first - second).sum(axis=1)
    return np.sqrt(squared) if distance == "L2" else squared
