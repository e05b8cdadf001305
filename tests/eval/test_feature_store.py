import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import google_crc32c
import numpy as np
import pytest

from common.files import process_name
from eval.embedding import feature_store
from eval.embedding.feature_store import FeatureStore

INPUTS = {"model": "ab12", "data": "cd34", "image_size": (112, 96), "crop": None, "flip": False}
NUM_ROWS, DIM = 50, 8
ROWS = np.random.default_rng(0).normal(size=(NUM_ROWS, DIM)).astype(np.float32)


def fill(store, step=7, stop=NUM_ROWS):
    for start in range(store.num_done, stop, step):
        store.append(ROWS[start : min(start + step, stop)])


@pytest.fixture(params=["at every append", "at the end"])
def flushes(request, monkeypatch):
    monkeypatch.setattr(feature_store, "_FLUSH_SECONDS", 0 if request.param == "at every append" else 1e9)


@pytest.fixture
def half(tmp_path, monkeypatch):
    """The folder of a store as a kill may leave it: 28 rows in the file, 21 of them committed."""
    monkeypatch.setattr(feature_store, "_FLUSH_SECONDS", 1e9)
    with FeatureStore(tmp_path, INPUTS, NUM_ROWS) as store:
        fill(store, stop=21)
    with (store.folder / "features.f32").open("ab") as file:
        file.write(bytes(7 * DIM * 4))
    return store.folder


class TestRoundTrip:
    @pytest.mark.parametrize("step", [1, 7, NUM_ROWS])
    def test_features_equal_the_appended_rows(self, tmp_path, step, flushes):
        with FeatureStore(tmp_path / "made" / "root", INPUTS, NUM_ROWS) as store:
            assert (store.num_done, store.is_complete) == (0, False)
            fill(store, step)
            assert (store.num_done, store.is_complete) == (NUM_ROWS, True)
            np.testing.assert_array_equal(store.features, ROWS)
        with FeatureStore(tmp_path / "made" / "root", INPUTS, NUM_ROWS) as store:
            assert (store.num_done, store.is_complete) == (NUM_ROWS, True)
            np.testing.assert_array_equal(store.features, ROWS)

    def test_files_contain_features_and_inputs(self, tmp_path):
        with FeatureStore(tmp_path, INPUTS, NUM_ROWS) as store:
            fill(store)
        content = (store.folder / "features.f32").read_bytes()
        assert content == ROWS.astype("<f4").tobytes()
        assert json.loads((store.folder / "progress.json").read_text()) == {
            "num_done": NUM_ROWS,
            "dim": DIM,
            "crc32c": google_crc32c.value(content),
        }
        assert json.loads((store.folder / "store.json").read_text()) == {
            "version": 1,
            "num_rows": NUM_ROWS,
            "inputs": {**INPUTS, "image_size": [112, 96]},
        }
        assert {file.name for file in store.folder.iterdir()} == {
            *("features.f32", "progress.json", "store.json", "lock")
        }

    def test_features_are_mapped_and_read_only(self, tmp_path):
        with FeatureStore(tmp_path, INPUTS, NUM_ROWS) as store:
            fill(store)
            features = store.features
        assert isinstance(features, np.memmap)
        assert (features.dtype, features.shape) == (np.float32, (NUM_ROWS, DIM))
        with pytest.raises(ValueError, match="read-only"):
            features[0] = 0

    def test_a_reopened_store_continues(self, tmp_path, flushes):
        for stop in (20, 21, 21, NUM_ROWS):
            with FeatureStore(tmp_path, INPUTS, NUM_ROWS) as store:
                fill(store, stop=stop)
                assert store.num_done == stop
        np.testing.assert_array_equal(store.features, ROWS)

    def test_arrays_with_other_strides_can_be_appended(self, tmp_path):
        with FeatureStore(tmp_path, INPUTS, NUM_ROWS) as store:
            store.append(np.asfortranarray(ROWS[:30]))
            store.append(np.repeat(ROWS[30:], 2, axis=0)[::2])
            np.testing.assert_array_equal(store.features, ROWS)


