import functools
import shutil

import numpy as np
import pytest

from common.files import folder_lock
from dataset.align.detector import FaceDetector
from eval.embed import __main__ as embed
from eval.embed import run
from eval.embed.rows import COLUMNS
from eval.embedding.embedder import load_embedder
from eval.recognition.tracks import find_tracks
from tests.eval.file_nets import write_net
from tests.portrait import moving, scene, write_picture, write_video


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """A model, and a folder with three pictures of a face, one of a wall, half a picture and a video."""
    folder = tmp_path_factory.mktemp("media")
    write_net(folder / "face.onnx", (112, 112), ours=True)
    write_picture(folder / "src" / "ann" / "2.png", scene(x=100))
    write_picture(folder / "src" / "ann" / "10.jpg", scene(x=200, tint=(1, 0.6, 0.4)))
    write_picture(folder / "src" / "wall.png", scene(hidden=True))
    whole = write_picture(folder / "src" / "bob" / "1.png", scene(tint=(0.5, 0.8, 1)))
    (folder / "src" / "half.png").write_bytes(whole.read_bytes()[:500])
    (folder / "src" / "notes.txt").write_text("nothing to see")
    write_picture(folder / "src" / ".hidden" / "1.png", scene())
    write_video(folder / "src" / "clip.avi", moving(8, size=(200, 260)))
    return folder


@pytest.fixture
def embed_into(media, tmp_path):
    """Returns a function that runs the program and returns the arrays of its file."""

    def main(src, *flags, out="out.npz", batch_size=64):
        flags = [f"--model_path={media / 'face.onnx'}", "--workers=1", f"--batch_size={batch_size}", *flags]
        embed.main([str(src), str(tmp_path / out), *flags])
        with np.load(tmp_path / out, allow_pickle=False) as file:
            return dict(file)

    return main


def units(arrays):
    return arrays["embeddings"] / arrays["norms"][:, None]


