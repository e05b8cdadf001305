import hashlib
import json
import logging
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

from dataset.pairs import video_frames
from dataset.pairs.image_folders import natural_key
from dataset.pairs.video_frames import evenly_spaced, find_frames
from tests.dataset.samples import with_orientation

LENGTHS = {"B/1": 3, "A/10": 12, "A/2": 1}


def picture(seed, size=(24, 20), ending=".jpg"):
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (6, 5, 3), np.uint8)
    return cv2.imencode(ending, cv2.resize(small, size[::-1]), [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def decoded(content):
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def decoding_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("frames")]


@pytest.fixture
def prefix(tmp_path):
    """Three videos. If sorted as strings, their frames would not be in numerical order."""
    for seed, (video, length) in enumerate(LENGTHS.items()):
        folder = tmp_path / "frames" / video
        folder.mkdir(parents=True)
        for number in range(length):
            (folder / f"{seed}.{number}.jpg").write_bytes(picture(100 * seed + number))
    return tmp_path / "frames"


def sorted_paths(prefix, videos):
    return [
        f"{video}/{name}"
        for video in videos
        for name in sorted((file.name for file in (prefix / video).iterdir()), key=natural_key)
    ]


class TestFindFrames:
    def test_frames_are_in_numerical_order(self, prefix):
        videos = ("A/10", "B/1", "A/2")
        frames = find_frames(prefix, iter(videos))
        assert (frames.prefix, frames.videos) == (prefix, videos)
        assert frames.paths == sorted_paths(prefix, videos)
        assert frames.paths[:3] == ["A/10/1.0.jpg", "A/10/1.1.jpg", "A/10/1.2.jpg"]
        assert frames.offsets.tolist() == [0, 12, 15, 16]
        assert frames.offsets.dtype == np.int64
        assert frames.frames_per_video.tolist() == [12, 3, 1]
        assert len(frames) == 16
        assert frames.image_size == (24, 20)
        assert (frames.missing, frames.empty, frames.unusable) == ((), (), {})

    def test_some_frames_of_each_video_can_be_chosen(self, prefix, tmp_path):
        some = find_frames(prefix, ["A/10", "B/1", "A/2"], max_frames=2, memo=tmp_path)
        # They are the middles of the two halves of 12 and of 3 frames.
        everything = sorted_paths(prefix, ["A/10", "B/1", "A/2"])
        assert some.paths == [everything[number] for number in (3, 9, 12, 14, 15)]
        assert some.offsets.tolist() == [0, 2, 4, 5]
        assert len(find_frames(prefix, ["A/10", "B/1", "A/2"], memo=tmp_path)) == 16

    def test_only_visible_pictures_are_frames(self, prefix):
        folder = prefix / "A/2"
        (folder / "x.PNG").write_bytes(picture(50, ending=".png"))
        (folder / "x.jpeg").write_bytes(picture(51))
        for name in (".hidden.jpg", "notes.txt", "Thumbs.db", "x.jpg.tmp"):
            (folder / name).write_bytes(b"no frame")
        (folder / "folder.jpg").mkdir()
        (folder / "deeper").mkdir()
        (folder / "deeper" / "y.jpg").write_bytes(picture(52))
        frames = find_frames(prefix, ["A/2"])
        assert frames.paths == ["A/2/2.0.jpg", "A/2/x.PNG", "A/2/x.jpeg"]
        assert not frames.unusable
        np.testing.assert_array_equal(frames.decode(1, 2)[0], decoded(picture(50, ending=".png")))

    def test_missing_and_empty_videos_are_reported(self, prefix):
        (prefix / "A/3").mkdir()
        (prefix / "A/4").mkdir()
        (prefix / "A/4" / "0.jpg").write_bytes(b"")
        (prefix / "A/5").write_bytes(b"a file, no folder")
        frames = find_frames(prefix, ["C/0", "A/3", "B/1", "A/5", "A/4", "A/2"])
        assert frames.missing == ("C/0", "A/5")
        assert frames.empty == ("A/3", "A/4")
        assert frames.offsets.tolist() == [0, 0, 0, 3, 3, 3, 4]
        assert frames.unusable == {"A/4/0.jpg": "expected a JPEG or PNG, received 0 bytes that start with ''"}

    def test_unusable_frames_are_listed_and_left_out(self, prefix):
        whole = picture(0)
        bad = {
            "B/1/0.1.jpg": (whole[:-9], "without"),
            "A/10/1.3.jpg": (b"GIF89a", "expected a JPEG or PNG"),
            "A/10/1.5.jpg": (picture(5, (20, 24)), "expected 24x20, the size of most frames, received 20x24"),
            "A/10/1.6.jpg": (whole[:-99] + b"\xff\xd9", "damaged data"),
        }
        for path, (content, _) in bad.items():
            (prefix / path).write_bytes(content)
        frames = find_frames(prefix, ["B/1", "A/10", "A/2"])
        assert list(frames.unusable) == sorted(bad)
        for path, (_, why) in bad.items():
            assert why in frames.unusable[path]
        assert frames.paths == [p for p in sorted_paths(prefix, frames.videos) if p not in bad]
        assert frames.frames_per_video.tolist() == [2, 9, 1]
        assert not frames.empty

    def test_the_most_frequent_size_wins(self, prefix):
        for number in range(20):  # more than all other frames together, and read after them
            (prefix / "A/2" / f"3.{number:02}.jpg").write_bytes(picture(number, (16, 16)))
        frames = find_frames(prefix, LENGTHS)
        assert frames.image_size == (16, 16)
        assert len(frames) == 20
        assert frames.empty == ("B/1", "A/10")
        assert frames.unusable["B/1/0.0.jpg"] == "expected 16x16, the size of most frames, received 24x20"

    def test_no_usable_frame_is_an_error(self, prefix):
        (prefix / "A/2" / "2.0.jpg").write_bytes(b"damaged")
        with pytest.raises(ValueError, match=f"{prefix}: .* 2 videos"):
            find_frames(prefix, ["A/2", "A/99"])
        with pytest.raises(FileNotFoundError, match="nowhere"):
            find_frames(prefix / "nowhere", ["A/2"])

    @pytest.mark.parametrize("workers", [1, 3])
    def test_the_number_of_threads_does_not_matter(self, prefix, workers, monkeypatch):
        monkeypatch.setattr(video_frames, "_FRAMES_PER_JOB", 2)
        (prefix / "A/10" / "1.7.jpg").write_bytes(b"damaged")
        expected = find_frames(prefix, LENGTHS)
        images = expected.decode(0, 15)
        monkeypatch.setattr(video_frames, "_WORKERS", workers)
        frames = find_frames(prefix, LENGTHS)
        assert frames.sha256 == expected.sha256
        assert (frames.paths, frames.unusable) == (expected.paths, expected.unusable)
        np.testing.assert_array_equal(frames.decode(0, 15), images)

    def test_a_file_that_cannot_be_read_stops_and_leaves_no_thread(self, prefix, monkeypatch):
        monkeypatch.setattr(video_frames, "_FRAMES_PER_JOB", 1)
        monkeypatch.setattr(video_frames, "_WORKERS", 1)
        monkeypatch.setattr(video_frames, "check_image", lambda *_, **__: (prefix / "A/2/2.0.jpg").unlink())
        with pytest.raises(FileNotFoundError, match=r"2\.0\.jpg"):
            find_frames(prefix, LENGTHS)
        assert not decoding_threads()

    def test_an_interrupted_scan_reads_no_more_frames(self, prefix, monkeypatch):
        monkeypatch.setattr(video_frames, "_FRAMES_PER_JOB", 1)
        monkeypatch.setattr(video_frames, "_WORKERS", 1)
        checked, stopping, shutdown = [], threading.Event(), ThreadPoolExecutor.shutdown

        def check(content, **options):
            checked.append(content)
            assert len(checked) == 1 or stopping.wait(20)
            return 24, 20

        class Bar:
            def update(self, count):
                raise KeyboardInterrupt

        def shut_down(pool, wait=True, *, cancel_futures=False):
            shutdown(pool, False, cancel_futures=cancel_futures)
            stopping.set()
            shutdown(pool, wait)

        monkeypatch.setattr(video_frames, "check_image", check)
        monkeypatch.setattr(ThreadPoolExecutor, "shutdown", shut_down)
        with pytest.raises(KeyboardInterrupt) as error:
            video_frames._scan(prefix, sorted_paths(prefix, LENGTHS), Bar())
        assert len(checked) <= 2
        del error


@pytest.mark.parametrize(
    ("num_frames", "limit", "numbers"),
    [
        (0, 3, []),
        (2, 3, [0, 1]),
        (7, None, range(7)),
        (7, 1, [3]),
        (8, 2, [2, 6]),
        (9, 3, [1, 4, 7]),
        (10, 4, [1, 3, 6, 8]),
    ],
)
def test_chosen_frames_are_evenly_spaced(num_frames, limit, numbers):
    assert evenly_spaced(num_frames, limit).tolist() == list(numbers)


class TestSha256:
    def test_the_hash_covers_names_and_contents_in_order(self, prefix):
        (prefix / "A/10" / "1.5.jpg").write_bytes(picture(5, (20, 24)))
        frames = find_frames(prefix, LENGTHS)
        expected = hashlib.sha256()
        for path in frames.paths:
            content = hashlib.sha256((prefix / path).read_bytes())
            expected.update(path.encode() + b"\0" + content.digest())
        assert frames.sha256 == expected.hexdigest()

    def test_hash_changes_with_names_contents_and_order(self, prefix):
        digests = {find_frames(prefix, LENGTHS).sha256}
        digests.add(find_frames(prefix, sorted(LENGTHS)).sha256)
        first, second = prefix / "A/10/1.0.jpg", prefix / "A/10/1.1.jpg"
        contents = first.read_bytes(), second.read_bytes()
        first.write_bytes(contents[1])
        second.write_bytes(contents[0])
        digests.add(find_frames(prefix, LENGTHS).sha256)
        second.rename(second.with_name("1.1.jpeg"))
        digests.add(find_frames(prefix, LENGTHS).sha256)
        first.unlink()
        digests.add(find_frames(prefix, LENGTHS).sha256)
        assert len(digests) == 5

    def test_hash_ignores_the_folder_and_unusable_frames(self, prefix, tmp_path):
        expected = find_frames(prefix, LENGTHS).sha256
        (prefix / "A/10" / "0.jpg").write_bytes(b"damaged")
        shutil.copytree(prefix, tmp_path / "elsewhere")
        assert find_frames(tmp_path / "elsewhere", [*LENGTHS, "C/7"]).sha256 == expected


class TestMemo:
    @pytest.fixture
    def reads(self, monkeypatch):
        """Counts the frames that are read."""
        counted = []
        check = video_frames.check_image
        monkeypatch.setattr(
            video_frames, "check_image", lambda *args, **options: counted.append(1) or check(*args, **options)
        )
        return counted

    def test_the_second_scan_reads_nothing(self, prefix, tmp_path, reads):
        memo = tmp_path / "made" / "memo"
        (prefix / "A/10" / "1.5.jpg").write_bytes(picture(5, (20, 24)))
        (prefix / "A/3").mkdir()
        videos = [*LENGTHS, "A/3", "C/0"]
        first = find_frames(prefix, videos, memo=memo)
        assert len(reads) == 16
        second = find_frames(prefix, videos, memo=memo)
        assert len(reads) == 16
        for name in ("paths", "missing", "empty", "unusable", "image_size", "sha256"):
            assert getattr(second, name) == getattr(first, name)
        np.testing.assert_array_equal(second.offsets, first.offsets)
        assert [file.suffix for file in memo.iterdir()] == [".json"]

    def test_without_a_memo_nothing_is_kept(self, prefix, tmp_path, reads):
        find_frames(prefix, LENGTHS)
        find_frames(prefix, LENGTHS)
        assert len(reads) == 32
        assert [path.name for path in tmp_path.iterdir()] == ["frames"]

    @pytest.mark.parametrize("change", ["time", "size", "name", "new", "gone", "order"])
    def test_changed_frames_are_read_again(self, prefix, tmp_path, reads, change):
        find_frames(prefix, LENGTHS, memo=tmp_path)
        reads.clear()
        path, videos = prefix / "A/2/2.0.jpg", list(LENGTHS)
        stat, other = path.stat(), picture(77)
        if change == "time":
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
        elif change == "size":
            path.write_bytes(other + b"\0" * (1 + abs(len(other) - stat.st_size)))
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        elif change == "name":
            path.rename(path.with_name("9.jpg"))
        elif change == "new":
            (prefix / "A/2/0.jpg").write_bytes(other)
        elif change == "gone":
            path.unlink()
        else:
            videos.reverse()
        fresh = find_frames(prefix, videos)
        assert find_frames(prefix, videos, memo=tmp_path).sha256 == fresh.sha256
        assert len(reads) == 2 * len(fresh)

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"version": 1}', b"\xff\xfe"])
    def test_an_unreadable_memo_is_ignored(self, prefix, tmp_path, reads, content, caplog):
        expected = find_frames(prefix, LENGTHS, memo=tmp_path)
        (kept,) = tmp_path.glob("*.json")
        whole = kept.read_bytes()
        kept.write_bytes(content)
        assert find_frames(prefix, LENGTHS, memo=tmp_path).sha256 == expected.sha256
        assert len(reads) == 32
        assert str(kept) in caplog.text
        assert kept.read_bytes() == whole  # The memo was written again.

    def test_a_memo_of_another_set_or_version_is_ignored(self, prefix, tmp_path, reads):
        expected = find_frames(prefix, LENGTHS, memo=tmp_path).sha256
        (kept,) = tmp_path.glob("*.json")
        for changed in ({"version": 0}, {"fingerprint": "f" * 64}):
            kept.write_text(json.dumps(json.loads(kept.read_text()) | changed | {"sha256": "wrong"}))
            assert find_frames(prefix, LENGTHS, memo=tmp_path).sha256 == expected

    def test_a_memo_that_cannot_be_written_is_a_warning(self, prefix, tmp_path, caplog):
        (tmp_path / "file").write_bytes(b"")
        with caplog.at_level(logging.WARNING):
            assert len(find_frames(prefix, LENGTHS, memo=tmp_path / "file" / "memo")) == 16
        assert "the next scan reads all frames again" in caplog.text