class TestKey:
    def test_every_input_has_its_own_folder(self, tmp_path):
        others = ({"model": "other"}, {"image_size": (112, 112)}, {"crop": 4}, {"flip": True}, {"more": 1})
        folders = set()
        for changed in ({}, *others):
            with FeatureStore(tmp_path, INPUTS | changed, NUM_ROWS) as store:
                folders.add(store.folder)
                assert store.folder.parent == tmp_path
        assert len(folders) == 6

    def test_order_of_the_inputs_does_not_matter(self, tmp_path):
        with FeatureStore(tmp_path, INPUTS, NUM_ROWS) as store:
            fill(store)
        with FeatureStore(tmp_path, dict(reversed(INPUTS.items())), NUM_ROWS) as store:
            assert store.is_complete

    def test_other_inputs_in_the_same_folder_are_refused(self, tmp_path):
        with FeatureStore(tmp_path, INPUTS, NUM_ROWS) as store:
            fill(store)
        path = store.folder / "store.json"
        path.write_text(path.read_text().replace("cd34", "ef56"))
        with pytest.raises(ValueError, match=r"store\.json: .*'ef56' instead of 'cd34'\. Delete"):
            FeatureStore(tmp_path, INPUTS, NUM_ROWS)
        path.write_text("{")
        with pytest.raises(ValueError, match=r"store\.json: "):
            FeatureStore(tmp_path, INPUTS, NUM_ROWS)

    def test_a_store_with_another_number_of_rows_is_refused(self, tmp_path):
        FeatureStore(tmp_path, INPUTS, NUM_ROWS).close()
        with pytest.raises(ValueError, match="num_rows is 50 instead of 51"):
            FeatureStore(tmp_path, INPUTS, NUM_ROWS + 1)

    @pytest.mark.parametrize(("inputs", "error"), [({"a": np.nan}, ValueError), ({"a": Path()}, TypeError)])
    def test_inputs_that_json_cannot_hold_are_refused(self, tmp_path, inputs, error):
        with pytest.raises(error):
            FeatureStore(tmp_path, inputs, NUM_ROWS)


class TestAppend:
    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            (ROWS.astype(np.float64)[:3], r"float64 of shape \(3, 8\)"),
            (ROWS[0], r"shape \(8,\)"),
            (ROWS[:3, :7], r"\(n, 8\).*\(3, 7\)"),
            (ROWS[:40], r"n up to 36.*\(40, 8\)"),
        ],
    )
    def test_wrong_arrays_are_refused_and_not_stored(self, tmp_path, rows, message):
        with FeatureStore(tmp_path, INPUTS, NUM_ROWS) as store:
            fill(store, stop=14)
            with pytest.raises(ValueError, match=message):
                store.append(rows)
            fill(store)
            np.testing.assert_array_equal(store.features, ROWS)

    @pytest.mark.parametrize("shape", [(3, 0), (3,), (3, 4, 2), ()])
    def test_wrong_first_rows_are_refused(self, tmp_path, shape):
        with (
            FeatureStore(tmp_path, INPUTS, NUM_ROWS) as store,
            pytest.raises(ValueError, match=r"\(n, dim\)"),
        ):
            store.append(np.zeros(shape, np.float32))

    def test_rows_past_the_end_are_refused(self, tmp_path):
        for _ in range(2):  # The second round opens the full store.
            with FeatureStore(tmp_path, INPUTS, NUM_ROWS) as store:
                fill(store)
                with pytest.raises(ValueError, match="n up to 0"):
                    store.append(ROWS[:1])

    def test_features_of_an_incomplete_store_are_refused(self, tmp_path):
        with FeatureStore(tmp_path, INPUTS, NUM_ROWS) as store:
            fill(store, stop=21)
            with pytest.raises(ValueError, match=r"50 .* 21 "):
                _ = store.features

    def test_a_store_flushes_every_five_seconds(self, tmp_path, monkeypatch):
        now = [100.0]
        monkeypatch.setattr(time, "monotonic", lambda: now[0])

        def counted():
            progress = store.folder / "progress.json"
            return json.loads(progress.read_text())["num_done"] if progress.exists() else 0

        with FeatureStore(tmp_path, INPUTS, NUM_ROWS) as store:
            for seconds, expected in ((4.9, 0), (0.2, 14), (4.9, 14), (0.0, 14), (0.2, 35), (1.0, 35)):
                now[0] += seconds
                fill(store, stop=store.num_done + 7)
                assert counted() == expected
            store.flush()
            assert counted() == 42
            fill(store)
            assert counted() == NUM_ROWS

    def test_closing_flushes_even_after_an_error(self, tmp_path, monkeypatch):
        monkeypatch.setattr(feature_store, "_FLUSH_SECONDS", 1e9)
        with pytest.raises(KeyError), FeatureStore(tmp_path, INPUTS, NUM_ROWS) as store:
            fill(store, stop=21)
            raise KeyError
        with FeatureStore(tmp_path, INPUTS, NUM_ROWS) as store:
            assert store.num_done == 21

    def test_partial_writes_are_completed(self, tmp_path, monkeypatch, flushes):
        pwrite = os.pwrite
        monkeypatch.setattr(os, "pwrite", lambda file, content, offset: pwrite(file, content[:45], offset))
        with FeatureStore(tmp_path, INPUTS, NUM_ROWS) as store:
            fill(store)
            np.testing.assert_array_equal(store.features, ROWS)

    def test_a_closed_store_takes_no_rows(self, tmp_path):
        with FeatureStore(tmp_path, INPUTS, NUM_ROWS) as store:
            fill(store, stop=21)
        with pytest.raises(ValueError, match="closed file"):
            store.append(ROWS[21:22])
        store.close()