def test_a_folder_gives_a_row_for_each_picture_and_person(media, embed_into, tmp_path, capsys):
    arrays = embed_into(media / "src", "--every=2")
    assert arrays["names"].tolist() == ["ann/2.png", "ann/10.jpg", "bob/1.png", "clip.avi"]
    assert {name: array.dtype.kind for name, array in arrays.items() if name in COLUMNS} == {
        name: np.dtype(column.dtype).kind for name, column in COLUMNS.items()
    }
    assert all(len(arrays[name]) == 4 for name in COLUMNS)
    assert arrays["tracks"].tolist() == [0, 0, 0, 1]
    assert arrays["frames"].tolist() == [[0, 0], [0, 0], [0, 0], [0, 6]]
    np.testing.assert_allclose(arrays["times"][3], (0, 0.6), atol=0.01)
    assert arrays["num_faces"].tolist() == [1, 1, 1, 4]
    np.testing.assert_allclose(arrays["boxes"][0, [0, 2]].mean(), 100, atol=15)
    failures = dict(zip(arrays["failed_names"].tolist(), arrays["failed_reasons"].tolist(), strict=True))
    assert list(failures) == ["half.png", "wall.png"]
    printed = capsys.readouterr().out
    assert all(f"{name}: {reason}\n" in printed for name, reason in failures.items())

    embedder = load_embedder(media / "face.onnx")
    np.testing.assert_allclose(units(arrays)[0], embedder.template(media / "src/ann/2.png"), atol=1e-6)
    track = find_tracks(media / "src" / "clip.avi", embedder, embed.TrackOptions(every=2)).main
    np.testing.assert_allclose(units(arrays)[3], track.template, atol=1e-6)
    np.testing.assert_allclose(arrays["norms"][3], np.linalg.norm(track.embeddings, axis=1).mean(), rtol=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.npz"]


def test_every_face_gives_a_row_for_each_frame(media, embed_into):
    arrays = embed_into(media / "src" / "clip.avi", "--every=3", "--every_face")
    assert arrays["names"].tolist() == ["clip.avi"] * 3
    assert arrays["frames"].tolist() == [[0, 0], [3, 3], [6, 6]]
    assert np.all(np.diff(arrays["boxes"][:, 0]) > 5)  # The face moves to the right.
    embedder = load_embedder(media / "face.onnx")
    track = find_tracks(media / "src" / "clip.avi", embedder, embed.TrackOptions(every=3)).main
    np.testing.assert_array_equal(arrays["embeddings"], track.embeddings)


def test_a_list_names_the_files(media, embed_into, tmp_path):
    shutil.copy(media / "src" / "ann" / "2.png", tmp_path)
    (tmp_path / "list.txt").write_text(f"2.png\n\n{media / 'src/bob/1.png'}\ngone.png\n")
    arrays = embed_into(tmp_path / "list.txt")
    assert arrays["names"].tolist() == ["2.png", str(media / "src/bob/1.png")]
    assert arrays["failed_names"].tolist() == ["gone.png"]


def test_face_chooses_among_the_faces_of_a_picture(embed_into, tmp_path):
    picture = np.hstack([scene(x=220, face=60), scene(x=160, face=120)])
    write_picture(tmp_path / "two.png", picture)
    central, biggest = (
        embed_into(tmp_path / "two.png", f"--face={face}", out=f"{face}.npz")
        for face in ("central", "biggest")
    )
    assert central["boxes"][0, 2] < 320 < biggest["boxes"][0, 0]


def test_aligned_faces_are_embedded_as_they_are(embed_into, media, tmp_path):
    faces = np.random.default_rng(0).integers(0, 256, (2, 114, 112, 3), np.uint8)
    for number, face in enumerate(faces):
        write_picture(tmp_path / "faces" / f"{number}.png", face)
    write_picture(tmp_path / "faces" / "small.png", faces[0, :100])
    arrays = embed_into(tmp_path / "faces", "--aligned", "--flip")
    embedder = load_embedder(media / "face.onnx", flip=True)
    np.testing.assert_array_equal(arrays["embeddings"], embedder.embed(faces[:, 1:113]))
    assert np.isnan(arrays["boxes"]).all()
    assert arrays["failed_names"].tolist() == ["small.png"]
    with pytest.raises(SystemExit, match=r"clip\.avi"):
        embed_into(media / "src" / "clip.avi", "--aligned", out="video.npz")


class Killed(BaseException):
    pass


class TestResuming:
    @pytest.fixture
    def embed_into(self, embed_into):
        """Makes the program store its results in parts of two pictures."""
        return functools.partial(embed_into, batch_size=2)

    @pytest.fixture
    def killed(self, media, embed_into, monkeypatch):
        """A run that was killed after two parts: three pictures of a face."""
        write = run._write_arrays

        def write_or_die(path, arrays):
            if path.name == "000002.npz":
                raise Killed
            write(path, arrays)

        with monkeypatch.context() as patch:
            patch.setattr(run, "_write_arrays", write_or_die)
            with pytest.raises(Killed):
                embed_into(media / "src")

    @pytest.fixture
    def searched(self, monkeypatch):
        """Lists the pictures and frames that are searched for faces."""
        shapes = []

        def find(detector, image, find=FaceDetector.find):
            shapes.append(image.shape)
            return find(detector, image)

        monkeypatch.setattr(FaceDetector, "find", find)
        return shapes

    def test_a_killed_run_continues(self, media, embed_into, killed, searched, tmp_path):
        embed_into(media / "src")
        assert len(searched) == 2 + 1  # frames of the video, and the wall; half a picture is not searched
        embed_into(media / "src", out="unbroken.npz")
        assert len(searched) == 3 + 6
        assert (tmp_path / "out.npz").read_bytes() == (tmp_path / "unbroken.npz").read_bytes()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["out.npz", "unbroken.npz"]

    def test_a_damaged_part_is_computed_again(self, media, embed_into, killed, tmp_path):
        part = tmp_path / "out.npz.parts" / "000000.npz"
        part.write_bytes(part.read_bytes()[:-30])
        arrays = embed_into(media / "src")
        assert arrays["names"].tolist() == ["ann/2.png", "ann/10.jpg", "bob/1.png", "clip.avi"]

    def test_a_finished_file_stays(self, media, embed_into, searched):
        arrays = embed_into(media / "src" / "bob")
        again = embed_into(media / "src" / "bob")
        assert len(searched) == 1
        assert {name: array.tolist() for name, array in arrays.items()} == {
            name: array.tolist() for name, array in again.items()
        }

    def test_other_options_are_refused(self, media, embed_into, killed, searched, tmp_path):
        with pytest.raises(SystemExit, match=r"out\.npz\.parts: .*flip was False, is now True"):
            embed_into(media / "src", "--flip")
        embed_into(media / "src", "--flip", "--overwrite")
        with pytest.raises(SystemExit, match=r"out\.npz: .*flip was True, is now False"):
            embed_into(media / "src")
        (tmp_path / "out.npz").write_bytes(b"mine")
        with pytest.raises(SystemExit, match=r"out\.npz: exists"):
            embed_into(media / "src")
        assert (tmp_path / "out.npz").read_bytes() == b"mine"

    def test_changed_files_are_refused(self, media, embed_into, killed, tmp_path):
        src = shutil.copytree(media / "src" / "ann", tmp_path / "src")
        with pytest.raises(SystemExit, match=r"out\.npz\.parts: .*files was"):
            embed_into(src)

    def test_a_second_run_at_the_same_time_is_refused(self, media, embed_into, tmp_path):
        with (
            folder_lock(tmp_path / "out.npz.parts"),
            pytest.raises(SystemExit, match=r"out\.npz\.parts.*is writing"),
        ):
            embed_into(media / "src")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("wall.png", r"wall\.png: .*usable face"),
        ("half.png", r"half\.png: .*end marker"),
        ("notes.txt", "nothing to see: there is no such file"),
        ("gone.png", r"gone\.png: there is no such file"),
        ("empty", "empty: expected pictures or videos"),
    ],
)
def test_a_source_without_faces_leaves_no_file(media, embed_into, tmp_path, name, shown):
    (media / "src" / "empty").mkdir(exist_ok=True)
    with pytest.raises(SystemExit, match=shown) as error:
        embed_into(media / "src" / name)
    assert "\n" not in str(error.value.code)
    assert list(tmp_path.iterdir()) == []


def test_every_wrong_flag_is_named(capsys, tmp_path):
    with pytest.raises(SystemExit) as error:
        embed.main(["src", str(tmp_path / "out.txt"), "--model_path=net", "--aligned", "--every_face"])
    shown = capsys.readouterr().err
    assert error.value.code == 2 and "out.txt" in shown and "--every_face" in shown
