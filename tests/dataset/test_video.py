import gc
import struct
import wave
from fractions import Fraction

import av
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


def test_times_follow_a_variable_frame_rate(tmp_path):
    times = [0, 0.1, 0.15, 0.9, 2]
    path = write_video(tmp_path / "a.mkv", moving(5), times=times)
    assert numbers_and_times(path) == list(enumerate(times))


def test_an_empty_file_is_an_error(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"a\.mp4.*empty"):
        next(read_video(path))


def test_large_frames_are_refused(tmp_path):
    path = write_video(tmp_path / "a.mp4", [scene()])
    with pytest.raises(ValueError, match=r"a\.mp4.*76799.*240x320"):
        next(read_video(path, max_pixels=240 * 320 - 1))


def damage_of(path):
    sentences = []
    return [frame.number for frame in read_video(path, on_damage=sentences.append)], sentences


def test_a_video_that_was_cut_off_is_reported(tmp_path):
    path = write_video(tmp_path / "a.mkv", moving(40))
    content = path.read_bytes()
    assert damage_of(path) == (list(range(40)), [])
    path.write_bytes(content[: len(content) // 2])
    numbers, (sentence,) = damage_of(path)
    assert numbers == list(range(len(numbers)))
    assert 5 < len(numbers) < 35
    assert str(path) in sentence
    assert f"{len(numbers) / 10:.1f} of 4.0 seconds" in sentence
    # An MP4 file has its index at the end.
    path = write_video(tmp_path / "a.mp4", moving(4))
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(ValueError, match=r"a\.mp4"):
        next(read_video(path))


def test_damaged_frames_are_left_out(tmp_path):
    path = write_video(tmp_path / "a.mp4", moving(30))
    content = bytearray(path.read_bytes())
    for place in np.random.default_rng(0).integers(len(content) // 4, len(content) // 2, 20):
        content[place] ^= 0xFF
    path.write_bytes(content)
    numbers, (sentence,) = damage_of(path)
    assert 10 < len(numbers) < 30
    assert f"{30 - len(numbers)} of its frames" in sentence
    assert 2.5 < max(frame.time for frame in read_video(path)) <= 2.9


@pytest.mark.parametrize(
    ("matrix", "turn"),
    [
        ((1, 0, 0, 1), lambda picture: picture),
        ((0, 1, -1, 0), lambda picture: np.rot90(picture, -1)),
        ((-1, 0, 0, -1), lambda picture: np.rot90(picture, 2)),
        ((0, -1, 1, 0), lambda picture: np.rot90(picture)),
        ((-1, 0, 0, 1), lambda picture: picture[:, ::-1]),
        ((0, 1, 1, 0), lambda picture: picture.swapaxes(0, 1)),
    ],
)
def test_frames_are_upright(tmp_path, matrix, turn):
    """The track header of an MP4 file tells how its frames are rotated."""
    stored = scene(x=60, y=80)
    path = write_video(tmp_path / "a.mp4", [stored] * 2)
    content = bytearray(path.read_bytes())
    # Version, times, number, layer and volume come before the matrix in the header.
    start = content.index(b"tkhd") + 4 + 4 + 20 + 8 + 8
    a, b, c, d = (65536 * number for number in matrix)
    content[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    expected = turn(stored)
    assert video_info(path).size == expected.shape[:2]
    for frame in read_video(path):
        assert np.abs(frame.image.astype(int) - expected).mean() < 4


def test_pixels_become_square(tmp_path):
    path = write_video(tmp_path / "a.mp4", [scene()] * 2, pixel_aspect=Fraction(3, 2))
    assert video_info(path).size == (240, 480)
    assert next(read_video(path)).image.shape == (240, 480, 3)


def test_a_video_without_times_gets_25_frames_per_second(tmp_path):
    """A raw stream has neither times nor a length. FFmpeg assumes 25 frames per second."""
    path = write_video(tmp_path / "a.h264", moving(5), codec="libx264")
    assert numbers_and_times(path) == [(i, i / 25) for i in range(5)]
    assert (video_info(path).duration, video_info(path).num_frames) == (None, None)


def test_times_continue_where_recordings_are_joined(tmp_path):
    path = write_video(tmp_path / "a.ts", moving(4), codec="libx264")
    path.write_bytes(path.read_bytes() * 2)
    times = [frame.time for frame in read_video(path)]
    assert len(times) > 6
    np.testing.assert_allclose(np.diff(times), 0.1, atol=0.001)


def test_a_video_without_decodable_frames_is_an_error(tmp_path):
    path = write_video(tmp_path / "a.mp4", moving(4))
    content = path.read_bytes()
    start, stop = content.index(b"mdat") + 4, content.index(b"moov") - 4
    path.write_bytes(content[:start] + bytes(stop - start) + content[stop:])
    with pytest.raises(ValueError, match=r"a\.mp4"):
        list(read_video(path))


def test_other_files_are_errors(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"text" * 100)
    with pytest.raises(ValueError, match=r"a\.mp4"):
        next(read_video(path))
    with pytest.raises(FileNotFoundError, match=r"b\.mp4"):
        video_info(tmp_path / "b.mp4")
    path = tmp_path / "a.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(1600))
    with pytest.raises(ValueError, match=r"a\.wav.*video stream"):
        next(read_video(path))


def test_frames_are_converted_when_they_are_used(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4", moving(6))
    converted = []
    monkeypatch.setattr("dataset.video._turn_upright", lambda pixels, _matrix: converted.append(1) or pixels)
    for frame in read_video(path):
        if frame.number % 5 == 0:
            assert frame.image is frame.image
    assert len(converted) == 2


def test_decoded_frames_are_freed_at_once(tmp_path):
    """Python's garbage collection counts objects, not bytes, so frames must be freed without it."""
    path = write_video(tmp_path / "a.mp4", moving(40))
    gc.collect()
    gc.disable()
    try:
        most = 0
        for frame in read_video(path):
            assert frame.image.size
            most = max(most, sum(isinstance(item, av.VideoFrame) for item in gc.get_objects()))
    finally:
        gc.enable()
    assert 1 <= most <= 8