class TestDiskFull:
    def test_rows_can_be_appended_again_after_a_partial_write(self, tmp_path, monkeypatch, flushes):
        pwrite, room = os.pwrite, [14 * DIM * 4 + 50]

        def full(descriptor, content, offset):
            if not room[0]:
                raise OSError(errno.ENOSPC, "No space left on device")
            written = pwrite(descriptor, content[: room[0]], offset)
            room[0] -= written
            return written

        monkeypatch.setattr(os, "pwrite", full)
        with FeatureStore(tmp_path, INPUTS, NUM_ROWS) as store:
            with pytest.raises(OSError, match="No space left"):
                fill(store)
            assert store.num_done == 14
        with FeatureStore(tmp_path, INPUTS, NUM_ROWS) as store:
            assert store.num_done == 14
            room[0] = 30
            with pytest.raises(OSError, match="No space left"):
                fill(store)
            room[0] = 1 << 20
            fill(store)
            np.testing.assert_array_equal(store.features, ROWS)

    def test_a_failed_flush_keeps_the_last_progress(self, tmp_path, monkeypatch):
        def full(source, target):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(feature_store, "_FLUSH_SECONDS", 1e9)
        with FeatureStore(tmp_path, INPUTS, NUM_ROWS) as store:
            fill(store, stop=14)
            store.flush()
            fill(store, stop=21)
            with monkeypatch.context() as patch:
                patch.setattr(Path, "replace", full)
                with pytest.raises(OSError, match="No space left"):
                    store.flush()
            assert json.loads((store.folder / "progress.json").read_text())["num_done"] == 14
            store.flush()
            assert json.loads((store.folder / "progress.json").read_text())["num_done"] == 21


