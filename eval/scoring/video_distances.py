"""Computes distances between videos by every method, in one pass over the features of their frames."""

from collections.abc import Sequence

import numpy as np
from threadpoolctl import threadpool_limits

from common.progress import Progress
from dataset.pairs.video_frames import evenly_spaced
from eval.scoring.distances import pair_distances
from eval.scoring.templates import FRAME_PAIRS, POOLINGS, frame_pair_distances, pool

METHODS = (*POOLINGS, *FRAME_PAIRS)
DEFAULT_METHOD = "normalised_mean"  # the original's


def video_distances(
    features: np.ndarray,
    offsets: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    methods: Sequence[str] = METHODS,
    max_frames: int | None = None,
    progress: bool = False,
) -> dict[str, np.ndarray]:
    """Computes cosine distances between videos.

    It reads the features one video at a time, so they may be larger than the memory.

    Args:
        features: float, shape `(num_frames, dim)`, such as a memory map. The rows of each video follow one
            another.
        offsets: int, shape `(num_videos + 1,)`: video `i` has the rows from `offsets[i]` to
            `offsets[i + 1] - 1`.
        first, second: int, shape `(num_pairs,)`: numbers of the videos. Each needs at least one frame.
        methods: some of `METHODS`.
        max_frames: largest number of frames of each video to use, evenly spaced, at least 1. Defaults to all.
        progress: show a progress bar.

    Returns:
        For each method, float64 of shape `(num_pairs,)`, in [0, 2].

    Raises:
        ValueError: a video has no frames, or features are not finite.
    """

    def frames(video):
        start, stop = offsets[video : video + 2]
        return features[start + evenly_spaced(stop - start, max_frames)]

    poolings = [method for method in methods if method in POOLINGS]
    frame_pairs = [method for method in methods if method in FRAME_PAIRS]
    videos = np.unique([first, second])
    total = len(videos) * bool(poolings) + len(first) * bool(frame_pairs)
    bar = Progress(desc="scoring", unit="videos and pairs", total=total, shown=progress)
    distances = {method: np.empty(len(first)) for method in methods}
    with bar:
        if poolings:
            templates = np.empty((len(poolings), len(videos), features.shape[1]))
            for place, video in enumerate(videos):
                video_frames = frames(video)
                templates[:, place] = [pool(video_frames, pooling) for pooling in poolings]
                bar.update()
            first_places, second_places = np.searchsorted(videos, [first, second])
            for pooling, pooled in zip(poolings, templates, strict=True):
                distances[pooling] = pair_distances(pooled[first_places], pooled[second_places], "cosine")
        if frame_pairs:
            # Products this small are slower on several threads, and fifty times slower if these are busy.
            with threadpool_limits(1):
                for pair, (one, other) in enumerate(zip(first, second, strict=True)):
                    by_method = frame_pair_distances(frames(one), frames(other))
                    for method in frame_pairs:
                        distances[method][pair] = by_method[method]
                    bar.update()
    return distances
