import fcntl
import os
import pty
import struct
import termios

import pytest

from common import progress
from common.progress import Progress


@pytest.mark.parametrize("columns", [100, 0])  # 0: the terminal does not report its width
def test_a_terminal_shows_a_bar(monkeypatch, columns):
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 0, columns, 0, 0))
    with os.fdopen(slave, "w") as terminal:
        monkeypatch.setattr("sys.stderr", terminal)
        with Progress(desc="embedding", unit="frames", total=40, initial=10) as bar:
            for _ in range(3):
                bar.update(10)
                bar.refresh()
        terminal.write("end")
        terminal.flush()
        shown = ""
        while not shown.endswith("end"):  # One call may return only a part.
            shown += os.read(master, 10_000).decode()
    os.close(master)
    assert "embedding:  50%|" in shown and "20/40 [" in shown and " frames/s]" in shown
    assert shown.endswith("\rend")  # The bar is gone.
    assert max(map(len, shown.split("\r"))) <= (columns or 80)


def test_without_a_terminal_progress_is_logged(caplog, monkeypatch):
    now = iter([0.0, 10.0, 31.0, 40.0, 62.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    caplog.set_level("INFO")
    with Progress(desc="embedding", unit="frames", total=1000, initial=100) as shown:
        for _ in range(4):
            shown.update(62)
    assert caplog.messages == [
        "embedding: 224 of 1000 frames, 4 frames/s, 03:14 left",
        "embedding: 348 of 1000 frames, 4 frames/s, 02:43 left",
    ]


def test_iterating_logs_progress(caplog, monkeypatch):
    monkeypatch.setattr(progress, "LOG_SECONDS", 0)
    caplog.set_level("INFO")
    assert list(Progress("abc", desc="listing", unit="videos")) == ["a", "b", "c"]
    assert [line[:23] for line in caplog.messages] == [f"listing: {n} of 3 videos, "[:23] for n in (1, 2, 3)]
    caplog.clear()
    assert list(Progress("abc", desc="listing", unit="videos", shown=False)) == ["a", "b", "c"]
    assert not caplog.messages
