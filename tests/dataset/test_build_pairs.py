import pickle
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from dataset.build_pairs.__main__ import main
from dataset.pairs.image_folders import list_images
from dataset.pairs.image_pairs import read_image_pairs, read_pairs
from dataset.pairs.lfw import read_lfw_pairs
from dataset.pairs.pair_files import write_image_pairs
from dataset.pairs.video_pairs import read_video_pairs
from eval.scoring.verification import even_folds
from tests.dataset.samples import encoded_image, with_orientation

PAIRS = """\
2\t2
Ann_A\t1\t2
Bob\t1\t3
Ann_A\t1\tBob\t1
Ann_A\t2\tCy\t1
Cy\t1\t2
Bob\t3\t2
Cy\t2\tBob\t2
Bob\t1\tCy\t1
"""
LFW = [
    ("Ann_A/Ann_A_0001", "Ann_A/Ann_A_0002", True),
    ("Bob/Bob_0001", "Bob/Bob_0003", True),
    ("Ann_A/Ann_A_0001", "Bob/Bob_0001", False),
    ("Ann_A/Ann_A_0002", "Cy/Cy_0001", False),
    ("Cy/Cy_0001", "Cy/Cy_0002", True),
    ("Bob/Bob_0003", "Bob/Bob_0002", True),
    ("Cy/Cy_0002", "Bob/Bob_0002", False),
    ("Bob/Bob_0001", "Cy/Cy_0001", False),
]


def draw(path, seed, size=(14, 12)):
    """Writes an image of noise. Returns its pixels as they are read back."""
    noise = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), noise)
    return decode(path)


def decode(path):
    return cv2.imread(str(path))[..., ::-1]


def run(*arguments):
    main([str(argument) for argument in arguments])


def failure(*arguments):
    with pytest.raises(SystemExit, match=r"^dataset\.build_pairs: ") as error:
        run(*arguments)
    return str(error.value)


def batch(pairs):
    return pairs.batch(0, 2 * len(pairs))


@pytest.fixture
def lfw(tmp_path):
    """A folder like LFW, with one PNG and one `.jpeg`, and its `pairs.txt`."""
    stems = sorted({stem for *stems, _ in LFW for stem in stems})
    for seed, stem in enumerate(stems):
        suffix = {"Bob/Bob_0002": ".png", "Cy/Cy_0001": ".jpeg"}.get(stem, ".jpg")
        draw(tmp_path / "images" / (stem + suffix), seed)
    (tmp_path / "pairs.txt").write_text(PAIRS)
    return tmp_path


def lfw_image(folder, stem):
    (path,) = folder.glob(f"images/{stem}.*")
    return path


class TestReadLfwPairs:
    @pytest.mark.parametrize(
        "content",
        [
            PAIRS,
            PAIRS.replace("2\t2\n", "", 1),
            PAIRS.replace("2\t2\n", "\ufeff 2 2 \n\n", 1).replace("\t", "  ") + "\n\n",
            PAIRS.replace("\n", "\r\n"),
        ],
    )
    def test_pairs_keep_their_order_and_names(self, tmp_path, content):
        (tmp_path / "pairs.txt").write_text(content)
        assert read_lfw_pairs(tmp_path / "pairs.txt") == LFW

    def test_names_may_contain_spaces_if_tabs_separate_them(self, tmp_path):
        (tmp_path / "pairs.txt").write_text("1\nA B\t1\t12345\nA B\t1\tC\t2\n")
        assert read_lfw_pairs(tmp_path / "pairs.txt") == [
            ("A B/A B_0001", "A B/A B_12345", True),
            ("A B/A B_0001", "C/C_0002", False),
        ]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("", "received none"),
            ("10\t300\n", "received none"),
            ("A\t1\n", "line 1: .*'A.t1'"),
            ("A\t1\t2\nA\t1\tx\n", "line 2: "),
            ("A\t1\t2\nA\t1\tB\t2\t3\n", "line 2: "),
            ("A\t1\tA\t2\n", "line 1: "),
            ("A\t1\t2\n2\t2\n", "line 2: "),
            (PAIRS.replace("2\t2", "3\t2", 1), "12 pairs.* 8"),
            (PAIRS.replace("2\t2", "4", 1), "line 4: "),
            (PAIRS.replace("2\t2", "1\t2", 1), "4 pairs.* 8"),
            (PAIRS + "A\t1\t2\n", "8 pairs.* 9"),
            ("1\t1\nA\t1\t2\nA\t2\t3\n", "line 3: "),
        ],
    )
    def test_unreadable_lists_are_errors(self, tmp_path, content, message):
        path = tmp_path / "pairs.txt"
        path.write_text(content)
        with pytest.raises(ValueError, match=message) as error:
            read_lfw_pairs(path)
        assert str(error.value).startswith(str(path))


