import dataclasses

import cv2
import numpy as np
import pytest

from dataset.align.alignment import face_template
from eval.recognition.faces import Face, find_faces, frontality, misplaced_points
from eval.recognition.sources import Picture, open_source
from eval.recognition.tracks import NUM_PICTURES, TrackOptions, find_tracks
from eval.scoring.templates import pool
from tests.portrait import moving, portrait, scene, write_picture, write_video

TEMPLATE = face_template((112, 112))
COLOURS = {"red": (220, 30, 30), "green": (30, 220, 30), "blue": (30, 30, 220)}
# The cosines to red are 0.85, 0.5, 0.0, 0.4, 0.1 and 0.85. The cosine of rose and yellow is 0.
COLOURS |= {"orange": (220, 130, 30), "yellow": (220, 220, 30), "lime": (130, 220, 30)}
COLOURS |= {"pink": (180, 30, 200), "violet": (150, 30, 230), "rose": (220, 30, 130)}


@dataclasses.dataclass
class Shown:
    """A coloured square that stands for a face; the colour is the person."""

    person: str
    x: float
    y: float = 40
    side: float = 40
    score: float = 0.99


def draw(faces, size=(96, 160)):
    picture = np.full((*size, 3), 128, np.uint8)
    for face in faces:
        corner = (int(face.x), int(face.y))
        far = (int(face.x + face.side), int(face.y + face.side))
        cv2.rectangle(picture, corner, far, COLOURS[face.person], -1)
    return picture


class Script:
    """A detector that knows what each frame shows."""

    def __init__(self, frames):
        self._frames = iter(frames)

    def find(self, image):
        faces = next(self._frames)
        corners = np.array([(face.x, face.y) for face in faces]).reshape(-1, 2)
        sides = np.array([face.side for face in faces]).reshape(-1, 1)
        points = corners[:, None] + TEMPLATE / 112 * sides[:, None]
        return np.hstack([corners, corners + sides]), points, np.array([face.score for face in faces])


class ColourEmbedder:
    """Embeds a face as its mean colour, without grey."""

    face_size = (112, 112)

    def __init__(self):
        self.batches = []

    def embed(self, faces):
        self.batches.append(len(faces))
        colours = faces.reshape(len(faces), -1, 3).mean(axis=1, dtype=np.float32)
        return colours - colours.mean(axis=1, keepdims=True)


def follow(tmp_path, frames, fps=5, embedder=None, **options):
    """Tracks of a video of `frames`, lists of `Shown`; every frame is searched."""
    path = write_video(tmp_path / "a.mkv", [draw(faces) for faces in frames], fps=fps)
    options = {"every": 1} | options
    searched = frames[:: options["every"]]
    return find_tracks(path, embedder or ColourEmbedder(), TrackOptions(**options), Script(searched))


def frames_of(track):
    return [face.frame for face in track.faces]


def walk(person, num_frames, start=10.0, step=5.0, **shown):
    return [[Shown(person, start + step * i, **shown)] for i in range(num_frames)]


def test_people_who_cross_keep_their_tracks(tmp_path):
    ways = zip(walk("red", 9, 0, 12, y=30), walk("green", 9, 110, -12, y=48), strict=True)
    found = follow(tmp_path, [first + second for first, second in ways])
    assert [frames_of(track) for track in found.tracks] == [list(range(9))] * 2
    for track, axis in zip(found.tracks, (0, 1), strict=True):
        assert np.argmax(track.template) == axis
        np.testing.assert_allclose(np.linalg.norm(track.template), 1)


def test_another_person_in_the_same_place_is_another_track(tmp_path):
    found = follow(tmp_path, walk("red", 4, step=0) + walk("blue", 4, step=0))
    assert [frames_of(track) for track in found.tracks] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert [track.number for track in found.tracks] == [1, 2]


def test_the_best_matches_are_made_first(tmp_path):
    """Two people who resemble each other walk past each other, and each could continue both tracks."""
    first = [Shown("red", 40, y=15), Shown("orange", 60, y=35)]
    second = [Shown("red", 51, y=15), Shown("orange", 49, y=35)]
    found = follow(tmp_path, [first, first, first, second, second])
    assert [frames_of(track) for track in found.tracks] == [list(range(5))] * 2
    for track in found.tracks:
        assert np.ptp([face.box[1] for face in track.faces]) == 0


def test_a_track_has_one_face_per_frame(tmp_path):
    """A mirror shows a person twice. The place tells them apart."""
    frames = [[*faces, Shown("red", 10)] if i else faces for i, faces in enumerate(walk("red", 5, 50, 0))]
    found = follow(tmp_path, frames)
    assert [frames_of(track) for track in found.tracks] == [[0, 1, 2, 3, 4], [1, 2, 3, 4]]
    assert {face.box[0] for face in found.tracks[0].faces} == {50}


