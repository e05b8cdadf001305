"""Pools the embeddings of a video's frames into a template, and compares videos frame by frame."""

import numpy as np

# The poolings that are weighted sums of directions. The weight of a frame is its norm to this power.
NORM_POWERS = {"mean": 1, "normalised_mean": 0, "norm_weighted": 2}
POOLINGS = (*NORM_POWERS, "geometric_median")
RECOMMENDED_POOLING = "mean"
FRAME_PAIRS = ("best_frames", "mean_frames", "median_frames")

# The iteration of the geometric median stops after a step this short, and has reached a point this near.
_TOLERANCE = 1e-10
# A dozen iterations are usual. If one of the points is barely the median, the steps towards it become tiny.
_MAX_ITERATIONS = 1000


def pool(frames: np.ndarray, pooling: str) -> np.ndarray:
    """Computes the template of a video.

    With `u_i = x_i / |x_i|` the direction of frame `i`, the template is, normalised to length 1,

        mean              sum |x_i| u_i = sum x_i
        normalised_mean   sum u_i
        norm_weighted     sum |x_i|^2 u_i
        geometric_median  argmin_m sum |u_i - m|

    So the plain `"mean"` already weights the directions by the norm, which is how AdaFace fuses features.
    `"norm_weighted"` weights by its square: if the norm is a quality inversely proportional to the deviation
    of a direction, these are the inverse variances that Probabilistic Face Embeddings fuse with.
    `"normalised_mean"` is the original's. Fewer than half of the frames cannot move the `"geometric_median"`
    far. Zero embeddings have no direction and are left out. If all embeddings are zero, or if they cancel
    out, the template is zero and at cosine distance 1 from everything.

    References:
    - margin-centre-face, `eval/test_ytf.py` (`"normalised_mean"`)
    - [AdaFace](https://arxiv.org/abs/2204.00964), and `utils.py::fuse_features_with_norm` of its code
    - [MagFace](https://arxiv.org/abs/2103.06627): the norm as quality
    - [Probabilistic Face Embeddings](https://arxiv.org/abs/1904.09658), section 3.3

    Args:
        frames: float, finite, shape `(num_frames, dim)`, not empty; need not be normalised.
        pooling: one of `POOLINGS`.

    Returns:
        float64, shape `(dim,)`, of length 1, or 0 as above.

    Raises:
        ValueError: no frame, or a frame that is not finite.

    Example:

    >>> pool(np.array([[3.0, 0.0], [0.0, 1.0]]), "norm_weighted").round(3)
    array([0.994, 0.11 ])
    """
    directions, norms = _directions(frames)
    if not norms.size:
        return np.zeros(directions.shape[1])
    if pooling == "geometric_median":
        pooled = geometric_median(directions)
    else:
        pooled = norms ** NORM_POWERS[pooling] @ directions
    length = np.linalg.norm(pooled)
    return pooled / length if length > 0 else pooled


def geometric_median(points: np.ndarray) -> np.ndarray:
    """Computes the point with the smallest sum of distances to all points.

    Its breakdown point is 1/2: to move it without bound, half of the points have to be moved. It is unique
    unless the points are on one line. There it is a median of their positions on the line: the one that the
    iteration reaches from the mean.

    Weiszfeld's iteration starts at the mean. It steps from `m` to the mean weighted by `1 / |x_i - m|`, which
    is not defined if `num_here` of the points are at `m`. Each other point pulls `m` with a force of 1, and
    the sum of these pulls has length `strength`. The points at `m` hold it with a force of `num_here`.

    References:
    - Weiszfeld 1937, Tohoku Mathematical Journal 43, 355
    - [Vardi and Zhang 2000](https://doi.org/10.1073/pnas.97.4.1423), the correction at a point
    - [Lopuhaä and Rousseeuw 1991](https://doi.org/10.1214/aos/1176347978), the breakdown point

    Args:
        points: float, finite, shape `(num_points, dim)`, not empty.

    Returns:
        float64, shape `(dim,)`.
    """
    points = np.asarray(points, np.float64)
    median = points.mean(axis=0)
    for _ in range(_MAX_ITERATIONS):
        offsets = points - median
        distances = np.sqrt(np.einsum("pd,pd->p", offsets, offsets))
        apart = distances > _TOLERANCE
        weights = np.divide(1, distances, out=np.zeros_like(distances), where=apart)
        num_here = np.count_nonzero(~apart)
        pull = weights @ offsets
        strength = np.linalg.norm(pull)
        if strength <= num_here:
            break
        step = (1 - num_here / strength) / weights.sum() * pull
        median += step
        if np.linalg.norm(step) <= _TOLERANCE:
            break
    return median


def frame_pair_distances(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """Computes distances between two videos from all pairs of their frames, without pooling.

    These are the smallest, the mean and the median cosine distance, in [0, 2]. The mean is 1 minus the
    product of the means of the normalised frames. The other two come from float32 cosines, accurate to 1e-6.
    Zero embeddings have no direction and are left out. If a video has only zero embeddings, all distances
    are 1.

    Args:
        first, second: float, finite, shapes `(num_first, dim)` and `(num_second, dim)`, not empty.

    Returns:
        A value for each of `FRAME_PAIRS`.

    Raises:
        ValueError: no frame, or a frame that is not finite.
    """
    first, _ = _directions(first)
    second, _ = _directions(second)
    if not first.size or not second.size:
        return dict.fromkeys(FRAME_PAIRS, 1.0)
    cosines = first.astype(np.float32) @ second.astype(np.float32).T
    best, mean = cosines.max(), first.mean(axis=0) @ second.mean(axis=0)
    median = np.median(cosines, overwrite_input=True)  # A copy would double the memory for long videos.
    distances = 1 - np.clip(np.array([best, mean, median], np.float64), -1, 1)
    return dict(zip(FRAME_PAIRS, distances.tolist(), strict=True))


def _directions(frames):
    """Returns unit vectors `(num_used, dim)` and norms `(num_used,)` of the frames that are not zero."""
    frames = np.asarray(frames, np.float64)
    if not len(frames):
        raise ValueError("expected at least one frame")
    norms = np.linalg.norm(frames, axis=1)
    if not np.isfinite(norms).all():
        number = np.flatnonzero(~np.isfinite(norms))[0]
        raise ValueError(f"frame {number}: expected a finite embedding, received NaN or infinity")
    if not norms.all():
        frames, norms = frames[norms > 0], norms[norms > 0]
    return frames / norms[:, np.newaxis], norms