class TestLfw:
    def test_bin_keeps_the_order_and_the_encoded_images(self, lfw, caplog):
        with caplog.at_level("INFO"):
            run("lfw", "--images", lfw / "images", "--pairs", lfw / "pairs.txt", "--out", lfw / "lfw.bin")
        assert "8 pairs of 14x12 images, 4 genuine and 4 impostor" in caplog.text
        with (lfw / "lfw.bin").open("rb") as file:
            images, is_same = pickle.load(file)
        assert is_same == [True, True, False, False] * 2
        assert images == [lfw_image(lfw, stem).read_bytes() for *stems, _ in LFW for stem in stems]
        pairs = read_pairs(lfw / "lfw.bin")
        np.testing.assert_array_equal(
            batch(pairs), [decode(lfw_image(lfw, stem)) for *stems, _ in LFW for stem in stems]
        )
        assert even_folds(pairs.is_same, 2).tolist() == [0] * 4 + [1] * 4

    def test_np_holds_positives_and_negatives_in_order(self, lfw):
        run("lfw", "--images", lfw / "images", "--pairs", lfw / "pairs.txt", "--out", lfw / "lfw.np")
        pairs = read_pairs(lfw / "lfw.np")
        assert pairs.is_same.tolist() == [True] * 4 + [False] * 4
        ordered = sorted(LFW, key=lambda row: not row[2])
        np.testing.assert_array_equal(
            batch(pairs), [decode(lfw_image(lfw, stem)) for *stems, _ in ordered for stem in stems]
        )
        with (lfw / "lfw.np").open("rb") as file:
            positives, _ = pickle.load(file)
        assert [type(positives), type(positives[0]), len(positives[0])] == [list, list, 2]
        assert positives[0][0].dtype == np.uint8

    def test_missing_images_are_counted_and_named(self, lfw):
        for stem in ("Cy/Cy_0002", "Ann_A/Ann_A_0002"):
            lfw_image(lfw, stem).unlink()
        arguments = "lfw", "--images", lfw / "images", "--pairs", lfw / "pairs.txt", "--out", lfw / "a.bin"
        message = failure(*arguments)
        assert (
            "2 of 7 images are missing, such as Ann_A/Ann_A_0002, Cy/Cy_0002. Give --allow_missing" in message
        )
        assert not (lfw / "a.bin").exists()

    def test_pairs_with_missing_images_are_left_out(self, lfw, caplog):
        lfw_image(lfw, "Cy/Cy_0002").unlink()
        run(
            *("lfw", "--images", lfw / "images", "--pairs", lfw / "pairs.txt", "--out", lfw / "a.bin"),
            "--allow_missing",
        )
        assert "1 of 7 images are missing, such as Cy/Cy_0002" in caplog.text
        assert "2 of 8 pairs are left out" in caplog.text
        pairs, kept = read_pairs(lfw / "a.bin"), [row for row in LFW if "Cy/Cy_0002" not in row]
        assert pairs.is_same.tolist() == [row[2] for row in kept]
        np.testing.assert_array_equal(
            batch(pairs), [decode(lfw_image(lfw, stem)) for *stems, _ in kept for stem in stems]
        )

    def test_all_images_missing_is_an_error(self, lfw):
        arguments = "lfw", "--images", lfw, "--pairs", lfw / "pairs.txt", "--out", lfw / "lfw.bin"
        message = failure(*arguments)
        assert "7 of 7 images are missing, such as Ann_A/Ann_A_0001, " in message
        assert message.count("/Cy_") + message.count("/Ann_A_") + message.count("/Bob_") == 5
        assert "lfw.bin: expected at least one pair" in failure(*arguments, "--allow_missing")

    @pytest.mark.parametrize("ending", ["bin", "np", "txt"])
    def test_damaged_images_and_other_sizes_are_errors(self, lfw, ending):
        path = lfw_image(lfw, "Bob/Bob_0001")
        path.write_bytes(path.read_bytes()[:-20])
        draw(lfw_image(lfw, "Bob/Bob_0003"), 0, (14, 13))
        message = failure(
            *("lfw", "--images", lfw / "images", "--pairs", lfw / "pairs.txt", "--out", lfw / f"a.{ending}")
        )
        assert "14x12, the size of Ann_A/Ann_A_0001.jpg; 2 are not" in message
        assert "Bob/Bob_0001.jpg: expected a JPEG" in message
        assert "Bob/Bob_0003.jpg: expected 14x12, received 14x13" in message
        assert not list(lfw.glob("a.*"))

    def test_only_some_of_many_damaged_images_are_listed(self, lfw):
        for path in (lfw / "images").glob("*/*"):
            path.write_bytes(b"nothing")
        message = failure(
            *("lfw", "--images", lfw / "images", "--pairs", lfw / "pairs.txt", "--out", lfw / "a.np")
        )
        assert "7 are not: " in message
        assert message.endswith(" (and 2 more)")
        assert message.count("JPEG or PNG") == 5

    def test_paths_come_from_the_config(self, lfw):
        config = lfw / "config.ini"
        config.write_text("[records]\ntfrecords = t\n[lfw]\npairs = pairs.txt\nprefix = images\n")
        run("lfw", "--config", config, "--out", lfw / "a.bin")
        (lfw / "half.txt").write_text("Bob 1 2\n")
        run("lfw", "--config", config, "--pairs", lfw / "half.txt", "--out", lfw / "b.bin")
        assert (len(read_pairs(lfw / "a.bin")), len(read_pairs(lfw / "b.bin"))) == (8, 1)

    def test_without_paths_and_config_the_error_names_both(self, lfw):
        config = lfw / "config.ini"
        message = failure("lfw", "--images", lfw, "--config", config, "--out", lfw / "a.bin")
        assert "--pairs" in message and f"{config}: " in message
        config.write_text("[records]\ntfrecords = t\n[lfw]\nprefix = images\n")
        message = failure("lfw", "--config", config, "--out", lfw / "a.bin")
        assert "config.ini, [lfw] pairs is missing" in message and "--pairs" in message