def test_min_similarity_decides_whether_a_track_continues(tmp_path):
    frames = [walk(person, 1, step=0)[0] for person in ("red", "red", "pink", "red", "red")]
    (track,) = follow(tmp_path, frames, min_similarity=0.3).tracks
    assert frames_of(track) == list(range(5))
    (track,) = follow(tmp_path, frames).tracks
    assert frames_of(track) == [0, 1, 3, 4]


def test_similarity_to_the_last_face_or_to_the_mean_is_enough(tmp_path):
    for people in (["red"] * 6 + ["orange", "yellow", "lime"], ["red"] * 6 + ["orange", "yellow", "rose"]):
        (track,) = follow(tmp_path, [walk(person, 1)[0] for person in people]).tracks
        assert frames_of(track) == list(range(9))


def test_unusable_faces_do_not_change_whom_a_track_follows(tmp_path):
    frames = walk("red", 3, step=0) + walk("pink", 4, step=0, score=0.8) + walk("violet", 3, step=0)
    found = follow(tmp_path, frames, min_similarity=0.3)
    assert [frames_of(track) for track in found.tracks] == [list(range(7)), [7, 8, 9]]


def test_a_track_ends_where_only_unusable_faces_follow(tmp_path):
    frames = walk("red", 3, step=0) + walk("red", 9, step=0, score=0.8)
    found = follow(tmp_path, frames)
    assert [frames_of(track) for track in found.tracks] == [list(range(8))]
    assert [frames_of(track) for track in found.rejected] == [[8, 9, 10, 11]]


def test_pictures_of_rejected_faces_are_limited(tmp_path, monkeypatch):
    monkeypatch.setattr("eval.recognition.tracks._NUM_REJECTED_PICTURES", 3)
    (dropped,) = follow(tmp_path, walk("red", 6, score=0.8)).rejected
    assert [face.image is not None for face in dropped.faces] == [True] * 3 + [False] * 3
    assert len(dropped.best) == 3


def test_a_short_gap_is_bridged_and_a_long_one_is_not(tmp_path):
    frames = walk("red", 20, step=2)
    for i in (3, 4, 5, *range(9, 16)):
        frames[i] = []
    found = follow(tmp_path, frames)  # a fifth of a second each
    assert [frames_of(track) for track in found.tracks] == [[0, 1, 2, 6, 7, 8], [16, 17, 18, 19]]


def test_a_face_that_jumps_is_followed_by_its_embedding(tmp_path):
    frames = [*walk("red", 3, 0, 0), *walk("red", 3, 90, 0)]
    (track,) = follow(tmp_path, frames, fps=2).tracks
    assert frames_of(track) == list(range(6))
    # At 30 frames per second, nobody moves that far.
    assert len(follow(tmp_path, frames, fps=30).tracks) == 2


def test_a_pattern_that_sometimes_looks_like_a_face_is_dropped(tmp_path):
    shirt = Shown("blue", 20, y=44, side=50, score=0.8)
    frames = [[*faces, shirt] if i % 2 else faces for i, faces in enumerate(walk("red", 12, 80, 1, side=30))]
    found = follow(tmp_path, frames)
    (person,), (dropped,) = found.tracks, found.rejected
    assert np.argmax(person.template) == 0
    assert (len(dropped.faces), dropped.template) == (6, None)
    assert "0.80, less than 0.95" in dropped.rejected
    assert found.main is person
    # A single high score does not make it a face.
    frames[7][-1] = dataclasses.replace(shirt, score=0.96)
    (dropped,) = follow(tmp_path, frames, min_faces=1).rejected
    assert "1 of 11 frames" in dropped.rejected


def test_tracks_with_too_few_faces_or_flicker_are_rejected(tmp_path):
    (dropped,) = follow(tmp_path, walk("red", 2) + [[]] * 8).rejected
    assert "2 of the 3 usable faces" in dropped.rejected
    frames = [[Shown("red", 30)] if i % 4 == 0 else [] for i in range(17)]
    (dropped,) = follow(tmp_path, frames, min_faces=2).rejected
    assert "5 of 17 frames" in dropped.rejected
    assert len(follow(tmp_path, walk("red", 2)).tracks) == 1  # The video has only these two frames.


def test_bad_faces_in_a_track_have_no_weight(tmp_path):
    frames = walk("red", 6, step=2)
    frames[2] = [dataclasses.replace(frames[2][0], score=0.75)]
    (track,) = follow(tmp_path, frames).tracks
    assert [face.rejected is None for face in track.faces] == [True, True, False, True, True, True]
    assert track.weights[2] == 0
    np.testing.assert_allclose(track.weights.sum(), 1)


