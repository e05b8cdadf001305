import numpy as np
import pytest

from dataset.video import read_video, video_info
from tests.portrait import moving, scene, write_video


def numbers_and_times(path):
    return [(frame.number, round(frame.time, 3)) for frame in read_video(path)]


def test_frames_have_numbers_times_and_pixels(tmp_path):
    frames = moving(6)
    path = write_video(tmp_path / "a.mp4", frames)
    assert numbers_and_times(path) == [(i, i / 10) for i in range(6)]
    for frame, expected in zip(read_video(path), frames, strict=True):
        assert frame.image.dtype == np.uint8
        assert np.abs(frame.image.astype(int) - expected).mean() < 4
    info = video_info(path)
    assert (info.size, info.fps, info.num_frames, info.codec) == ((240, 320), 10, 6, "mpeg4")
    assert info.duration == pytest.approx(0.6)


def test_times_of_a_variable_frame_rate(tmp_path):
    times = [0, 0.1, 0.15, 0.9, 2]
    path = write_video(tmp_path / "a.mkv", moving(5), times=times)
    assert numbers_and_times(path) == list(enumerate(times))


def test_an_empty_file(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"a\.mp4.*empty"):
        next(read_video(path))


def test_large_frames_are_refused(tmp_path):
    path = write_video(tmp_path / "a.mp4", [scene()])
    with pytest.raises(ValueError, match=r"a\.mp4.*76799.*240x320"):
        next(read_video(path, max_pixels=240 * 320 - 1))
