from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from eval.identify.annotation import annotate, annotated_paths, box_at
from eval.identify.results import UNKNOWN, Box, IdentifiedTrack, SourceResult
from eval.recognition.gallery import Match
from tests.portrait import write_picture, write_video

GREY = np.full((120, 161, 3), 90, np.uint8)


def make_track(name="Żaneta", frames=(2, 6), rejected=None):
    boxes = tuple(Box(frame, 10 * frame, 50, 10 * frame + 30, 90) for frame in frames)
    matches = () if rejected else (Match("Żaneta", 0.87),)
    return IdentifiedTrack(1, frames[0], frames[-1], 0, 1, 2, matches, name, rejected, boxes=boxes)


def frames_of(path):
    with av.open(str(path)) as container:
        return [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]


def is_changed(image, x, y):
    """Tells whether a pixel is coloured. Codecs change grey a little."""
    return np.abs(image[y, x].astype(int) - 90).max() > 40


class TestPaths:
    def test_one_source_is_copied_to_one_file(self):
        assert annotated_paths(Path("out.mp4"), [Path("a.mkv")]) == [Path("out.mp4")]
        assert annotated_paths(Path("out.png"), [Path("a.jpg")]) == [Path("out.png")]

    def test_copies_are_arranged_like_their_sources(self, tmp_path):
        (tmp_path / "b" / "frames").mkdir(parents=True)
        sources = [tmp_path / name for name in ("a/1.mkv", "b/1.mov", "b/2.PNG", "b/frames")]
        paths = annotated_paths(Path("out"), sources)
        assert paths == [Path("out", name) for name in ("a/1.mp4", "b/1.mp4", "b/2.jpg", "b/frames")]

    @pytest.mark.parametrize(
        ("target", "sources", "named"),
        [
            ("out.mp4", ["a.mkv", "b.mkv"], "out.mp4"),
            ("out.mp4", ["a.jpg"], "a.jpg"),
            ("out.jpg", ["a.mkv"], "a.mkv"),
            ("out.mp4", ["frames"], "frames"),
            ("out", ["a.mkv", "a.mov"], "a.mov"),
            ("a.mp4", ["a.mp4"], "a.mp4"),
            (".", ["a.mp4"], "a.mp4"),
        ],
    )
    def test_impossible_copies_are_refused(self, tmp_path, monkeypatch, target, sources, named):
        monkeypatch.chdir(tmp_path)
        Path("frames").mkdir()
        with pytest.raises(ValueError, match=named):
            annotated_paths(Path(target), [Path(source) for source in sources])


def test_a_box_moves_evenly_between_detections():
    track = make_track(frames=(2, 6))
    places = [box_at(track, (2, 6), number).tolist() for number in (2, 3, 6)]
    assert places == [[20, 50, 50, 90], [30, 50, 60, 90], [60, 50, 90, 90]]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_copied_video_keeps_its_times_and_shows_boxes(tmp_path, suffix):
    """Boxes are drawn from the first to the last detection."""
    times = [0, 0.04, 0.1, 0.3, 0.333, 0.5, 0.6, 1.0]
    source = write_video(tmp_path / "a.mkv", [GREY] * len(times), times=times)
    copy = tmp_path / "new" / f"copy{suffix}"
    result = SourceResult(source, "video", tracks=(make_track(), make_track(None, (0, 7), rejected="no")))
    annotate(result, copy, ["Żaneta"])
    frames = frames_of(copy)
    np.testing.assert_allclose([time for time, _ in frames], times, atol=0.001)
    drawn = [number for number, (_, image) in enumerate(frames) if np.ptp(image) > 60]
    assert drawn == [2, 3, 4, 5, 6]
    image = frames[4][1]
    assert image.shape == (120, 160, 3)
    assert is_changed(image, 40, 70) and is_changed(image, 70, 70)  # the sides of the box
    assert not is_changed(image, 55, 70)  # between them
    assert is_changed(image, 42, 44)  # the label
    assert not list(copy.parent.glob("*.tmp"))


def test_letters_that_are_not_ascii_are_drawn(tmp_path):
    """OpenCV would draw question marks."""
    source = write_picture(tmp_path / "a.png", GREY)
    pictures = []
    for number, name in enumerate(("Zaneta", "Żaneta", "?aneta", "?")):
        copy = tmp_path / f"{number}.png"
        annotate(SourceResult(source, "picture", tracks=(make_track(name, (0,)),)), copy, [name])
        pictures.append(copy.read_bytes())
    assert len(set(pictures)) == 4


def test_known_people_have_colours_and_unknown_ones_are_grey(tmp_path):
    source = write_picture(tmp_path / "a.png", GREY)
    pixels = []
    for name in ("anna", "ben", UNKNOWN):
        annotate(
            SourceResult(source, "picture", tracks=(make_track(name, (0,)),)),
            tmp_path / "b.png",
            ["anna", "ben"],
        )
        pixels.append(cv2.imread(str(tmp_path / "b.png"))[70, 0].astype(int))
    assert np.ptp(pixels[0]) > 60 and np.ptp(pixels[1]) > 60 and np.abs(pixels[0] - pixels[1]).max() > 60
    assert np.ptp(pixels[2]) == 0


def test_a_folder_of_pictures_is_copied_to_a_folder(tmp_path):
    for name in ("1.png", "2.png"):
        write_picture(tmp_path / "frames" / name, GREY)
    result = SourceResult(tmp_path / "frames", "folder", tracks=(make_track("A", (1,)),))
    annotate(result, tmp_path / "out", ["A"])
    assert not cv2.absdiff(cv2.imread(str(tmp_path / "out" / "1.png")), GREY).any()
    assert cv2.absdiff(cv2.imread(str(tmp_path / "out" / "2.png")), GREY).any()


def test_labels_stay_in_the_picture(tmp_path):
    """The box may be at the edges of the picture, beyond them, or wider than the picture."""
    source = write_picture(tmp_path / "a.png", np.full((40, 50, 3), 90, np.uint8))
    for corners in ((-20, -20, 5, 5), (45, 30, 90, 70), (-10, -10, 80, 80), (10, 2, 20, 12)):
        track = IdentifiedTrack(
            1, 0, 0, 0, 0, 1, (Match("A long name", 0.9),), "A long name", boxes=(Box(0, *corners),)
        )
        annotate(SourceResult(source, "picture", tracks=(track,)), tmp_path / "b.png", ["A long name"])
        assert np.ptp(cv2.imread(str(tmp_path / "b.png"))) > 60