def test_the_template_weighs_by_length_and_sharpness(tmp_path):
    frames = [scene(face=90, blur=2 * (i % 2)) for i in range(6)]
    path = write_video(tmp_path / "a.mp4", frames)
    track = find_tracks(path, ColourEmbedder(), TrackOptions(every=1)).main
    sharpness = np.array([face.sharpness for face in track.faces])
    weights = np.linalg.norm(track.embeddings, axis=1) * (1 + sharpness) / (30 + sharpness)
    np.testing.assert_allclose(track.weights, weights / weights.sum())
    assert track.weights[::2].min() > 1.2 * track.weights[1::2].max()
    expected = pool(track.embeddings * ((1 + sharpness) / (30 + sharpness))[:, None], "mean")
    np.testing.assert_allclose(track.template, expected, atol=1e-6)


def test_faces_are_embedded_in_batches(tmp_path):
    embedder = ColourEmbedder()
    found = follow(tmp_path, walk("red", 40, 0, 1), embedder=embedder)
    assert embedder.batches == [32, 8]
    assert [len(track.faces) for track in found.tracks] == [40]


def test_a_long_track_keeps_its_best_pictures(tmp_path):
    frames = walk("red", NUM_PICTURES + 8, 0, 1)
    for faces in frames[:8]:  # Half of such a face's picture is grey.
        faces[0].side = 20
    (track,) = follow(tmp_path, frames).tracks
    shown = [face.frame for face in track.faces if face.image is not None]
    assert len(shown) == len(track.best) == NUM_PICTURES
    weights = [track.weights[face.frame] for face in track.best]
    assert weights == sorted(weights, reverse=True)
    assert min(weights) >= np.sort(track.weights)[8]


def test_the_same_video_gives_the_same_numbers(tmp_path):
    path = write_video(tmp_path / "a.mp4", moving(11, face=60))
    first, second = (find_tracks(path, ColourEmbedder()).main for _ in range(2))
    np.testing.assert_array_equal(first.template, second.template)
    np.testing.assert_array_equal(first.embeddings, second.embeddings)


def test_the_detector_follows_a_moving_portrait(tmp_path):
    path = write_video(tmp_path / "a.mp4", moving(21))
    found = find_tracks(path, ColourEmbedder())
    (track,) = found.tracks
    assert frames_of(track) == [0, 5, 10, 15, 20]
    assert (found.num_frames, found.num_searched, found.rejected) == (21, 5, [])
    assert found.duration == pytest.approx(2)
    middles = np.array([(face.box[:2] + face.box[2:]) / 2 for face in track.faces])
    np.testing.assert_allclose(np.diff(middles, axis=0), [(20, 5)] * 4, atol=6)
    assert set(found.seconds) == {"reading", "detecting", "aligning", "embedding", "tracking"}
    assert min(found.seconds.values()) > 0


def test_pictures_of_a_folder_are_joined_by_embedding(tmp_path):
    for number, picture in enumerate(moving(3, step=(60, 0))):
        write_picture(tmp_path / f"{number}.png", picture)
    (tmp_path / "1b.jpg").write_bytes(b"\xff\xd8\xff")
    found = find_tracks(tmp_path, ColourEmbedder())
    (track,) = found.tracks
    assert [found.source.names[face.frame] for face in track.faces] == ["0.png", "1.png", "2.png"]
    assert "1b.jpg" in found.problems[0]
    assert len(found.problems) == 1


def test_a_picture_without_a_face_gives_no_track(tmp_path):
    path = write_picture(tmp_path / "a.png", scene(hidden=True))
    found = find_tracks(path, ColourEmbedder())
    assert not found.tracks
    with pytest.raises(ValueError, match=r"a\.png.*none"):
        _ = found.main


def test_the_main_track_shows_most_of_a_face(tmp_path):
    frames = [[Shown("red", 5, side=20), Shown("green", 90, side=30)] for _ in range(8)]
    frames += [[Shown("red", 5, side=20)]] * 3
    assert follow(tmp_path, frames).main.number == 2
    assert follow(tmp_path, frames + [[Shown("red", 5, side=20)]] * 3).main.number == 1


def test_a_video_without_usable_faces_says_why(tmp_path):
    found = follow(tmp_path, [[Shown("green", 100, score=0.9)], *walk("red", 4, score=0.8)])
    with pytest.raises(ValueError, match=r"a\.mkv.*0\.80, less than 0\.95"):
        _ = found.main
    with pytest.raises(ValueError, match=r"a\.mkv.*none in the 4 frames"):
        _ = follow(tmp_path, [[]] * 4).main


