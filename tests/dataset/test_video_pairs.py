import numpy as np
import pytest

from dataset.pairs.video_pairs import read_video_pairs, read_wrong_videos, write_video_pairs

HEADER = "split number, pair number, first name, second name, is same\n"
LINES = "1, 1, B/3, A/0, 0\n1, 2, A/0, A/1, 1\n2, 1, C_D/10, B/3, 0\n"


@pytest.fixture
def write(tmp_path):
    def write(content):
        path = tmp_path / "splits.txt"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def rows(pairs):
    names = np.array(pairs.videos)
    return list(
        zip(
            pairs.splits.tolist(),
            names[pairs.first].tolist(),
            names[pairs.second].tolist(),
            pairs.is_same.tolist(),
            strict=True,
        )
    )


ROWS = [(1, "B/3", "A/0", False), (1, "A/0", "A/1", True), (2, "C_D/10", "B/3", False)]


class TestReadVideoPairs:
    def test_videos_pairs_and_splits_are_read(self, write):
        path = write(LINES)
        pairs = read_video_pairs(path)
        assert (pairs.path, len(pairs)) == (path, 3)
        assert pairs.videos == ("B/3", "A/0", "A/1", "C_D/10")
        assert pairs.first.tolist() == [0, 1, 3]
        assert pairs.second.tolist() == [1, 2, 0]
        assert pairs.is_same.tolist() == [False, True, False]
        assert pairs.splits.tolist() == [1, 1, 2]
        assert {a.dtype for a in (pairs.first, pairs.second, pairs.splits)} == {np.dtype(np.int64)}
        assert pairs.is_same.dtype == bool

    @pytest.mark.parametrize(
        "content",
        [
            HEADER + LINES,
            "\n \n" + HEADER + "\n" + LINES + "\n\n",
            "\ufeff" + HEADER + LINES,
            "\ufeff" + LINES,
            (HEADER + LINES).replace("\n", "\r\n"),
            LINES.replace(", ", ","),
            LINES.replace(", ", "\t ,  ").replace("\n", " \n"),
            LINES.replace("\n", ", 0.37, anything\n"),
            LINES.removesuffix("\n"),
            LINES.replace("1, 2, A", "1, 77, A"),
            LINES.replace("A/0", "A//0/").replace("B/3", "./B/3"),
        ],
    )
    def test_other_spellings_give_the_same_pairs(self, write, content):
        assert rows(read_video_pairs(write(content))) == ROWS

    def test_splits_may_start_anywhere_and_keep_the_order(self, write):
        pairs = read_video_pairs(write("7, 1, A/0, A/1, 1\n0, 1, A/1, A/2, 1\n7, 2, A/0, A/2, 1\n"))
        assert pairs.splits.tolist() == [7, 0, 7]

    def test_names_of_videos_have_one_part_or_many(self, write):
        pairs = read_video_pairs(write("1, 1, clip-1, 2020/march/Zoë/clip, 0\n"))
        assert pairs.videos == ("clip-1", "2020/march/Zoë/clip")

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("1, 1, A/0, A/1", "'1, 1, A/0, A/1'"),
            ("x, 1, A/0, A/1, 1", "'x'"),
            ("-1, 1, A/0, A/1, 1", "'-1'"),
            ("1.0, 1, A/0, A/1, 1", "'1.0'"),
            ("99999999999999999999, 1, A/0, A/1, 1", "'99999"),
            ("1, 1, A/0, A/1, 2", "'2'"),
            ("1, 1, A/0, A/1, yes", "'yes'"),
            ("1, 1, A/0, A/1,", "''"),
            ("1, 1, A/0, /A/1, 1", "'/A/1'"),
            ("1, 1, A/../../B, A/1, 1", "'A/../../B'"),
            ("1, 1, , A/1, 1", "''"),
            ("1, 1, ., A/1, 1", r"'\.'"),
            ("1, 1, A/\0, A/1, 1", "A/"),
            (HEADER.strip(), "'split number'"),
        ],
    )
    def test_a_bad_line_is_an_error(self, write, line, message):
        path = write(f"{LINES}\n{line}\n{LINES}")
        with pytest.raises(ValueError, match=f"line 5: .*{message}") as error:
            read_video_pairs(path)
        assert str(error.value).startswith(f"{path}: line 5: ")

    def test_a_broken_first_line_is_not_a_header(self, write):
        with pytest.raises(ValueError, match=r"line 1: .*'x'"):
            read_video_pairs(write("x, 1, A/0, A/1, 1\n" + LINES))
        with pytest.raises(ValueError, match=r"line 1: .*'same'"):
            read_video_pairs(write("1, 1, A/0, A/1, same\n" + LINES))

    @pytest.mark.parametrize("content", ["", "\n \r\n", HEADER])
    def test_a_file_without_pairs_is_an_error(self, write, content):
        with pytest.raises(ValueError, match=r"splits\.txt"):
            read_video_pairs(write(content))

    def test_a_missing_file_is_an_error(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"none\.txt"):
            read_video_pairs(tmp_path / "none.txt")

    def test_a_file_that_is_not_text_is_an_error(self, write):
        with pytest.raises(ValueError, match=r"splits\.txt: .*UTF-8"):
            read_video_pairs(write(b"\xff\xfe1\x00"))


