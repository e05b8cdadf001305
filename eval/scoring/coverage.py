"""Counts the videos, frames and pairs that an evaluation can use."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from dataset.pairs.video_frames import VideoFrames
from dataset.pairs.video_pairs import VideoPairs

_SHOWN = 10  # names in a message


@dataclasses.dataclass(frozen=True)
class FramesPerVideo:
    """Smallest, median and largest number of frames per video, over the videos that have frames."""

    min: int
    median: float
    max: int


@dataclasses.dataclass(frozen=True)
class Coverage:
    """Counts of the videos, frames and pairs of a set, and the names of those that cannot be used.

    Attributes:
        videos: number of videos that the pairs name.
        missing: videos without a folder.
        empty: videos whose folder has no usable frame.
        frames: number of usable frames.
        unusable: paths of the unusable frames, with the reason.
        wrong_videos: number of videos of the pairs that are listed as wrong.
        pairs, genuine, impostor: number of pairs: all, genuine and impostor.
        pairs_left_out: number of pairs in which a video has no frames.
    """

    videos: int
    missing: tuple[str, ...]
    empty: tuple[str, ...]
    frames: int
    unusable: dict[str, str]
    wrong_videos: int
    pairs: int
    genuine: int
    impostor: int
    pairs_left_out: int
    frames_per_video: FramesPerVideo

    @property
    def videos_found(self) -> int:
        """Number of videos that have frames."""
        return self.videos - len(self.missing) - len(self.empty)

    @property
    def is_complete(self) -> bool:
        """True if every video and every frame can be used."""
        return not (self.missing or self.empty or self.unusable)


def coverage_of(pairs: VideoPairs, frames: VideoFrames, wrong_videos: Sequence[str]) -> Coverage:
    """Counts the videos, frames and pairs that can be used. `frames` must be those of `pairs.videos`."""
    found = frames.frames_per_video[frames.frames_per_video > 0]
    return Coverage(
        videos=len(pairs.videos),
        missing=tuple(frames.missing),
        empty=tuple(frames.empty),
        frames=len(frames),
        unusable=dict(frames.unusable),
        wrong_videos=len(set(wrong_videos) & set(pairs.videos)),
        pairs=len(pairs),
        genuine=int(np.count_nonzero(pairs.is_same)),
        impostor=int(np.count_nonzero(~pairs.is_same)),
        pairs_left_out=int(np.count_nonzero(~scorable_pairs(pairs, frames))),
        frames_per_video=FramesPerVideo(int(found.min()), float(np.median(found)), int(found.max())),
    )


def scorable_pairs(pairs: VideoPairs, frames: VideoFrames) -> np.ndarray:
    """Returns which pairs have frames on both sides: bool, shape `(num_pairs,)`."""
    has_frames = frames.frames_per_video > 0
    return has_frames[pairs.first] & has_frames[pairs.second]


def describe_coverage(coverage: Coverage) -> list[str]:
    """Returns the coverage as lines of text, with up to ten names of each kind of problem."""
    per_video = coverage.frames_per_video
    missing, empty, unusable = coverage.missing, coverage.empty, coverage.unusable
    lines = [
        f"Videos : {coverage.videos} named, {coverage.videos_found} found, "
        f"{len(missing)} missing, {len(empty)} empty; {coverage.wrong_videos} listed as wrong",
        f"Frames : {coverage.frames}, {per_video.min} to {per_video.max} per video; {len(unusable)} unusable",
        f"Pairs : {coverage.pairs}, {coverage.genuine} genuine and {coverage.impostor} impostor; "
        f"{coverage.pairs_left_out} left out",
    ]
    reasons = [f"{path}: {reason}" for path, reason in unusable.items()]
    for kind, names in (("missing", missing), ("empty", empty), ("unusable", reasons)):
        lines += [f"  {kind}: {name}" for name in names[:_SHOWN]]
        if len(names) > _SHOWN:
            lines.append(f"  {kind}: and {len(names) - _SHOWN} more")
    return lines
