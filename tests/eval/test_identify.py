import dataclasses
import functools
import json
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest

from eval.embedding.model_card import ModelCard, write_card
from eval.identify import __main__ as program
from eval.identify.identification import NUM_FACES, choose_threshold, identify
from eval.identify.results import UNKNOWN
from eval.recognition.gallery import Gallery, Person
from eval.scoring.calibration import calibrate
from tests.eval.colour_net import BLUE, GREEN, RED, write_onnx
from tests.eval.fake_tracks import make_found, make_track, unit
from tests.eval.html_page import parse
from tests.portrait import moving, scene, write_picture, write_video

ANNA, BEN, CARL = unit(1, 0, 0), unit(0, 1, 0), unit(0, 0, 1)


def gallery_of(**templates):
    return Gallery(Path("people"), tuple(Person(name, (), template) for name, template in templates.items()))


@functools.cache
def calibration(kind="single", num_impostor=1000, flip=False):
    """Impostors from 0 to 0.5 and genuine pairs at 0.9: the threshold for FAR f is about 0.5 * (1 - f)."""
    impostors = np.linspace(0, 0.5, num_impostor)
    is_same = np.repeat([True, False], [20, num_impostor])
    similarities = np.concatenate([np.full(20, 0.9), impostors])
    pooling = "mean" if kind == "template" else None
    return calibrate(similarities, is_same, kind=kind, name="faces", flip=flip, pooling=pooling)


class TestThreshold:
    def test_a_larger_gallery_raises_the_threshold(self):
        one = choose_threshold(calibration(), 0.1, gallery_of(anna=ANNA))
        two = choose_threshold(calibration(), 0.1, gallery_of(anna=ANNA, ben=BEN))
        np.testing.assert_allclose([one.value, two.value], [0.45, 0.475], atol=0.005)
        assert one.calibrated == one.value
        assert (one.fpir, one.calibration) == (0.1, "single images, faces")
        assert len(one.reasons) == 2
        of_templates = choose_threshold(calibration("template"), 0.1, gallery_of(anna=ANNA))
        assert of_templates.reasons == (one.reasons[0].replace("single images", "templates"),)

    def test_people_who_resemble_one_another_raise_the_threshold(self):
        # Half of the impostor pairs are below 0.25, and half of the pairs of people below 0.6.
        people = gallery_of(anna=ANNA, ben=unit(0.6, 0.8, 0), carl=unit(0.6, 0, 0.8))
        threshold = choose_threshold(calibration(), 0.1, people)
        np.testing.assert_allclose(threshold.value - threshold.calibrated, 0.6 - 0.25, atol=1e-4)
        assert "0.350" in threshold.reasons[-1]

    def test_people_who_do_not_resemble_one_another_leave_the_threshold(self):
        threshold = choose_threshold(calibration(), 0.1, gallery_of(anna=ANNA, ben=BEN, carl=CARL))
        assert threshold.value == threshold.calibrated

    def test_a_reason_says_that_there_are_too_few_pairs(self):
        threshold = choose_threshold(calibration(num_impostor=20), 0.01, gallery_of(anna=ANNA))
        assert threshold.value > 0.5
        assert "20 impostor pairs of faces" in threshold.reasons[1]