def test_faces_of_another_size_are_refused(tmp_path):
    embedder = ColourEmbedder()
    embedder.face_size = (160, 160)
    with pytest.raises(ValueError, match="160x160"):
        find_tracks(write_picture(tmp_path / "a.png", scene(hidden=True)), embedder)


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff\xd9", b"text", "half", "damaged"])
def test_a_picture_that_cannot_be_read_is_refused(tmp_path, content):
    path = tmp_path / "a.jpg"
    if isinstance(content, str):
        encoded = write_picture(path, scene()).read_bytes()
        middle = len(encoded) // 2
        rest = b"" if content == "half" else bytes(40) + encoded[middle + 40 :]
        content = encoded[:middle] + rest
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.jpg") as raised:
        find_tracks(path, ColourEmbedder())
    assert str(raised.value).count("a.jpg") == 1


def test_folders_without_readable_pictures_are_refused(tmp_path):
    with pytest.raises(ValueError, match=str(tmp_path)):
        open_source(tmp_path)
    (tmp_path / "a.png").write_bytes(b"text")
    with pytest.raises(ValueError, match=r"a\.png"):
        find_tracks(tmp_path, ColourEmbedder())
    for name in ("b.mp4", "b.jpg"):
        with pytest.raises(FileNotFoundError, match=name):
            open_source(tmp_path / name)


@pytest.mark.parametrize("kind", ["grey", "alpha", "16 bit", "CMYK", "turned"])
def test_pictures_of_every_kind_become_rgb(tmp_path, kind):
    rgb = np.ascontiguousarray(portrait())
    path = tmp_path / "a.png"
    if kind == "CMYK":
        Image = pytest.importorskip("PIL.Image")
        path = tmp_path / "a.jpg"
        Image.fromarray(rgb).convert("CMYK").save(path, quality=95)
    elif kind == "turned":
        Image = pytest.importorskip("PIL.Image")
        path = tmp_path / "a.jpg"
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(np.rot90(rgb)).save(path, exif=exif, quality=95)
    else:
        bgr = rgb[..., ::-1]
        written = {
            "grey": bgr[..., 1],
            "alpha": np.dstack([bgr, np.full(bgr.shape[:2], 99, np.uint8)]),
            "16 bit": bgr.astype(np.uint16) * 257,
        }[kind]
        path.write_bytes(cv2.imencode(".png", written)[1].tobytes())
    (picture,) = open_source(path).frames(print)
    expected = np.repeat(rgb[..., 1:2], 3, axis=2) if kind == "grey" else rgb
    assert picture.image.dtype == np.uint8
    assert np.abs(picture.image.astype(int) - expected).mean() < 6


def test_frontality_falls_as_the_nose_moves():
    points = TEMPLATE.copy()
    front = frontality(points)
    points[2, 0] = 65
    half = frontality(points)
    points[2, 0] = 80
    assert front > 0.95 > half > 0.4 > frontality(points) == 0
    assert frontality(np.zeros((5, 2))) == 0


def test_points_must_form_a_face_in_the_box():
    box = np.array([20, 10, 95, 110.0])
    assert misplaced_points(box, TEMPLATE) is None
    mirrored = TEMPLATE * (-1, 1) + (112, 0)
    assert "eyes" in misplaced_points(box, mirrored)
    assert "eyes" in misplaced_points(box, TEMPLATE[[3, 4, 2, 0, 1]])
    assert "outside" in misplaced_points(box + 60, TEMPLATE)
    assert "eyes" in misplaced_points(box, np.full((5, 2), 50.0))


def test_faces_are_listed_from_left_to_right():
    shown = [Shown("red", 90), Shown("green", 10), Shown("blue", 50)]
    faces = find_faces(Picture(0, 0.0, draw(shown)), (112, 112), 0.95, detector=Script([shown]))
    assert [face.box[0] for face in faces] == [10, 50, 90]


def test_a_face_has_numbers_for_its_quality():
    def face_of(**options):
        (face,) = find_faces(Picture(0, 0.0, scene(**options)), (112, 112), 0.95)
        return face

    sharp, blurred, small = face_of(), face_of(blur=3), face_of(face=45)
    assert isinstance(sharp, Face)
    assert blurred.sharpness < sharp.sharpness / 2
    assert small.size < sharp.size * 0.6
    assert sharp.frontality > 0.6
    assert sharp.image.shape == (112, 112, 3)


def test_the_smallest_face_grows_with_the_picture(monkeypatch):
    asked = []

    class Recorder(Script):
        def __init__(self, min_face_size):
            asked.append(min_face_size)
            super().__init__([[]])

    monkeypatch.setattr("eval.recognition.faces.FaceDetector", Recorder)
    for size, min_face_size in (((480, 300), None), ((1200, 2400), None), ((1200, 2400), 31)):
        picture = Picture(0, 0.0, np.zeros((*size, 3), np.uint8))
        assert find_faces(picture, (112, 112), 0.95, min_face_size) == []
    assert asked == [20, 50, 31]