@pytest.fixture
def ytf(tmp_path):
    """Videos of 1 to 12 frames, whose numbers have no leading zeros, and their splits."""
    for seed, (video, num_frames) in enumerate((("A/0", 12), ("A/1", 5), ("B/0", 4), ("C/2", 1))):
        for frame in range(1, num_frames + 1):
            number = video.split("/")[1]
            draw(tmp_path / "112x112" / video / f"{number}.{frame}.jpg", (seed, frame))
    (tmp_path / "112x112" / "A" / "0" / "notes.txt").write_text("no image")
    (tmp_path / "112x112" / "A" / "0" / "._0.1.jpg").write_text("no image")
    (tmp_path / "splits.txt").write_text(
        "split number, pair number, first name, second name, is same\n"
        "1, 1, A/0, B/0, 0\n1, 2, A/0, A/1, 1\n2, 1, C/2, A/0, 0\n2, 2, B/0, A/1, 0\n"
    )
    return tmp_path


def ytf_lines(folder, *arguments):
    out = folder / "pairs.txt"
    run(
        *("ytf", "--prefix", folder / "112x112", "--splits", folder / "splits.txt"),
        *("--out", out, "--overwrite", *arguments),
    )
    return out.read_text().splitlines()


class TestYtf:
    def test_the_first_frame_is_taken(self, ytf):
        expected = [
            "0,A/0/0.1.jpg,B/0/0.1.jpg",
            "1,A/0/0.1.jpg,A/1/1.1.jpg",
            "0,C/2/2.1.jpg,A/0/0.1.jpg",
            "0,B/0/0.1.jpg,A/1/1.1.jpg",
        ]
        assert ytf_lines(ytf) == expected
        assert ytf_lines(ytf, "--frame", "first", "--seed", "3") == expected
        pairs = read_image_pairs(ytf / "pairs.txt", ytf / "112x112")
        assert pairs.is_same.tolist() == [False, True, False, False]
        np.testing.assert_array_equal(pairs.batch(1, 2)[0], decode(ytf / "112x112/B/0/0.1.jpg"))

    def test_the_middle_frame_in_time_is_taken(self, ytf):
        assert ytf_lines(ytf, "--frame", "middle") == [
            "0,A/0/0.6.jpg,B/0/0.2.jpg",
            "1,A/0/0.6.jpg,A/1/1.3.jpg",
            "0,C/2/2.1.jpg,A/0/0.6.jpg",
            "0,B/0/0.2.jpg,A/1/1.3.jpg",
        ]

    def test_random_frames_depend_only_on_seed_pair_and_side(self, ytf):
        lines = ytf_lines(ytf, "--frame", "random")
        # These golden values are the same on every machine.
        assert lines == [
            "0,A/0/0.11.jpg,B/0/0.3.jpg",
            "1,A/0/0.3.jpg,A/1/1.4.jpg",
            "0,C/2/2.1.jpg,A/0/0.11.jpg",
            "0,B/0/0.4.jpg,A/1/1.1.jpg",
        ]
        assert ytf_lines(ytf, "--frame", "random", "--seed", "1") != lines
        splits = (ytf / "splits.txt").read_text().splitlines(keepends=True)
        (ytf / "splits.txt").write_text("".join(splits[:0:-1]))
        assert ytf_lines(ytf, "--frame", "random") == lines[::-1]

    def test_every_frame_can_be_drawn(self, ytf):
        drawn = {ytf_lines(ytf, "--frame", "random", "--seed", seed)[3] for seed in range(200)}
        assert len(drawn) == 4 * 5

    def test_pairs_with_missing_or_empty_videos_are_left_out_on_request(self, ytf, caplog):
        (ytf / "112x112/C/2/2.1.jpg").unlink()
        for path in (ytf / "112x112/B/0").iterdir():
            path.unlink()
        (ytf / "112x112/B/0").rmdir()
        message = failure(
            *("ytf", "--prefix", ytf / "112x112", "--splits", ytf / "splits.txt", "--out", ytf / "p.txt")
        )
        assert (
            f"{ytf}/112x112: 2 of 4 videos have no frames, such as B/0, C/2. Give --allow_missing" in message
        )
        assert not (ytf / "p.txt").exists()
        assert ytf_lines(ytf, "--allow_missing") == ["1,A/0/0.1.jpg,A/1/1.1.jpg"]
        assert "3 of 4 pairs are left out" in caplog.text

    def test_a_damaged_frame_is_an_error(self, ytf):
        (ytf / "112x112/C/2/2.1.jpg").write_bytes(b"\xff\xd8")
        message = failure(
            *("ytf", "--prefix", ytf / "112x112", "--splits", ytf / "splits.txt", "--out", ytf / "p.txt")
        )
        assert "1 are not: C/2/2.1.jpg: expected a JPEG" in message
        assert not (ytf / "p.txt").exists()

    def test_paths_come_from_the_config(self, ytf):
        config = ytf / "config.ini"
        config.write_text("[records]\ntfrecords = t\n[ytf]\nsplits = splits.txt\nprefix = 112x112\n")
        run("ytf", "--config", config, "--out", ytf / "a" / "pairs.txt")
        assert (ytf / "a" / "pairs.txt").read_text().splitlines() == ytf_lines(ytf)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """Images of 8 people, one of whom has many; others have one image or none."""
    root = tmp_path_factory.mktemp("own") / "people"
    for person, size in enumerate((20, 5, 5, 4, 3, 3, 2, 1)):
        for image in range(size):
            draw(root / f"p{person}" / f"{image}.{'png' if image % 2 else 'JPG'}", (person, image))
    (root / "nobody").mkdir()
    (root / ".hidden").mkdir()
    (root / ".hidden" / "1.jpg").write_bytes(b"no image")
    (root / "readme.txt").write_text("no identity")
    return root