class TestDecode:
    def test_frames_are_decoded_to_rgb_in_order(self, prefix):
        frames = find_frames(prefix, LENGTHS)
        expected = np.stack([decoded((prefix / path).read_bytes()) for path in frames.paths])
        for start, stop in ((0, 16), (3, 4), (2, 13), (15, 99)):
            received = frames.decode(start, stop)
            assert received.dtype == np.uint8
            np.testing.assert_array_equal(received, expected[start:stop])
        with pytest.raises(ValueError, match="16 to 20"):
            frames.decode(16, 20)

    def test_an_exif_orientation_is_ignored(self, prefix):
        path = prefix / "A/2/2.0.jpg"
        path.write_bytes(with_orientation(picture(200)))
        assert cv2.imread(str(path)).shape == (20, 24, 3)
        frames = find_frames(prefix, ["A/2"])
        assert frames.image_size == (24, 20)
        np.testing.assert_array_equal(frames.decode(0, 1)[0], decoded(picture(200)))

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (None, "No such file"),
            (b"", "JPEG or PNG"),
            (b"damaged", "JPEG or PNG"),
            (picture(3, (20, 24)), "received 20x24"),
        ],
    )
    def test_a_frame_that_has_changed_is_an_error(self, prefix, content, message):
        frames = find_frames(prefix, LENGTHS)
        path = prefix / frames.paths[7]
        path.unlink() if content is None else path.write_bytes(content)
        with pytest.raises(ValueError, match=f"{frames.paths[7]}: .*24x20.*{message}"):
            frames.decode(0, 16)
        assert frames.decode(0, 7).shape == (7, 24, 20, 3)
        assert not decoding_threads()