class TestWriteVideoPairs:
    def test_lines_have_the_format_of_youtube_faces(self, tmp_path):
        path = tmp_path / "splits.txt"
        path.write_text("before")
        write_video_pairs(
            path, iter([(1, "A/0", "B/3", False), (1, "A/0", "A/1", True), (2, "B/3", "A/1", 0)])
        )
        assert path.read_bytes() == b"1, 1, A/0, B/3, 0\n1, 2, A/0, A/1, 1\n2, 1, B/3, A/1, 0\n"
        assert list(tmp_path.iterdir()) == [path]

    def test_numbers_count_within_a_split(self, tmp_path):
        write_video_pairs(tmp_path / "splits.txt", [(s, "A/0", "A/1", True) for s in (2, 1, 2, 1, 2)])
        lines = (tmp_path / "splits.txt").read_text().splitlines()
        assert [line.split(", ")[:2] for line in lines] == [
            ["2", "1"],
            ["1", "1"],
            ["2", "2"],
            ["1", "2"],
            ["2", "3"],
        ]

    def test_written_pairs_are_read_back(self, tmp_path):
        written = [
            *ROWS,
            (np.int64(10), "Zoë/a b/c", "D", np.True_),
        ]
        write_video_pairs(tmp_path / "splits.txt", written)
        assert rows(read_video_pairs(tmp_path / "splits.txt")) == written

    @pytest.mark.parametrize("name", ["", "/A/0", "../A/0", "A,B/0", "A\n/0", "A\r/0", " A/0", "A/0\r", "."])
    def test_names_that_could_not_be_read_back_are_refused(self, tmp_path, name):
        with pytest.raises(ValueError, match=r"splits\.txt: "):
            write_video_pairs(tmp_path / "splits.txt", [(1, "A/0", "A/1", True), (1, "A/0", name, True)])
        assert list(tmp_path.iterdir()) == []


class TestReadWrongVideos:
    @pytest.mark.parametrize(
        "content",
        [
            "A/0\nB_C/12\n",
            "A/0\nB_C/12",
            "\ufeffA/0\r\nB_C/12\r\n",
            "\nA/0\n\n  \nB_C/12\n\n",
            " A/0 \t\n\tB_C/12\n",
            "A/0\nB_C/12\nA/0\n",
            "A//0\nB_C/12/\n",
        ],
    )
    def test_each_line_names_a_video(self, write, content):
        assert read_wrong_videos(write(content)) == ("A/0", "B_C/12")

    @pytest.mark.parametrize("content", ["", "\n\n"])
    def test_a_list_may_be_empty(self, write, content):
        assert read_wrong_videos(write(content)) == ()

    @pytest.mark.parametrize("name", ["/A/0", "A/..", "A/0, B/1", "."])
    def test_a_line_that_is_not_a_video_is_an_error(self, write, name):
        with pytest.raises(ValueError, match=r"splits\.txt: line 3: ") as error:
            read_wrong_videos(write(f"A/0\n\n{name}\n"))
        assert repr(name) in str(error.value)

    def test_a_missing_file_is_an_error(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"none\.txt"):
            read_wrong_videos(tmp_path / "none.txt")
