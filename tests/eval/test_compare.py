import dataclasses
import functools
import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from dataset.video import VideoInfo
from eval.compare import __main__ as program
from eval.compare.__main__ import main
from eval.compare.picture import share_below, shown_faces
from eval.compare.sides import read_side
from eval.embedding.model_card import ModelCard
from eval.recognition.faces import Face
from eval.recognition.sources import Source, read_picture
from eval.recognition.tracks import FoundTracks, Track
from eval.scoring.calibration import calibrate
from tests.portrait import scene, write_picture

GREY = np.full((112, 112, 3), 128, np.uint8)


def track(*faces, number=1):
    """Makes a track of faces `(frame, size, embedding)`. A negative size stands for a rejected face."""
    embeddings = np.array([embedding for *_, embedding in faces], np.float32)
    made = [
        Face(
            frame, frame / 10, np.array([0, 0, abs(size), abs(size)], float), np.zeros((5, 2)), 0.99,
            GREY, 1.0, 1.0, None if size > 0 else "it is blurred",
        )
        for frame, size, _ in faces
    ]  # fmt: skip
    usable = np.array([face.rejected is None for face in made])
    weights = usable * np.linalg.norm(embeddings, axis=1)
    return Track(number, made, embeddings, weights, embeddings[0], None if usable.any() else "it is blurred")


def found(path, *tracks, kind="video", names=(), num_searched=10):
    info = VideoInfo((48, 64), 10, 5, 50, "mpeg4") if kind == "video" else None
    used, rejected = ([one for one in tracks if (one.rejected is None) == kept] for kept in (True, False))
    return FoundTracks(Source(path, kind, info, names), 50, num_searched, 5, used, rejected, [], {})


class TestSides:
    def test_a_video_stands_for_the_person_who_is_seen_most(self, tmp_path):
        main_track = track((0, 30, (2, 0)), (5, 30, (0, 1)), (10, -30, (-9, 0)))
        side = read_side(tmp_path, lambda path: found(path, track((0, 40, (0, 7)), number=2), main_track))
        assert [face.frame for face in side.faces] == [0, 5]
        np.testing.assert_allclose(side.template, np.array([2, 1]) / np.sqrt(5))
        np.testing.assert_allclose(side.typicality, np.array([2, 1]) / np.sqrt(5))
        assert side.describe() == "video, face in 2 of 10 frames; 1 other person is seen less"
        assert side.place(side.faces[1]) == "0.50 s"

    def test_a_picture_stands_for_its_biggest_face(self, tmp_path):
        tracks = (
            track((0, 20, (1, 0))),
            track((0, 50, (0, 1))),
            track((0, 30, (1, 0))),
            track((0, -90, (1, 1))),
        )
        names = ("a.jpg",)
        side = read_side(tmp_path, lambda path: found(path, *tracks, kind="picture", names=names))
        assert side.template.tolist() == [0, 1]
        assert side.num_others == 2
        assert side.describe() == "picture; 2 other faces are smaller"
        assert side.problems == (f"{tmp_path.parent / 'a.jpg'}: a bigger face is not used: it is blurred",)

    def test_a_folder_uses_every_picture(self, tmp_path):
        """A picture that does not resemble the others has its own track, and is still used."""
        tracks = track((0, 20, (1, 0)), (2, 20, (1, 0))), track((1, 20, (0, 1)), number=2)
        names = ("a.jpg", "b.jpg", "c.jpg")
        side = read_side(
            tmp_path, lambda path: found(path, *tracks, kind="folder", names=names, num_searched=3)
        )
        assert [face.frame for face in side.faces] == [0, 1, 2]
        np.testing.assert_allclose(side.template, np.array([2, 1]) / np.sqrt(5))
        assert side.place(side.faces[1]) == "b.jpg"
        assert side.describe() == "folder, face in 3 of 3 pictures"

    def test_a_side_without_a_usable_face_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match=str(tmp_path)):
            read_side(tmp_path, found)
        with pytest.raises(ValueError, match="blurred"):
            read_side(tmp_path, lambda path: found(path, track((0, -20, (1, 0)))))