class TestKilled:
    """Every state that a kill between two steps of a flush can leave."""

    def reopened(self, folder, num_done):
        with FeatureStore(folder.parent, INPUTS, NUM_ROWS) as store:
            assert store.num_done == num_done
            assert (folder / "features.f32").stat().st_size == num_done * DIM * 4
            fill(store)
            np.testing.assert_array_equal(store.features, ROWS)

    @pytest.mark.parametrize("extra", [0, 1, 4, DIM * 4, DIM * 4 + 3, 7 * DIM * 4])
    def test_uncommitted_rows_are_overwritten(self, half, extra):
        os.truncate(half / "features.f32", 21 * DIM * 4 + extra)
        self.reopened(half, 21)

    @pytest.mark.parametrize("content", [b"", b'{"num_done": 28, "di'])
    def test_a_kill_before_the_progress_is_renamed_loses_the_last_rows(self, half, content):
        (half / "progress.json.123.tmp").write_bytes(content)
        self.reopened(half, 21)
        assert not list(half.glob("*.tmp"))

    @pytest.mark.parametrize("written", [0, 1, DIM * 4 + 3, 7 * DIM * 4])
    def test_a_kill_before_the_first_progress_loses_all_rows(self, half, written):
        (half / "progress.json").unlink()
        os.truncate(half / "features.f32", written)
        self.reopened(half, 0)

    def test_an_older_progress_is_trusted(self, half):
        older = (half / "progress.json").read_bytes()
        with FeatureStore(half.parent, INPUTS, NUM_ROWS) as store:
            fill(store, stop=42)
        (half / "progress.json").write_bytes(older)
        self.reopened(half, 21)

    @pytest.mark.parametrize("names", [["store.json"], ["store.json", "progress.json", "features.f32"]])
    def test_a_store_with_missing_files_can_be_reopened(self, half, names):
        for name in names:
            (half / name).unlink()
        self.reopened(half, 21 if names == ["store.json"] else 0)

    def test_rows_are_on_disk_before_they_are_committed(self, tmp_path, monkeypatch):
        steps, fsync, replace = [], os.fsync, Path.replace
        temporary = f"progress.json.{process_name()}.tmp"

        def traced_fsync(descriptor):
            steps.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
            fsync(descriptor)

        def traced_replace(source, target):
            steps.append(f"{source.name} -> {target.name}")
            return replace(source, target)

        with FeatureStore(tmp_path, INPUTS, NUM_ROWS) as store:
            fill(store, stop=21)
            monkeypatch.setattr(os, "fsync", traced_fsync)
            monkeypatch.setattr(Path, "replace", traced_replace)
            store.flush()
            assert steps == [
                "features.f32",
                temporary,
                f"{temporary} -> progress.json",
                store.folder.name,
            ]
            store.flush()
            assert len(steps) == 4


class TestDamaged:
    def started_over(self, folder, caplog):
        with FeatureStore(folder.parent, INPUTS, NUM_ROWS) as store:
            assert "damaged" in caplog.text
            assert store.num_done == 0
            fill(store)
            np.testing.assert_array_equal(store.features, ROWS)

    @pytest.mark.parametrize("position", [0, 333, 21 * DIM * 4 - 1])
    def test_a_changed_byte_starts_the_store_over(self, half, position, caplog, monkeypatch):
        monkeypatch.setattr(feature_store, "_BLOCK", 100)
        content = bytearray((half / "features.f32").read_bytes())
        content[position] ^= 1
        (half / "features.f32").write_bytes(content)
        self.started_over(half, caplog)

    @pytest.mark.parametrize("size", [0, 21 * DIM * 4 - 1, None])
    def test_missing_rows_start_the_store_over(self, half, size, caplog):
        if size is None:
            (half / "features.f32").unlink()
        else:
            os.truncate(half / "features.f32", size)
        self.started_over(half, caplog)

    @pytest.mark.parametrize(
        "content",
        [
            *(b"", b"{", b"[]", b"{}", b'{"num_done": 21, "dim": 8, "crc32c": 1}', b"\xff"),
            *(b'{"num_done": 51, "dim": 8, "crc32c": 1}', b'{"num_done": -1, "dim": 8, "crc32c": 0}'),
            *(b'{"num_done": 21.5, "dim": 8, "crc32c": 1}', b'{"num_done": 21, "dim": null, "crc32c": 1}'),
            b'{"num_done": 21, "dim": 0, "crc32c": 0}',
        ],
    )
    def test_unreadable_progress_starts_the_store_over(self, half, content, caplog):
        (half / "progress.json").write_bytes(content)
        self.started_over(half, caplog)

    def test_too_many_committed_rows_start_the_store_over(self, half, caplog):
        content = bytes((NUM_ROWS + 1) * DIM * 4)
        (half / "features.f32").write_bytes(content)
        values = {"num_done": NUM_ROWS + 1, "dim": DIM, "crc32c": google_crc32c.value(content)}
        (half / "progress.json").write_text(json.dumps(values))
        self.started_over(half, caplog)

    @pytest.mark.parametrize("changes", [{"dim": 10**30}, {"crc32c": 10**30}, {"dim": 2**62}, {"dim": 10**9}])
    def test_impossible_numbers_start_the_store_over(self, half, changes, caplog):
        path = half / "progress.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        self.started_over(half, caplog)

    def test_a_mapped_array_keeps_the_old_rows(self, tmp_path):
        with FeatureStore(tmp_path, INPUTS, NUM_ROWS) as store:
            fill(store)
            features = store.features
        (store.folder / "progress.json").write_text("{")
        with FeatureStore(tmp_path, INPUTS, NUM_ROWS) as store:
            store.append(-ROWS)
            np.testing.assert_array_equal(store.features, -ROWS)
        np.testing.assert_array_equal(features, ROWS)


