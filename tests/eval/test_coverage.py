from pathlib import Path

import numpy as np
import pytest

from dataset.pairs.video_frames import VideoFrames
from dataset.pairs.video_pairs import VideoPairs
from eval.scoring.coverage import Coverage, FramesPerVideo, coverage_of, describe_coverage, scorable_pairs

PAIRS = VideoPairs(
    path=Path("splits.txt"),
    videos=("A/0", "A/1", "B/0", "C/0"),
    first=np.array([0, 0, 2, 3]),
    second=np.array([1, 2, 3, 1]),
    is_same=np.array([True, False, False, False]),
    splits=np.ones(4, int),
)


def frames_of(lengths, missing=(), empty=(), unusable=None):
    return VideoFrames(
        prefix=Path("frames"),
        videos=PAIRS.videos,
        paths=[f"{number}.jpg" for number in range(sum(lengths))],
        offsets=np.cumsum([0, *lengths]),
        missing=missing,
        empty=empty,
        unusable=unusable or {},
        image_size=(112, 112),
        sha256="0",
    )


def test_complete_coverage_is_one_line():
    coverage = coverage_of(PAIRS, frames_of([3, 4, 9, 1]), ("B/0", "D/7"))
    assert coverage.is_complete
    assert coverage == Coverage(
        videos=4,
        missing=(),
        empty=(),
        frames=17,
        unusable={},
        wrong_videos=1,
        pairs=4,
        genuine=1,
        impostor=3,
        pairs_left_out=0,
        frames_per_video=FramesPerVideo(min=1, median=3.5, max=9),
    )


@pytest.mark.parametrize(
    ("lacking", "shown"),
    [
        ({"missing": ("C/0",)}, "  missing: C/0"),
        ({"empty": ("C/0",)}, "  empty: C/0"),
        ({"unusable": {"C/0/1.jpg": "expected a JPEG"}}, "  unusable: C/0/1.jpg: expected a JPEG"),
    ],
)
def test_incomplete_coverage_lists_what_is_missing(lacking, shown):
    frames = frames_of([3, 4, 9, 0], **lacking)
    coverage = coverage_of(PAIRS, frames, ())
    assert not coverage.is_complete
    assert describe_coverage(coverage)[3:] == [shown]
    assert coverage.pairs_left_out == 2
    assert scorable_pairs(PAIRS, frames).tolist() == [True, True, False, False]
    assert coverage.frames_per_video.min == 3


def test_long_lists_are_cut():
    missing = tuple(f"X/{number}" for number in range(25))
    lines = describe_coverage(coverage_of(PAIRS, frames_of([1, 1, 1, 1], missing=missing), ()))
    assert lines[3:] == [*(f"  missing: X/{number}" for number in range(10)), "  missing: and 15 more"]