class TestImages:
    def test_the_three_formats_hold_the_same_pairs(self, own, tmp_path, caplog):
        for ending in ("bin", "np", "txt"):
            with caplog.at_level("INFO"):
                run("images", "--root", own, "--folds", "3", "--out", tmp_path / f"own.{ending}")
        rows = [line.split(",") for line in (tmp_path / "own.txt").read_text().splitlines()]
        is_same = np.array([row[0] == "1" for row in rows])
        num_pairs = len(rows) // 6
        assert is_same.tolist() == ([True] * num_pairs + [False] * num_pairs) * 3
        assert f"the data has only {num_pairs}" in caplog.text
        assert f"own.np: {len(rows)} pairs of 14x12 images, {3 * num_pairs} genuine" in caplog.text

        folds = even_folds(is_same, 3)
        people = [
            {
                path.split("/")[0]
                for row, fold in zip(rows, folds, strict=True)
                if fold == k
                for path in row[1:]
            }
            for k in range(3)
        ]
        assert len(set.union(*people)) == sum(map(len, people)) <= 8

        listed = read_image_pairs(tmp_path / "own.txt", own)
        encoded, arrays = read_pairs(tmp_path / "own.bin"), read_pairs(tmp_path / "own.np")
        assert encoded.is_same.tolist() == is_same.tolist()
        np.testing.assert_array_equal(batch(listed), batch(encoded))
        by_pair = batch(listed).reshape(-1, 2, 14, 12, 3)
        np.testing.assert_array_equal(
            batch(arrays), np.concatenate([by_pair[is_same], by_pair[~is_same]]).reshape(-1, 14, 12, 3)
        )
        np.testing.assert_array_equal(
            even_folds(arrays.is_same, 3), np.concatenate([folds[is_same], folds[~is_same]])
        )

    def test_pairs_depend_on_the_seed_and_the_requested_number(self, own, tmp_path, caplog):
        arguments = "images", "--root", own, "--folds", 2, "--pairs_per_fold", 3
        outs = [tmp_path / f"{number}.txt" for number in range(3)]
        for out, seed in zip(outs, (0, 0, 1), strict=True):
            run(*arguments, "--seed", seed, "--out", out)
        first, again, other = (out.read_text() for out in outs)
        assert first == again != other
        assert len(first.splitlines()) == 2 * 2 * 3
        assert "the data has only" not in caplog.text

    def test_too_few_people_are_an_error(self, own, tmp_path):
        message = failure("images", "--root", own, "--out", tmp_path / "own.bin")
        assert message.startswith(f"dataset.build_pairs: {own}: ") and "7 of 8 identities" in message
        assert "no such folder" in failure("images", "--root", own / "x", "--out", tmp_path / "own.bin")
        assert list(tmp_path.iterdir()) == []

    def test_a_folder_of_videos_needs_the_other_command(self, own, tmp_path):
        (tmp_path / "people").mkdir()
        (tmp_path / "people" / "own").symlink_to(own)
        message = failure("images", "--root", tmp_path / "people", "--out", tmp_path / "own.bin")
        assert f"{tmp_path / 'people'}: " in message and "dataset.build_pairs videos" in message