class TestTwoProcesses:
    def test_only_one_process_fills_a_store(self, tmp_path):
        with FeatureStore(tmp_path, INPUTS, NUM_ROWS) as store:
            fill(store, stop=21)
            with pytest.raises(BlockingIOError, match=f"{store.folder}/lock"):
                FeatureStore(tmp_path, INPUTS, NUM_ROWS)
            with FeatureStore(tmp_path, INPUTS | {"flip": True}, NUM_ROWS):
                pass
            fill(store)
        with FeatureStore(tmp_path, INPUTS, NUM_ROWS) as store:
            np.testing.assert_array_equal(store.features, ROWS)

    def test_many_processes_read_a_complete_store(self, tmp_path):
        with FeatureStore(tmp_path, INPUTS, NUM_ROWS) as store:
            fill(store)
            with (
                FeatureStore(tmp_path, INPUTS, NUM_ROWS) as second,
                FeatureStore(tmp_path, INPUTS, NUM_ROWS) as third,
            ):
                assert second.is_complete
                assert third.is_complete

    def test_a_damaged_store_is_not_started_over_while_others_read(self, tmp_path, caplog):
        with FeatureStore(tmp_path, INPUTS, NUM_ROWS) as store:
            fill(store)
            content = (store.folder / "features.f32").read_bytes()
            (store.folder / "features.f32").write_bytes(bytes(4) + content[4:])
            with pytest.raises(BlockingIOError, match=f"{store.folder}/lock"):
                FeatureStore(tmp_path, INPUTS, NUM_ROWS)
            assert (store.folder / "features.f32").stat().st_size == len(content)
        TestDamaged().started_over(store.folder, caplog)

    def test_a_store_completed_by_another_process_before_the_lock_is_used(self, half, monkeypatch):
        """A store reads its progress. Another one completes it before the first one gets the lock."""
        flock, opened = fcntl.flock, []

        def late(file, kind):
            if not opened:
                opened.append(file)
                monkeypatch.setattr(fcntl, "flock", flock)
                with FeatureStore(half.parent, INPUTS, NUM_ROWS) as store:
                    fill(store)
            flock(file, kind)

        monkeypatch.setattr(fcntl, "flock", late)
        with FeatureStore(half.parent, INPUTS, NUM_ROWS) as store:
            np.testing.assert_array_equal(store.features, ROWS)
            FeatureStore(half.parent, INPUTS, NUM_ROWS).close()  # Others can still open it.


APPENDING = """
import sys
from pathlib import Path
import numpy as np
from eval.embedding import feature_store
rows = np.random.default_rng(0).normal(size=(8000, 64)).astype(np.float32)
feature_store._FLUSH_SECONDS = float(sys.argv[2])
with feature_store.FeatureStore(Path(sys.argv[1]), {}, len(rows)) as store:
    print(store.num_done, flush=True)
    for start in range(store.num_done, len(rows), 8):
        store.append(rows[start : start + 8])
        print(store.num_done, flush=True)
"""


def test_repeated_kills_lose_no_committed_row(tmp_path):
    """Kills at random moments lose no committed row and leave no wrong one."""
    root, rng, started_at = Path(__file__).parents[2], np.random.default_rng(0), []
    for flush_seconds in (0, 0.002, 0, 0.002, 0, 0.002, 5):
        process = subprocess.Popen(
            [sys.executable, "-c", APPENDING, str(tmp_path), str(flush_seconds)],
            cwd=root,
            stdout=subprocess.PIPE,
            text=True,
        )
        with process:
            started_at.append(int(process.stdout.readline()))
            for _ in range(rng.integers(20, 60)):
                process.stdout.readline()
            if flush_seconds < 1:
                process.kill()
            process.stdout.read()
        assert process.returncode == (-signal.SIGKILL if flush_seconds < 1 else 0)
    assert started_at == sorted(started_at)
    assert 0 < started_at[1] < started_at[-1] < 8000
    with FeatureStore(tmp_path, {}, 8000) as store:
        rows = np.random.default_rng(0).normal(size=(8000, 64)).astype(np.float32)
        np.testing.assert_array_equal(store.features, rows)
