import json
import pickle

import cv2
import numpy as np
import pytest

from dataset.config import read_config
from dataset.pairs.image_pairs import read_image_pairs, read_pairs
from dataset.records.recordio import RecordReader, unpack_image
from dataset.sources.insightface_rec import InsightFaceRec
from dataset.synthetic import FaceSetOptions, draw_frame, draw_identity, draw_image, write_set
from dataset.synthetic.__main__ import main
from dataset.synthetic.files import identity_name
from dataset.synthetic.parameters import Capture, Face
from dataset.video import read_video

SMALL = {"identities": 5, "images": 4, "held_out": 4, "pairs": 20, "videos": 3, "frames": 3, "seed": 3}


@pytest.fixture(scope="module")
def small_set(tmp_path_factory):
    out = tmp_path_factory.mktemp("synthetic") / "set"
    write_set(FaceSetOptions(out=out, **SMALL, workers=2))
    return out


def contents(folder):
    """Returns the files of a set without the video, because x264 does not always write the same bytes."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".mp4")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_the_set_does_not_depend_on_the_number_of_workers(small_set, tmp_path):
    write_set(FaceSetOptions(out=tmp_path / "set", **SMALL, workers=1))
    assert contents(tmp_path / "set") == contents(small_set)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_an_image_depends_only_on_seed_identity_and_number():
    image = draw_image(0, 1, 2)
    assert image == draw_image(0, 1, 2)
    others = [draw_image(1, 1, 2), draw_image(0, 2, 2), draw_image(0, 1, 3), draw_image(0, 2, 1)]
    assert len({image, *others}) == 5


@pytest.mark.parametrize(("source", "num_identities"), [("vgg", 1), ("ms1m", 4)])
def test_sources_are_in_the_insightface_layout(small_set, source, num_identities):
    rec = InsightFaceRec(small_set / source)
    assert (rec.num_identities, rec.image_size) == (num_identities, (112, 112))
    assert np.all(np.diff(rec.labels) >= 0)
    sizes = np.bincount(rec.labels, minlength=num_identities)
    assert np.all((sizes >= 2) & (sizes <= 4))
    assert [rec.read(i)[1] for i in range(rec.num_images)] == rec.labels.tolist()
    first = {"vgg": 0, "ms1m": 1}[source]
    numbers = [i - rec.labels.tolist().index(label) for i, label in enumerate(rec.labels)]
    for i, (label, number) in enumerate(zip(rec.labels, numbers, strict=True)):
        assert rec.read(i)[0] == draw_image(3, first + int(label), number)


def test_identity_records_cover_the_images(small_set):
    reader = RecordReader(small_set / "ms1m" / "train.rec")
    (first, last), image = unpack_image(reader.read(0))
    assert image == b""
    assert reader.keys.tolist() == list(range(int(last)))
    stop = 1
    for key in range(int(first), int(last)):
        (a, b), image = unpack_image(reader.read(key))
        assert (a, image) == (stop, b"")
        stop = b
    assert stop == first


def test_pairs_are_the_same_in_both_files(small_set):
    arrays, encoded = read_pairs(small_set / "lfw.np"), read_pairs(small_set / "lfw.bin")
    assert arrays.image_size == (112, 112)
    assert arrays.is_same.tolist() == [True] * 10 + [False] * 10
    assert encoded.is_same.tolist() == [True, False] * 10  # one pair of each kind in every fold
    order = np.argsort(~encoded.is_same, kind="stable")
    for i, j in enumerate(order):
        np.testing.assert_array_equal(
            arrays.batch(2 * i, 2 * i + 2), encoded.batch(2 * int(j), 2 * int(j) + 2)
        )


def test_held_out_identities_and_images_are_used_nowhere_else(small_set):
    with (small_set / "lfw.bin").open("rb") as file:
        held_out, _ = pickle.load(file)
    assert len(set(held_out)) == len(held_out)
    drawn = {draw_image(3, identity, number) for identity in range(5, 9) for number in range(20)}
    assert set(held_out) <= drawn


def test_videos_and_their_pairs_are_drawn(small_set):
    frames = sorted((small_set / "ytf" / "112x112").glob("*/*/*.jpg"))
    assert len(frames) == 4 * 3 * 3
    assert len({frame.parts[-3] for frame in frames}) == 4
    assert {frame.read_bytes() for frame in frames} == {
        draw_frame(3, identity, video, frame, 3)
        for identity in range(5, 9)
        for video in range(3)
        for frame in range(3)
    }

    rows = [line.split(", ") for line in (small_set / "ytf" / "splits.txt").read_text().splitlines()]
    assert [(row[0], row[1], row[4]) for row in rows] == [
        (str(split), number, same) for split in range(1, 11) for number, same in (("1", "1"), ("2", "0"))
    ]
    assert len({frozenset(row[2:4]) for row in rows}) == 20
    for _, _, first, second, same in rows:
        assert first != second
        assert (first.split("/")[0] == second.split("/")[0]) == (same == "1")
        assert all(
            len(list((small_set / "ytf" / "112x112" / name).glob("*.jpg"))) == 3 for name in (first, second)
        )
    pairs = read_image_pairs(small_set / "ytf" / "ytf_img_pair.txt", small_set / "ytf" / "112x112")
    assert pairs.is_same.tolist() == [row[4] == "1" for row in rows]


def test_config_names_existing_files(small_set):
    config = read_config(small_set / "config.ini")
    assert set(config.sources) == {"vgg", "ms1m"}
    assert config.lfw.enable and config.ytf.enable
    assert config.tfrecords == small_set / "tfrecords"
    paths = [config.lfw.npdata, config.ytf.pairs, config.ytf.prefix, config.ytf.splits, config.ytf.ytf_error]
    assert all(path.exists() for path in [*paths, *(source.path for source in config.sources.values())])


def test_images_show_the_identity():
    """The mean of half of an identity's images is nearest to the mean of the other half.

    If the identity had no influence, this would hold for one of the twelve on average.
    """
    num_identities, num_images = 12, 24
    images = np.array(
        [[small(draw_image(0, i, n)) for n in range(num_images)] for i in range(num_identities)]
    )
    halves = images.reshape(num_identities, 2, num_images // 2, -1).mean(axis=2)
    distances = np.linalg.norm(halves[:, None, 0] - halves[None, :, 1], axis=-1)
    assert np.sum(distances.argmin(axis=1) == np.arange(num_identities)) >= 6


def small(image):
    """Returns the middle of the face, with normalised brightness and contrast."""
    pixels = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR_RGB)[32:104, 20:92]
    pixels = cv2.resize(pixels, (18, 18), interpolation=cv2.INTER_AREA).astype(float)
    return (pixels - pixels.mean()) / pixels.std()


def test_frames_of_a_video_change_smoothly():
    rng = np.random.default_rng(0)
    first, last = Capture.sample(rng), Capture.sample(rng)
    half = first.towards(last, 0.5)
    assert half.yaw == pytest.approx((first.yaw + last.yaw) / 2)
    np.testing.assert_array_equal(half.background, first.background)  # The background stays the same.
    assert half.glasses == first.glasses
    assert draw_frame(0, 0, 0, 0, 1) == draw_frame(0, 0, 0, 0, 6)


def test_identities_differ():
    faces = [draw_identity(0, identity) for identity in range(50)]
    assert len({face.nose_width for face in faces}) == 50
    assert isinstance(faces[0], Face)


def test_an_existing_set_is_not_drawn_again(small_set):
    before = {path: path.stat().st_mtime_ns for path in small_set.rglob("*")}
    flags = [f"--{name}={value}" for name, value in SMALL.items()]
    main(["--out", str(small_set), *flags])
    assert {path: path.stat().st_mtime_ns for path in small_set.rglob("*")} == before


@pytest.mark.parametrize("flags", [["--seed", "4"], ["--images", "5"]])
def test_another_set_is_not_overwritten(small_set, flags):
    before = contents(small_set)
    with pytest.raises(SystemExit, match="received other content"):
        main(["--out", str(small_set), *(f"--{name}={value}" for name, value in SMALL.items()), *flags])
    assert contents(small_set) == before


def test_other_files_are_not_overwritten(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="received other content"):
        write_set(FaceSetOptions(out=tmp_path))
    assert contents(tmp_path) == {"notes.txt": b"mine"}


def test_a_failed_set_leaves_no_files(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "dataset.synthetic.face_set.write_sheet", lambda path, *_: path.joinpath("none").write_text("")
    )
    with pytest.raises(OSError):
        write_set(FaceSetOptions(out=tmp_path / "set", **SMALL, workers=1))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"identities": 1}, "--identities is 1"),
        ({"frames": 0}, "--frames is 0"),
        ({"pairs": 30}, "--pairs is 30"),
        ({"held_out": 3}, "3 identities with 3 videos make 9 genuine pairs"),
        ({"workers": 0}, "--workers is 0"),
        ({"seed": -1}, "--seed is -1"),
    ],
)
def test_options_out_of_range_are_errors(tmp_path, option, message, capsys):
    flags = [f"--{name}={value}" for name, value in {**SMALL, **option}.items()]
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path / "set"), *flags])
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_parameters_are_stored(small_set):
    stored = json.loads((small_set / "synthetic.json").read_text())
    assert {name: stored[name] for name in SMALL} == SMALL


def test_a_call_shows_two_people_of_the_gallery_and_a_stranger(small_set):
    people = sorted((small_set / "people").iterdir())
    assert [path.name for path in people] == sorted(identity_name(identity) for identity in (6, 7))
    assert [len(list(path.glob("*.jpg"))) for path in people] == [6, 6]
    frames = [frame.image for frame in read_video(small_set / "call.mp4")]
    assert len(frames) == 72
    # The tile of an absent person is dark and uniform.
    tiles = np.array([[tile.std() > 10 for tile in np.split(frame, 3, axis=1)] for frame in frames])
    spans = [(np.flatnonzero(there)[0], np.flatnonzero(there)[-1] + 1) for there in tiles.T]
    assert spans == [(0, 54), (12, 72), (30, 72)]
    assert np.all(tiles.sum(axis=0) == [54, 60, 42])