class TestVideos:
    def test_a_folder_of_images_needs_the_other_command(self, own, tmp_path):
        message = failure("videos", "--root", own, "--out", tmp_path / "splits.txt")
        assert f"{own}: " in message and "dataset.build_pairs images" in message

    def test_splits_have_disjoint_people(self, tmp_path, caplog):
        root = tmp_path / "videos"
        for person, num_videos in enumerate((4, 3, 3, 2, 2, 1)):
            for video in range(num_videos):
                draw(root / f"p{person}" / f"clip {video}" / "0001.png", 0)
        (root / "p5" / "empty").mkdir()
        (root / "p6").mkdir()
        (root / "readme.txt").write_text("no identity")
        with caplog.at_level("INFO"):
            run("videos", "--root", root, "--out", tmp_path / "splits.txt", "--splits", 2)
        pairs = read_video_pairs(tmp_path / "splits.txt")
        num_pairs = len(pairs) // 4
        assert pairs.splits.tolist() == [1] * (2 * num_pairs) + [2] * (2 * num_pairs)
        assert pairs.is_same.tolist() == ([True] * num_pairs + [False] * num_pairs) * 2
        assert f"the data has only {num_pairs}" in caplog.text
        assert f"{len(pairs)} pairs of videos, {2 * num_pairs} genuine and" in caplog.text
        assert all(list_images(root / video) for video in pairs.videos)
        people = [video.split("/")[0] for video in pairs.videos]
        of_split = [
            {people[number] for side in (pairs.first, pairs.second) for number in side[pairs.splits == split]}
            for split in (1, 2)
        ]
        assert not of_split[0] & of_split[1]

        run("videos", "--root", root, "--out", tmp_path / "b.txt", "--splits", 2, "--pairs_per_split", 2)
        assert len(read_video_pairs(tmp_path / "b.txt")) == 8

    def test_too_few_videos_are_an_error(self, tmp_path):
        (tmp_path / "somebody" / "empty").mkdir(parents=True)
        message = failure("videos", "--root", tmp_path, "--out", tmp_path / "splits.txt")
        assert f"{tmp_path}: " in message and "0 of 0 identities" in message


