"""Distances between videos, from the features of their frames, by every method in one pass."""

import numpy as np
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from dataset.pairs.video_frames import evenly_spaced
from eval.scoring.distances import pair_distances
from eval.scoring.templates import FRAME_PAIRS, POOLINGS, frame_pair_distances, pool

METHODS = (*POOLINGS, *FRAME_PAIRS)
DEFAULT_METHOD = "normalised_mean"  # the original's


def video_distances(features, offsets, first, second, methods=METHODS, max_frames=None, progress=False):
    """Cosine distances between videos.

    The features are read one video at a time, so they may be larger than the memory.

    Args:
        features: float array, shape `(num_frames, dim)`, such as a memory map; the frames of a video
            follow one another.
        offsets: int array, shape `(num_videos + 1,)`: video `i` has the frames from `offsets[i]` to
            `offsets[i + 1]`.
        first, second: int arrays, shape `(num_pairs,)`: numbers of videos, of at least one frame each.
        methods: of `METHODS`. Defaults to all.
        max_frames: int > 0, how many frames of each video to use, evenly spaced. Defaults to all.
        progress: bool, show a progress bar.

    Returns:
        dict from method to float64 array, shape `(num_pairs,)`, in [0, 2].

    Raises:
        ValueError: an unknown method, a video without frames, or features that are not finite.
    """
    unknown = set(methods) - set(METHODS)
    if unknown:
        raise ValueError(
            f"expected methods among {', '.join(METHODS)}, received {', '.join(sorted(unknown))}"
        )

    def frames(video):
        start, stop = offsets[video : video + 2]
        return features[start + evenly_spaced(stop - start, max_frames)]

    poolings = [method for method in methods if method in POOLINGS]
    frame_pairs = [method for method in methods if method in FRAME_PAIRS]
    videos = np.unique([first, second])
    bar = tqdm(
        desc="scores",
        total=len(videos) * bool(poolings) + len(first) * bool(frame_pairs),
        disable=None if progress else True,
        leave=False,
    )
    distances = {method: np.empty(len(first)) for method in methods}
    with bar:
        if poolings:
            templates = np.empty((len(poolings), len(videos), features.shape[1]))
            for place, video in enumerate(videos):
                of_video = frames(video)
                templates[:, place] = [pool(of_video, pooling) for pooling in poolings]
                bar.update()
            places = np.searchsorted(videos, [first, second])
            for pooling, of_pooling in zip(poolings, templates, strict=True):
                distances[pooling] = pair_distances(*of_pooling[places], "cosine")
        if frame_pairs:
            # Products this small take longer on several threads, and fifty times as long on busy ones.
            with threadpool_limits(1):
                for pair, (one, other) in enumerate(zip(first, second, strict=True)):
                    of_pair = frame_pair_distances(frames(one), frames(other))
                    for method in frame_pairs:
                        distances[method][pair] = of_pair[method]
                    bar.update()
    return distances