class TestIdentify:
    def identify(self, *tracks, threshold=0.5, **options):
        return identify(
            Path("a.mkv"),
            lambda path: make_found(path, *tracks, **options),
            gallery_of(anna=ANNA, ben=BEN),
            threshold,
        )

    def test_tracks_get_the_name_of_the_nearest_person_or_unknown(self):
        tracks = [make_track(unit(0.6, 0.8, 0)), make_track(CARL, (2, 7), number=2)]
        known, unknown = self.identify(*tracks).tracks
        assert (known.name, unknown.name) == ("ben", UNKNOWN)
        assert [match.name for match in known.matches] == ["ben", "anna"]
        np.testing.assert_allclose([match.similarity for match in known.matches], [0.8, 0.6])
        assert (unknown.first_frame, unknown.last_frame, unknown.start, unknown.end) == (2, 7, 0.2, 0.7)
        assert known.is_known and not unknown.is_known

    def test_the_threshold_itself_is_accepted(self):
        track = make_track(unit(0.6, 0.8, 0))
        similarity = float(track.template @ BEN)
        for threshold, name in ((similarity, "ben"), (np.nextafter(similarity, 1), UNKNOWN)):
            [named] = self.identify(track, threshold=threshold).tracks
            assert named.name == name

    def test_rejected_tracks_and_faces_keep_their_reasons(self):
        tracks = [
            make_track(ANNA, (0, 5, 10), left_out=(0,)),
            make_track(BEN, (3,), number=2, rejected="one face"),
        ]
        result = self.identify(*tracks)
        named, rejected = result.tracks
        assert result.named == [named]
        assert (named.first_frame, named.frames_used) == (5, 2)
        assert [(face.frame, face.reason) for face in named.rejected_faces] == [(0, "it is blurred")]
        assert (rejected.name, rejected.rejected, rejected.matches) == (None, "one face", ())
        assert rejected.faces

    def test_shown_faces_are_spread_over_the_track(self):
        [track] = self.identify(make_track(ANNA, range(0, 120, 2)), num_frames=120).tracks
        frames = [face.frame for face in track.faces]
        assert len(frames) == NUM_FACES == len({frame // 20 for frame in frames})
        assert all(face.jpeg.startswith(b"\xff\xd8") for face in track.faces)

    def test_a_track_without_pictures_is_listed(self):
        """A long video keeps few pictures of rejected faces."""
        track = make_track(ANNA, rejected="a print")
        faces = [dataclasses.replace(face, image=None) for face in track.faces]
        [rejected] = self.identify(dataclasses.replace(track, faces=faces)).tracks
        assert (rejected.faces, rejected.rejected) == ((), "a print")

    def test_the_result_says_why_a_source_cannot_be_read(self):
        def find(_path):
            raise ValueError("a.mkv: damaged")

        result = identify(Path("a.mkv"), find, gallery_of(anna=ANNA), 0.5)
        assert (result.error, result.tracks) == ("a.mkv: damaged", ())

    def test_a_source_without_a_face_says_so(self):
        [note] = self.identify(problems=()).notes
        assert note.startswith("a.mkv: ")


@pytest.fixture
def folder(tmp_path, fakes):
    """A gallery of Anna and Ben, and three videos. The name of a file decides which faces it shows."""
    for name in ("people/anna/1.jpg", "people/ben/2.jpg", "anna.mkv", "carl.mkv", "empty.mkv", "damaged.mkv"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (tmp_path / "face.tflite").write_text("a model")
    write_card(tmp_path / "face.tflite", ModelCard().with_calibration(calibration(flip=True)))
    return tmp_path


@pytest.fixture
def fakes(monkeypatch):
    loaded = {}

    def load(path, **options):
        loaded.update(options)
        engine = SimpleNamespace(name="numpy")
        return SimpleNamespace(path=Path(path), sha256="0" * 64, engine=engine)

    def find(path, embedder, options, progress=False):
        assert embedder.sha256 and options.every
        if path.stem == "damaged":
            raise ValueError(f"{path}: damaged")
        people = {"anna": ANNA, "1": ANNA, "ben": BEN, "2": BEN, "carl": CARL}
        tracks = [make_track(people[path.stem])] if path.stem in people else []
        return make_found(path, *tracks, kind="picture" if path.suffix == ".jpg" else "video")

    def identify_all(options, command, original=program.identify_all):
        return original(options, command, load, find)

    monkeypatch.setattr(program, "identify_all", identify_all)
    return loaded


def run(folder, *sources, **flags):
    flags = {"gallery": "people", "model_path": "face.tflite", "output": "out", **flags}
    argv = [
        f"--{name}={value if name in ('fpir', 'threshold') else folder / value}"
        for name, value in flags.items()
    ]
    program.main([*argv, *(str(folder / source) for source in sources)])
    return json.loads((folder / "out" / "tracks.json").read_text())


class TestProgram:
    def test_tracks_are_written_and_a_table_is_printed(self, folder, capsys, fakes):
        written = run(folder, "anna.mkv", "carl.mkv")
        first, second = written["tracks"]
        assert (
            first
            | {
                "source": str(folder / "anna.mkv"),
                "track": 1,
                "from": 0,
                "to": 1.0,
                "from_frame": 0,
                "to_frame": 10,
                "frames_used": 3,
                "name": "anna",
                "similarity": 1.0,
                "runner_up": "ben",
                "runner_up_similarity": 0.0,
                "rejected": None,
                "rejected_faces": [],
            }
            == first
        )
        assert first["threshold"] == written["threshold"]["value"] > 0.49
        assert second["name"] == UNKNOWN
        assert written["model"] == {"path": str(folder / "face.tflite"), "sha256": "0" * 64}
        assert written["gallery"]["people"][0]["name"] == "anna"
        assert fakes["flip"] is True
        assert (folder / "out" / "index.html").is_file()
        table = [line.split() for line in capsys.readouterr().out.splitlines()]
        assert [
            str(folder / "anna.mkv"),
            "0:00.0",
            "0:01.0",
            "anna",
            "1.000",
            "anna",
            "0.000",
            "ben",
        ] in table
        assert not (folder / "out" / ".lock").exists()

    def test_a_bad_source_does_not_stop_the_others(self, folder, capsys):
        written = run(folder, "damaged.mkv", "anna.mkv", "empty.mkv", "anna.mkv")
        assert [track["name"] for track in written["tracks"]] == ["anna"]
        errors = [source["error"] for source in written["sources"]]
        assert errors == [f"{folder / 'damaged.mkv'}: damaged", None, None]
        shown = capsys.readouterr().out
        assert errors[0] in shown and str(folder / "empty.mkv") in shown
        assert errors[0] in (folder / "out" / "index.html").read_text()

    @pytest.mark.parametrize("sources", [("damaged.mkv",), ("empty.mkv",), ("damaged.mkv", "empty.mkv")])
    def test_the_program_fails_if_no_source_has_a_usable_face(self, folder, sources):
        with pytest.raises(SystemExit) as error:
            run(folder, *sources)
        assert error.value.code not in (None, 0)
        assert len(json.loads((folder / "out" / "tracks.json").read_text())["sources"]) == len(sources)

    def test_a_model_without_thresholds_is_refused(self, folder):
        (folder / "face.tflite.model_card.json").unlink()
        with pytest.raises(SystemExit) as error:
            run(folder, "anna.mkv")
        assert "export.calibrate" in str(error.value) and "--threshold" in str(error.value)
        written = run(folder, "anna.mkv", threshold=0.4)
        assert written["threshold"]["value"] == written["tracks"][0]["threshold"] == 0.4

    def test_a_given_threshold_replaces_that_of_the_card(self, folder):
        written = run(folder, "anna.mkv", threshold=1.0)
        assert written["tracks"][0]["name"] == "anna"
        assert written["threshold"]["fpir"] is None

    def test_the_card_of_another_model_is_refused(self, folder):
        (folder / "face.tflite").write_text("another model")
        with pytest.raises(SystemExit) as error:
            run(folder, "anna.mkv")
        assert "face.tflite.model_card.json" in str(error.value)

    def test_a_note_says_that_a_source_is_in_the_gallery(self, folder):
        (folder / "anna.mkv").write_bytes((folder / "people" / "anna" / "1.jpg").read_bytes())
        written = run(folder, "anna.mkv")
        assert written["sources"][0]["in_gallery"] == str(folder / "people" / "anna" / "1.jpg")

    def test_a_person_with_the_name_unknown_is_refused(self, folder):
        (folder / "people" / "ben").rename(folder / "people" / UNKNOWN)
        with pytest.raises(SystemExit, match=str(folder / "people")):
            run(folder, "anna.mkv")

    def test_wrong_flags_are_named(self, folder, capsys):
        for flags in ({"fpir": 0}, {"video": "out.mp4"}):
            with pytest.raises(SystemExit) as error:
                run(folder, "anna.mkv", "carl.mkv", **flags)
            assert error.value.code == 2
            assert f"--{next(iter(flags))}" in capsys.readouterr().err


def test_times_of_the_stages_add_up(folder):
    written = run(folder, "anna.mkv", "carl.mkv")
    assert written["seconds"]["detecting"] == 1.0
    assert written["sources"][0]["seconds"]["detecting"] == 0.5


def test_the_whole_program_finds_people_in_videos(tmp_path):
    """Runs the real program. Each person is a portrait in one colour, and the net sees only colours."""
    pytest.importorskip("onnxruntime")
    write_onnx(tmp_path / "face.onnx")
    write_card(tmp_path / "face.onnx", ModelCard().with_calibration(calibration()))
    write_picture(tmp_path / "people" / "red" / "1.png", scene(tint=RED))
    write_video(tmp_path / "people" / "blue.mp4", moving(16, tint=BLUE))
    write_video(tmp_path / "party.mkv", [*moving(25, tint=RED), scene(hidden=True), *moving(25, tint=GREEN)])
    write_picture(tmp_path / "blue.png", scene(face=110, tint=BLUE))
    argv = [
        "--gallery",
        "people",
        "--model_path",
        "face.onnx",
        "--output",
        "out",
        "--video",
        "copies",
        "party.mkv",
        "blue.png",
    ]
    program.main([part if part.startswith("--") else str(tmp_path / part) for part in argv])

    written = json.loads((tmp_path / "out" / "tracks.json").read_text())
    tracks = [
        (Path(track["source"]).name, track["from_frame"] > 25, track["name"]) for track in written["tracks"]
    ]
    assert tracks == [("party.mkv", False, "red"), ("party.mkv", True, UNKNOWN), ("blue.png", False, "blue")]
    assert {"reading", "detecting", "aligning", "embedding", "tracking"} < set(written["seconds"])
    page = parse((tmp_path / "out" / "index.html").read_text())
    assert len(page.find("article")) == 3
    with av.open(str(tmp_path / "copies" / "party.mp4")) as copy:
        assert len(list(copy.decode(video=0))) == 51
    assert (tmp_path / "copies" / "blue.jpg").is_file()