@functools.cache
def calibration(kind="single", **facts):
    rng = np.random.default_rng(len(kind))
    is_same = np.arange(2000) < 1000
    similarities = rng.normal(np.where(is_same, 0.7, 0.0), 0.1)
    pooling = "mean" if kind == "template" else None
    return calibrate(similarities, is_same, kind=kind, name=f"pairs-{kind}", pooling=pooling, **facts)


@pytest.fixture
def compare(tmp_path, monkeypatch, capsys):
    """Runs the program with a model that needs no detector: a picture's embedding is its first pixel."""
    flips = []

    def load(path, *, flip, engine):
        flips.append(flip)
        return SimpleNamespace(path=path, sha256="f" * 64)

    def find(path, embedder, options, progress):
        names = tuple(sorted(file.name for file in path.iterdir())) if path.is_dir() else (path.name,)
        folder = path if path.is_dir() else path.parent
        pixels = [read_picture(folder / name)[0, 0].astype(float) - 100 for name in names]
        faces = [
            track((number, 20, pixel), number=number + 1)
            for number, pixel in enumerate(pixels)
            if pixel.any()
        ]
        kind = "folder" if path.is_dir() else "picture"
        return found(path, *faces, kind=kind, names=names, num_searched=len(names))

    def run(a, b, *flags, card=(), expect=None):
        known = ModelCard()
        for one in card:
            known = known.with_calibration(one)
        monkeypatch.setattr(program, "read_card", lambda _: known)
        monkeypatch.setattr(program, "load_embedder", load)
        monkeypatch.setattr(program, "find_tracks", find)
        argv = [str(tmp_path / a), str(tmp_path / b), "--model_path", "face.onnx", *flags]
        if expect is None:
            main(argv)
        else:
            with pytest.raises(SystemExit, match=expect) as ended:
                main(argv)
            assert isinstance(ended.value.code, str)  # Python prints it and exits with 1.
        return capsys.readouterr().out

    pictures = {
        "a.png": (200, 100, 100), "b.png": (190, 120, 100), "c.png": (100, 200, 100),
        "empty.png": (100, 100, 100), "same.png": (200, 100, 100),
        "folder/1.png": (200, 100, 100), "folder/2.png": (180, 110, 100),
        "folder/3.png": (100, 200, 110), "folder/4.png": (100, 100, 100), "one/1.png": (200, 100, 100),
    }  # fmt: skip
    for name, pixel in pictures.items():
        write_picture(tmp_path / name, np.full((8, 8, 3), pixel, np.uint8))
    run.flips = flips
    return run


