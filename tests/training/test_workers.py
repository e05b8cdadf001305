"""Two processes on loopback train as one."""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from training.options import add_device_flags
from training.workers import own_folders, set_workers

ROOT = Path(__file__).parents[2]
TIMEOUT = 240  # far more than it takes: what this says is that nobody waits for ever


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "")  # put back after a test that sets it
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")


def free_addresses(count):
    sockets = [socket.socket() for _ in range(count)]
    for opened in sockets:
        opened.bind(("127.0.0.1", 0))
    addresses = ",".join(f"127.0.0.1:{opened.getsockname()[1]}" for opened in sockets)
    for opened in sockets:
        opened.close()
    return addresses


def run_workers(folders, max_steps, *flags):
    """Exit codes and what each worker prints; `folders` has one for each worker."""
    workers = free_addresses(len(folders))
    started = []
    for index, folder in enumerate(folders):
        command = [sys.executable, "-m", "tests.training.worker_program", str(folder), str(max_steps), *flags]
        command += [f"--workers={workers}", f"--worker_index={index}", "--strategy=multiworker"]
        started.append(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
    try:
        outputs = [process.communicate(timeout=TIMEOUT) for process in started]
    finally:
        for process in started:
            process.kill()
    codes = [process.returncode for process in started]
    if set(codes) - {0, 128 + signal.SIGTERM}:
        return codes, [stderr.decode() for _, stderr in outputs]
    return codes, [json.loads(stdout.splitlines()[-1]) for stdout, _ in outputs]


def run_alone(folder, max_steps, *flags):
    run = subprocess.run(
        [sys.executable, "-m", "tests.training.worker_program", folder, str(max_steps), *flags],
        cwd=ROOT, capture_output=True, check=True,
    )  # fmt: skip
    return json.loads(run.stdout.splitlines()[-1])


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.long
def test_two_workers_train_as_one_device_stop_together_and_go_on(tmp_path):
    alone = run_alone(tmp_path / "one", 6, "--accumulate=2")
    # Where the statistics are those of a part over both workers, the parts are those of one device.
    flags = ("--sync_bn", "--accumulate=2")
    codes, first = run_workers([tmp_path / "two"] * 2, 6, *flags, "--stop_at=2")
    # The chief got no signal: it stops at the same step, and saves.
    assert codes == [128 + signal.SIGTERM] * 2, first
    assert [output["step"] for output in first] == [3, 3]
    assert names(tmp_path / "two" / "ckpt") == ["step_00000002", "step_00000003"]
    codes, second = run_workers([tmp_path / "two"] * 2, 6, *flags)
    assert codes == [0, 0], second
    for start, rest in zip(first, second, strict=True):
        assert start["losses"] + rest["losses"] == pytest.approx(alone["losses"], rel=1e-5)
        assert rest["score"] == pytest.approx(alone["score"], rel=1e-4)
    # One file of each, the chief's.
    assert names(tmp_path / "two" / "models") == names(tmp_path / "one" / "models")
    assert names(tmp_path / "two") == ["ckpt", "models", "summary"]
    assert len(names(tmp_path / "two" / "summary")) == 2  # of the two runs


def parsed(*flags):
    parser = argparse.ArgumentParser()
    add_device_flags(parser)
    args = parser.parse_args(flags)
    args.summary_path, args.saved_model_path, args.log_file_path = (Path(name) for name in "sml")
    return args


def test_workers_of_the_flags_and_of_the_environment():
    assert set_workers("a:1,b:2", 1) == (1, 2)
    expected = {"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": 1}}
    assert json.loads(os.environ["TF_CONFIG"]) == expected
    assert set_workers(None, None) == (1, 2)


@pytest.mark.parametrize(
    ("workers", "index", "config", "message"),
    [
        (None, None, None, "--strategy multiworker: expected --workers and --worker_index, or TF_CONFIG"),
        (None, 1, "{}", "received --worker_index 1 and TF_CONFIG"),
        ("a:1,b", 0, None, r"--workers: expected host:port,host:port,..., each once, received a:1,b"),
        ("a:1,a:1", 0, None, "each once, received a:1,a:1"),
        ("a:1,b:1", None, None, r"--worker_index: expected a number in \[0, 2\), received None"),
        ("a:1,b:1", 2, None, r"--worker_index: expected a number in \[0, 2\), received 2"),
        (None, None, "{", "TF_CONFIG: expected cluster.worker and task.index, received {"),
        (None, None, '{"cluster": {"worker": ["a:1"]}, "task": {"index": 1}}', "task.index one of them"),
        (None, None, '{"cluster": {"worker": ["a:1"], "ps": []}, "task": {"index": 0}}', "workers alone"),
    ],
)
def test_workers_that_do_not_fit_together(monkeypatch, workers, index, config, message):
    if config:
        monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(ValueError, match=message):
        set_workers(workers, index)


def test_only_the_chief_writes_where_the_flags_say():
    workers = ("--strategy=multiworker", "--workers=a:1,b:1")
    for flags in ((), (*workers, "--worker_index=0")):
        args = parsed(*flags)
        with own_folders(args):
            assert (args.worker_folder, args.summary_path) == (None, Path("s"))
    args = parsed(*workers, "--worker_index=1")
    with own_folders(args):
        own = args.worker_folder
        assert own.is_dir()
        assert all(
            path.parent == own for path in (args.summary_path, args.saved_model_path, args.log_file_path)
        )
    assert not own.exists()
    with (
        pytest.raises(ValueError, match="expected --strategy multiworker, received auto"),
        own_folders(parsed("--workers=a:1")),
    ):
        pass
