"""Tests logs and exit codes of the training programs."""

import logging
from pathlib import Path

import pytest

from training.options import parse_centre_options
from training.program import run_program

LINE = "a line of the log that is not short"


@pytest.fixture
def logger():
    logger = logging.getLogger("training")
    level = logger.level
    yield logger
    logger.setLevel(level)


def test_a_full_disk_does_not_lose_the_log_on_the_console(tmp_path, logger, capfd):
    """The console has every line once, one line about the full disk, and the final error last."""

    def work(options):
        logger.info("before")
        (options.output.summary_path / "events").touch()
        (handler,) = [one for one in logging.getLogger().handlers if "_LogFile" in str(one)]
        handler.stream = Path("/dev/full").open("w")  # noqa: SIM115 (the handler closes it)
        for _ in range(100):
            logger.info(LINE)
        raise OSError("the checkpoint is not written")

    options = parse_centre_options([f"--output={tmp_path}"])
    assert run_program("train_centre", work, options) == 1
    lines = capfd.readouterr().err.splitlines()
    (log,) = (tmp_path / "logs").iterdir()
    problem = f"{log}: cannot write the log file: No space left on device"
    assert sorted(lines) == sorted(["before", *[LINE] * 100, problem, lines[-1]])
    assert lines[-1] == "train_centre: the checkpoint is not written"
    assert log.read_text().splitlines()[0].endswith(" INFO before")


def test_a_log_folder_that_cannot_be_written_is_an_error(tmp_path, caplog):
    options = parse_centre_options([f"--output={tmp_path / 'new'}", "--log_file_path=/proc"])
    assert run_program("train_centre", lambda options: 0, options) == 1
    assert caplog.messages[0].startswith("train_centre: --log_file_path /proc: cannot write to this folder")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("has_trained", [False, True])
def test_the_log_of_a_run_that_wrote_files_is_kept(tmp_path, has_trained):
    def work(options):
        if has_trained:
            (options.output.summary_path / "events").touch()
        raise ValueError

    assert run_program("train_centre", work, parse_centre_options([f"--output={tmp_path / 'new'}"])) == 1
    if has_trained:
        assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["logs", "summary"]
    else:
        assert list(tmp_path.iterdir()) == []