@pytest.mark.parametrize("command", ["lfw", "ytf", "images"])
def test_an_unknown_ending_is_an_error(tmp_path, command, capsys):
    arguments = {"images": ("--root", tmp_path)}.get(command, ())
    with pytest.raises(SystemExit):
        run(command, *arguments, "--out", tmp_path / "pairs.pkl")
    assert "--out is" in (error := capsys.readouterr().err) and "pairs.pkl" in error


@pytest.mark.parametrize(
    "arguments", [("images", "--folds", 1), ("images", "--pairs_per_fold", 0), ("videos", "--seed", -1)]
)
def test_values_out_of_range_are_errors(tmp_path, arguments, capsys):
    with pytest.raises(SystemExit) as error:
        run(*arguments, "--root", tmp_path, "--out", tmp_path / "pairs.txt")
    assert error.value.code == 2
    assert f"{arguments[1]} is " in capsys.readouterr().err


@pytest.mark.parametrize("command", ["images", "videos"])
def test_an_existing_file_is_not_replaced(own, tmp_path, command):
    out = tmp_path / "own.txt"
    out.write_text("mine")
    message = failure(command, "--root", own, "--out", out)
    assert "own.txt: already exists. Give --overwrite" in message
    assert out.read_text() == "mine"


def test_overwrite_replaces_a_file(own, tmp_path):
    out = tmp_path / "own.txt"
    out.write_text("mine")
    run("images", "--root", own, "--folds", 2, "--out", out, "--overwrite")
    assert len(read_image_pairs(out, own)) > 4


class TestWriteImagePairs:
    @pytest.mark.parametrize("name", ["a,b.png", "a\nb.png", " a.png"])
    def test_paths_that_a_list_cannot_represent_are_refused(self, tmp_path, name):
        for image in ("a.png", name):
            draw(tmp_path / "images" / image, 0)
        pairs = [("a.png", "a.png", True), ("a.png", name, False)]
        with pytest.raises(ValueError, match=re.escape(repr(name))):
            write_image_pairs(tmp_path / "pairs.txt", tmp_path / "images", pairs)
        write_image_pairs(tmp_path / "pairs.np", tmp_path / "images", pairs)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "pairs.np"]

    def test_is_same_is_stored_as_python_booleans(self, tmp_path):
        draw(tmp_path / "a.png", 0)
        write_image_pairs(tmp_path / "pairs.bin", tmp_path, [("a.png", "a.png", np.True_)])
        with (tmp_path / "pairs.bin").open("rb") as file:
            assert pickle.load(file)[1][0] is True

    def test_an_exif_orientation_is_ignored(self, tmp_path):
        image = encoded_image(0, 24, 20)
        (tmp_path / "a.jpg").write_bytes(image)
        (tmp_path / "b.jpg").write_bytes(with_orientation(image))
        assert write_image_pairs(tmp_path / "p.np", tmp_path, [("a.jpg", "b.jpg", True)]) == (24, 20)
        np.testing.assert_array_equal(*read_pairs(tmp_path / "p.np").batch(0, 2))

    def test_a_missing_image_is_an_error(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"a\.jpg"):
            write_image_pairs(tmp_path / "pairs.bin", tmp_path, [("a.jpg", "b.jpg", True)])
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["", "lfw", "ytf", "images", "videos"])
def test_help_does_not_load_tensorflow(command):
    program = (
        "import sys\nfrom dataset.build_pairs.__main__ import main\n"
        "try:\n    main(sys.argv[1:])\nfinally:\n    assert not {'tensorflow', 'keras'} & set(sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, *command.split(), "--help"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "usage: python -m dataset.build_pairs" in result.stdout