class TestProgram:
    @pytest.mark.parametrize(("other", "same"), [("b.png", True), ("c.png", False)])
    def test_two_pictures_are_compared_at_the_threshold_of_the_card(self, compare, other, same):
        card = [calibration(), calibration("template")]
        answer = json.loads(compare("a.png", other, "--json", card=card))
        expected = {"b.png": 90 / np.hypot(90, 20), "c.png": 0}[other]
        assert answer["similarity"] == pytest.approx(expected)
        [row] = [row for row in card[0].table if row.far == 1e-3]
        assert (answer["threshold"], answer["tar"], tuple(answer["tar_interval"])) == (
            row.threshold, row.tar, row.interval
        )  # fmt: skip
        assert answer["measured_on"] == ["single", "pairs-single"]
        assert answer["same_person"] is same
        assert answer["verdict"] == ("same person" if same else "different people")
        assert answer["notes"] == []

    def test_far_chooses_the_threshold(self, compare):
        card = [calibration()]
        answer = json.loads(compare("a.png", "b.png", "--far", "0.05", "--json", card=card))
        point = card[0].threshold_at(0.05)
        assert (answer["threshold"], answer["tar"]) == (point.threshold, point.tar)
        assert answer["tar_interval"] is None
        answer = json.loads(compare("a.png", "b.png", "--far", "1e-6", "--json", card=card))
        assert answer["notes"] == [card[0].threshold_at(1e-6).note]

    def test_a_folder_is_compared_by_its_template(self, compare):
        card = [calibration(), calibration("template")]
        answer = json.loads(compare("a.png", "folder", "--json", card=card))
        assert answer["measured_on"] == ["template", "pairs-template"]
        mean = np.array([180, 110, 10])
        assert answer["similarity"] == pytest.approx(mean[0] / np.linalg.norm(mean))
        assert answer["b"]["num_faces"] == 3 and answer["b"]["num_searched"] == 4
        assert answer["b"]["most_typical"]["frame"] == 1
        assert answer["b"]["least_typical"]["frame"] == 2
        assert json.loads(compare("a.png", "one", "--json", card=card))["measured_on"][0] == "single"

    def test_a_note_names_a_picture_of_another_person_in_the_folder(self, compare, tmp_path):
        [note] = json.loads(compare("a.png", "folder", "--json", "--threshold", "0.6"))["notes"]
        assert note.startswith(f"{tmp_path / 'folder' / '3.png'}: another person?")

    def test_a_note_says_that_the_thresholds_are_for_the_other_kind_of_input(self, compare):
        answer = json.loads(compare("a.png", "folder", "--json", card=[calibration()]))
        assert answer["measured_on"] == ["single", "pairs-single"]
        assert "templates" in answer["notes"][0]

    def test_a_given_threshold_replaces_that_of_the_card(self, compare):
        for threshold, same in ((0.97, True), (0.98, False)):
            for card in ([], [calibration()]):
                answer = json.loads(
                    compare("a.png", "b.png", f"--threshold={threshold}", "--json", card=card)
                )
                assert (answer["threshold"], answer["same_person"]) == (threshold, same)
                assert (answer["far"], answer["tar"], answer["measured_on"]) == (None, None, None)
        similarity = answer["similarity"]
        assert json.loads(compare("a.png", "b.png", f"--threshold={similarity!r}", "--json"))["same_person"]
        assert f"Threshold  : {0.98:.4f} (given)" in compare("a.png", "b.png", "--threshold", "0.98")

    def test_a_model_without_thresholds_is_refused(self, compare):
        compare("a.png", "b.png", expect="face.onnx: .*export.calibrate")

    def test_lines_are_printed_for_people(self, compare, tmp_path):
        card = [calibration()]
        point = card[0].threshold_at(1e-3)
        lines = dict(line.split(" : ", 1) for line in compare("a.png", "c.png", card=card).splitlines())
        lines = {name.strip(): text for name, text in lines.items()}
        assert lines["A"] == f"{tmp_path / 'a.png'} (picture)"
        assert lines["Similarity"] == "0.0000"
        assert lines["Threshold"].startswith(f"{point.threshold:.4f} (FAR 0.001, ")
        assert lines["TAR"].startswith(f"{point.tar:.4f} [")
        assert lines["Verdict"] == "different people"

    @pytest.mark.parametrize(("a", "b"), [("a.png", "a.png"), ("a.png", "same.png"), ("folder", "folder")])
    def test_a_note_says_that_both_sides_are_the_same_file(self, compare, a, b):
        notes = json.loads(compare(a, b, "--json", "--threshold", "-1"))["notes"]
        assert len([note for note in notes if "same file" in note]) == 1

    @pytest.mark.parametrize("bad", ["empty.png", "missing.png", "text.txt", "broken.png"])
    def test_an_error_names_the_bad_side(self, compare, tmp_path, bad):
        (tmp_path / "text.txt").write_text("no video")
        (tmp_path / "broken.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
        (tmp_path / "nothing").mkdir()
        for sides in (("a.png", bad), (bad, "a.png")):
            compare(*sides, card=[calibration()], expect=str(tmp_path / bad))

    def test_faces_are_flipped_as_for_the_calibration(self, compare):
        for flip in (False, True):
            compare("a.png", "b.png", card=[calibration(flip=flip)])
        compare("a.png", "b.png", "--threshold", "0", card=[calibration(flip=True)])
        compare("a.png", "b.png", "--threshold", "0")
        assert compare.flips == [False, True, True, False]

    def test_faces_are_pooled_as_for_the_calibration(self, compare):
        similarities = []
        for pooling in ("mean", "normalised_mean"):
            card = [dataclasses.replace(calibration("template"), pooling=pooling)]
            similarities.append(json.loads(compare("a.png", "folder", "--json", card=card))["similarity"])
        raw = np.array([(100, 0, 0), (80, 10, 0), (0, 100, 10)])
        for rows, similarity in zip(
            (raw, raw / np.linalg.norm(raw, axis=1, keepdims=True)), similarities, strict=True
        ):
            mean = rows.mean(axis=0)
            assert similarity == pytest.approx(mean[0] / np.linalg.norm(mean))

    @pytest.mark.parametrize("flags", [["--far", "0"], ["--threshold", "2"], ["--picture", "a.jpg"]])
    def test_wrong_flags_end_with_code_2(self, flags):
        with pytest.raises(SystemExit) as ended:
            main(["a", "b", "--model_path", "m", *flags])
        assert ended.value.code == 2

    def test_a_picture_is_written(self, compare, tmp_path):
        path = tmp_path / "new" / "out.png"
        compare("a.png", "folder", "--picture", str(path), card=[calibration()])
        assert cv2.imread(str(path)).shape[:2] == (768, 1200)
        compare("a.png", "b.png", "--picture", str(path), "--threshold", "0.5")


class PixelEmbedder:
    """Embeds a face as the differences of its coarse pixels from their mean."""

    path, sha256, face_size = "", "", (112, 112)

    def embed(self, faces):
        coarse = faces[:, ::16, ::16].reshape(len(faces), -1).astype(np.float32)
        return coarse - coarse.mean(axis=1, keepdims=True)


def test_real_faces_are_found_and_compared(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(program, "load_embedder", lambda *_, **__: PixelEmbedder())
    monkeypatch.setattr(program, "read_card", lambda _: ModelCard())
    path = write_picture(tmp_path / "a.png", np.concatenate([scene(face=120), scene(face=70)]))
    folder = tmp_path / "folder"
    for number, picture in enumerate((scene(x=140), scene(x=170, tint=(1, 0.9, 0.8)), scene(hidden=True))):
        write_picture(folder / f"{number}.png", picture)
    arguments = ["--model_path", "m", "--threshold", "0.9"]
    main([str(path), str(folder), *arguments, "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert answer["same_person"] is True
    assert answer["a"]["num_others"] == 1
    assert (answer["b"]["num_faces"], answer["b"]["num_searched"]) == (2, 3)
    with pytest.raises(SystemExit, match=f"{folder / '2.png'}: expected a face"):
        main([str(path), str(folder / "2.png"), *arguments])


class TestPicture:
    def test_shown_faces_are_the_best_the_worst_and_an_even_choice(self, tmp_path):
        angles = np.linspace(0, 0.5, 40)
        faces = [(5 * i, 30, (np.cos(angle), np.sin(angle))) for i, angle in enumerate(angles)]
        side = read_side(tmp_path, lambda path: found(path, track(*faces)))
        without = [
            dataclasses.replace(face, image=None) if i % 2 else face for i, face in enumerate(side.faces)
        ]
        side = dataclasses.replace(side, faces=without)
        chosen = shown_faces(side)
        assert len(chosen) == len(set(chosen)) == 10
        assert not any(i % 2 for i in chosen)
        typicality = side.typicality[::2]
        assert chosen[:2] == [2 * typicality.argmax(), 2 * typicality.argmin()]
        assert chosen[2:] == sorted(chosen[2:])

    def test_a_share_is_interpolated_between_quantiles(self):
        quantiles = np.linspace(0.2, 0.6, 101).tolist()
        assert [share_below(quantiles, at) for at in (0.1, 0.3, 0.9)] == pytest.approx([0, 0.25, 1])
