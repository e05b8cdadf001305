"""Tests `common.files`: atomic files and folders, locks, checksums and sizes."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from common import files
from common.files import (
    FileLock,
    atomic_file,
    atomic_files,
    atomic_folder,
    check_writable,
    cut_name,
    folder_lock,
    new_folder,
    one_line,
    printable,
    process_name,
    readable_size,
    remove_folder,
    remove_leftovers,
    replace_folder,
    write_json,
)
from tests.full_disk import no_file_larger_than

NOT_RUNNING = 1 << 30  # more than the largest process id of Linux
ME = process_name()


def fails_in(context):
    with pytest.raises(RuntimeError), context:
        raise RuntimeError


def test_a_file_gets_its_name_once_it_is_complete(tmp_path):
    path = tmp_path / "new" / "file"
    with atomic_file(path) as file:
        file.write(b"one")
        assert [other.name for other in path.parent.iterdir()] == [f"file.{ME}.tmp"]
    assert path.read_bytes() == b"one"
    fails_in(atomic_file(path))
    assert list(path.parent.iterdir()) == [path] and path.read_bytes() == b"one"


def test_json_is_indented(tmp_path):
    write_json(tmp_path / "a", {"ü": [1]})
    assert (tmp_path / "a").read_bytes() == b'{\n "\\u00fc": [\n  1\n ]\n}\n'


def test_a_folder_gets_its_name_once_it_is_complete(tmp_path):
    path = tmp_path / "new" / "folder"
    for content in ("one", "two"):
        with atomic_folder(path) as folder:
            (folder / "inner").mkdir()
            (folder / "inner" / "file").write_text(content)
            assert path.exists() == (content == "two")
    fails_in(atomic_folder(path))
    assert list(path.parent.iterdir()) == [path] and (path / "inner" / "file").read_text() == "two"


def test_files_that_belong_together_get_their_names_once_all_are_complete(tmp_path):
    path = tmp_path / "net.xml"
    for content in ("first", "second"):
        with atomic_files(path) as new:
            new.write_text(content)
            new.with_suffix(".bin").write_text(content)
            assert path.exists() == (content == "second")
        assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {
            "net.xml": content,
            "net.bin": content,
        }
    with pytest.raises(ValueError, match="stop"), atomic_files(path) as new:
        new.write_text("third")
        raise ValueError("stop")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["net.bin", "net.xml"]
    assert path.read_text() == "second"


def test_a_file_is_never_found_with_older_files_that_belong_to_it(tmp_path, monkeypatch):
    """The old .xml file is removed before the .bin file is replaced."""
    path, seen = tmp_path / "net.xml", []
    replace = Path.replace

    def watch(file, target):
        seen.append((Path(target).name, path.exists()))
        return replace(file, target)

    path.write_text("old")
    monkeypatch.setattr(Path, "replace", watch)
    with atomic_files(path) as new:
        for suffix in (".xml", ".bin"):
            new.with_suffix(suffix).write_text("new")
    assert seen == [("net.bin", False), ("net.xml", False)]


def test_a_folder_is_flushed_to_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    synced, sync = [], files.sync

    def record(path):
        synced.append((path.name, (tmp_path / "folder").exists()))
        sync(path)

    monkeypatch.setattr(files, "sync", record)
    with atomic_folder(tmp_path / "folder") as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "file").touch()
    before = [name for name, is_renamed in synced if not is_renamed]
    assert sorted(before) == [folder.name, "file", "inner"]
    assert synced[3:] == [(tmp_path.name, True)]


def test_only_leftovers_of_processes_that_ended_are_removed(tmp_path):
    host = ME.rpartition("-")[0]
    kept = [
        f".folder.{ME}.tmp",
        f".folder.{host}-{os.getppid()}.old",
        f".folder.{os.getppid()}.old",  # as an earlier version named it
        f".folder.elsewhere-{NOT_RUNNING}.tmp",
        ".folder.old",
        ".folder.1.2.tmp",
        f".other.{host}-{NOT_RUNNING}.tmp",
        f".folder.{host}-{NOT_RUNNING}.new",
    ]
    old = f".folder.elsewhere-{NOT_RUNNING}.old"
    gone = [f".folder.{host}-{NOT_RUNNING}.tmp", f".folder.{host}-{NOT_RUNNING}.old"]
    gone += [f".folder.{NOT_RUNNING}.tmp", old]
    for name in (*kept, *gone):
        (tmp_path / name).mkdir()
    os.utime(tmp_path / old, (0, 0))
    remove_leftovers(tmp_path / "folder")
    assert {path.name for path in tmp_path.iterdir()} == set(kept)


def test_leftovers_of_a_killed_process_with_the_same_id_are_replaced(tmp_path):
    """In containers, programs often have the same process id."""
    for kind in ("old", "tmp"):
        (tmp_path / f".folder.{ME}.{kind}" / "inner").mkdir(parents=True)
    for content in ("one", "two"):
        with atomic_folder(tmp_path / "folder") as folder:
            (folder / "file").write_text(content)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


class TestLinks:
    """If an output is a link, the link stays, and its target is written, even on another disk."""

    @pytest.fixture(params=["exists", "dangles"])
    def link(self, request, tmp_path):
        (tmp_path / "disk").mkdir()
        if request.param == "exists":
            (tmp_path / "disk" / "target").mkdir()
            (tmp_path / "disk" / "target" / "file").write_text("zero")
        (tmp_path / "link").symlink_to("disk/target")
        return tmp_path / "link"

    def test_a_linked_folder_is_written(self, link, tmp_path):
        for content in ("one", "two"):
            with atomic_folder(link) as folder:
                assert folder.parent == tmp_path / "disk"
                (folder / "file").write_text(content)
        assert link.is_symlink() and (tmp_path / "disk" / "target" / "file").read_text() == "two"
        assert sorted(path.name for path in tmp_path.rglob("*")) == ["disk", "file", "link", "target"]

    def test_a_linked_folder_is_replaced(self, link, tmp_path):
        (tmp_path / "disk" / "new").mkdir()
        leftover = tmp_path / "disk" / f".target.{NOT_RUNNING}.tmp"
        leftover.mkdir()
        replace_folder(tmp_path / "disk" / "new", link)
        remove_leftovers(link)
        assert link.is_symlink() and not list((tmp_path / "disk" / "target").iterdir())
        assert not leftover.exists()

    def test_a_link_is_removed_with_its_folder(self, link, tmp_path):
        remove_folder(link)
        assert [path.name for path in tmp_path.iterdir()] == ["disk"]

    def test_a_linked_file_is_written(self, tmp_path):
        (tmp_path / "disk").mkdir()
        (tmp_path / "link").symlink_to("disk/target")
        for values in (1, 2):
            write_json(tmp_path / "link", values)
        assert (tmp_path / "link").is_symlink() and (tmp_path / "disk" / "target").read_text() == "2\n"
        assert len(list((tmp_path / "disk").iterdir())) == 1


class TestLongNames:
    @pytest.mark.parametrize("name", ["a" * 255, "語" * 85])
    def test_the_longest_possible_name_works(self, tmp_path, name):
        write_json(tmp_path / name, 1)
        assert (tmp_path / name).read_text() == "1\n"
        (tmp_path / name).unlink()
        for _ in range(2):
            with atomic_folder(tmp_path / name):
                pass
        remove_folder(tmp_path / name)
        assert not list(tmp_path.iterdir())

    def test_long_names_with_the_same_start_get_different_temporary_names(self, tmp_path):
        with atomic_folder(tmp_path / ("a" * 250)) as first, atomic_folder(tmp_path / ("a" * 251)) as second:
            assert first != second

    def test_names_are_cut_to_a_number_of_bytes(self):
        assert cut_name("a語語", 7) == "a語語"
        assert cut_name("a語語", 6) == cut_name("a語語", 4) == "a語"
        assert cut_name("a\udcff", 2) == "a\udcff"  # A short name stays, even if it is not UTF-8.


def test_a_folder_that_will_be_replaced_can_be_locked(tmp_path):
    with folder_lock(tmp_path / "new" / "run", replaced=True):
        for _ in range(2):
            with atomic_folder(tmp_path / "new" / "run"):
                pass
            second = folder_lock(tmp_path / "new" / "run", replaced=True)
            with (
                pytest.raises(BlockingIOError, match=f"{tmp_path}/new/run: process {os.getpid()} on"),
                second,
            ):
                pass
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["run"]


def test_printable_replaces_surrogates():
    assert printable("a\udcff語😀\ud800") == "a\ufffd語😀\ufffd"


def test_a_lock_is_shared_or_exclusive(tmp_path):
    path = tmp_path / "lock"
    with FileLock(path) as first, FileLock(path) as second:
        first.acquire(shared=True)
        second.acquire(shared=True)
        with pytest.raises(BlockingIOError, match=str(path)):
            first.acquire()
        waiting = threading.Thread(target=first.acquire, kwargs={"wait": True})
        waiting.start()
        assert waiting.is_alive()
        second.close()
        waiting.join(10)
        assert not waiting.is_alive()
    with FileLock(path) as third:
        third.acquire()


@pytest.fixture
def other_process(tmp_path):
    """A process that holds `tmp_path / "run"`."""
    code = (
        "import sys, pathlib, common.files as files\n"
        "with files.folder_lock(pathlib.Path(sys.argv[1])):\n    print(flush=True), sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    with subprocess.Popen(
        command, cwd=Path(__file__).parents[2], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        process.stdout.readline()  # Now it has the lock.
        yield process
        process.kill()


def test_a_folder_belongs_to_one_process(tmp_path, other_process):
    folder = tmp_path / "run"
    holder = json.loads((folder / ".lock").read_text())
    assert holder["process"] == other_process.pid and "folder_lock" in holder["command"]
    expected = f"{folder}: process {holder['process']} on {holder['host']}, started {holder['started']},"
    with pytest.raises(BlockingIOError, match=expected), folder_lock(folder):
        pass
    assert json.loads((folder / ".lock").read_text()) == holder
    # The lock file of a killed process does not lock the folder.
    other_process.kill()
    other_process.wait()
    assert (folder / ".lock").exists()
    with folder_lock(folder):
        assert json.loads((folder / ".lock").read_text())["process"] == os.getpid()
    assert list(folder.iterdir()) == []


def test_the_end_of_a_process_frees_its_folder(tmp_path, other_process):
    other_process.communicate(b"")
    with folder_lock(tmp_path / "run" / "inner"):
        assert (tmp_path / "run" / "inner" / ".lock").exists()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_on_a_removed_file_is_acquired_again(tmp_path, monkeypatch):
    acquire, calls = FileLock.acquire, []

    def removed_before(lock):
        if not calls:
            lock.path.unlink()
        calls.append(lock)
        acquire(lock)

    monkeypatch.setattr(FileLock, "acquire", removed_before)
    with folder_lock(tmp_path):
        assert len(calls) == 2 and calls[1].is_current()
        with pytest.raises(BlockingIOError), folder_lock(tmp_path):
            pass


@pytest.mark.parametrize("problem", ["full disk", "a file"])
def test_a_folder_that_is_not_writable_is_an_error(tmp_path, problem):
    (tmp_path / "file").touch()
    folder = tmp_path / ("new/run" if problem == "full disk" else "file/run")
    limit = no_file_larger_than(0 if problem == "full disk" else 10_000)
    with limit, pytest.raises(OSError, match=f"{folder}: cannot write"), folder_lock(folder):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_check_writable_writes_a_file(tmp_path):
    check_writable(tmp_path)
    with no_file_larger_than(0), pytest.raises(OSError, match=f"{tmp_path}: cannot write"):
        check_writable(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_message_of_tensorflow_becomes_one_line():
    message = "{{function_node __Save_a/job:b}} /a b/.c.tmp; No space left on device [Op:SaveV2]\n\tFailed"
    assert one_line(message) == "No space left on device"
    assert one_line("/a; b: No space") == "/a; b: No space"


def test_new_folders_that_stay_empty_are_removed(tmp_path):
    (tmp_path / "old").mkdir()
    with new_folder(tmp_path / "old" / "a" / "b"), new_folder(tmp_path / "old" / "c"):
        assert (tmp_path / "old" / "a" / "b").is_dir()
        (tmp_path / "old" / "c" / "file").touch()
    with new_folder(tmp_path / "old"):
        pass
    assert [path.name for path in (tmp_path / "old").iterdir()] == ["c"]


@pytest.mark.parametrize(
    ("num_bytes", "expected"),
    [
        (1, "1 bytes"),
        (999, "999 bytes"),
        (1500, "1.5 kB"),
        (999_600, "1 MB"),
        (34e6, "34 MB"),
        (2e15, "2e+03 TB"),
    ],
)
def test_sizes_are_shown_with_units(num_bytes, expected):
    assert readable_size(num_bytes) == expected
