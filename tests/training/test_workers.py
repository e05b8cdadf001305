"""Tests that two processes on one machine train as one device."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.small_runs import flags, make_data
from tests.training.test_meeting import free_addresses, write_checkpoint
from training.options import DeviceOptions, OutputOptions
from training.workers.cluster import own_folders, set_workers

ROOT = Path(__file__).parents[2]
TIMEOUT = 240  # Far more than needed. It shows that no worker waits forever.


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "")  # restored after a test that sets it
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")


def run_workers(folders, max_steps, *flags):
    """Returns the exit code and the output of each worker. `folders` has one folder for each."""
    workers = ",".join(free_addresses(len(folders)))
    started = []
    for index, folder in enumerate(folders):
        command = [sys.executable, "-m", "tests.training.worker_program", *flags]
        command += [
            f"--folder={folder}",
            f"--max_steps={max_steps}",
            f"--workers={workers}",
            f"--worker_index={index}",
            "--strategy=multiworker",
        ]
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
        [
            *(sys.executable, "-m", "tests.training.worker_program", *flags),
            *(f"--folder={folder}", f"--max_steps={max_steps}"),
        ],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    return json.loads(run.stdout.splitlines()[-1])


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.long
def test_two_workers_train_as_one_device_stop_together_and_resume(tmp_path):
    alone = run_alone(tmp_path / "one", 6, "--accumulate=2")
    # With `--sync_bn` statistics are those of a part over both workers, as on one device.
    flags = ("--sync_bn", "--accumulate=2")
    codes, first = run_workers([tmp_path / "two"] * 2, 6, *flags, "--stop_at=2")
    # The chief got no signal. It stops at the same step and saves.
    assert codes == [128 + signal.SIGTERM] * 2, first
    assert [output["step"] for output in first] == [3, 3]
    assert names(tmp_path / "two" / "ckpt") == ["step_00000002", "step_00000003"]
    codes, second = run_workers([tmp_path / "two"] * 2, 6, *flags)
    assert codes == [0, 0], second
    for start, rest in zip(first, second, strict=True):
        assert start["losses"] + rest["losses"] == pytest.approx(alone["losses"], rel=1e-5)
        assert rest["score"] == pytest.approx(alone["score"], rel=1e-4)
    # Only the chief writes files.
    assert names(tmp_path / "two" / "models") == names(tmp_path / "one" / "models")
    assert names(tmp_path / "two") == ["ckpt", "models", "summary"]
    assert len(names(tmp_path / "two" / "summary")) == 2  # one for each start


@pytest.mark.long
def test_workers_with_different_checkpoints_stop_before_they_train(tmp_path):
    make_data(tmp_path)
    addresses = ",".join(free_addresses(2))
    started = []
    for index, step in enumerate((40, 24)):
        write_checkpoint(tmp_path / f"ckpt{index}", step)
        given = {"ckpt_path": tmp_path / f"ckpt{index}", "workers": addresses, "worker_index": index}
        arguments = flags(tmp_path, backbone="ir32", **given)
        command = [sys.executable, "-m", "train_centre", *arguments, "--strategy=multiworker"]
        started.append(subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True))
    try:
        for process in started:
            errors = process.communicate(timeout=TIMEOUT)[1]
            assert process.returncode == 1
            assert "worker 0: step 40, SHA-256 " in errors and "worker 1: step 24, SHA-256 " in errors
    finally:
        for process in started:
            process.kill()
    assert names(tmp_path / "ckpt0") == ["step_00000040"]


def device_options(workers=None, worker_index=None, strategy="multiworker"):
    return DeviceOptions(strategy=strategy, workers=workers, worker_index=worker_index)


def test_flags_or_the_environment_name_the_workers():
    assert set_workers(device_options("a:1,b:2", 1)) == 1
    expected = {"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": 1}}
    assert json.loads(os.environ["TF_CONFIG"]) == expected
    assert set_workers(device_options()) == 1


@pytest.mark.parametrize(
    ("workers", "index", "strategy", "flag"),
    [
        (None, 1, "multiworker", "--worker_index needs --workers"),
        ("a:1,b", 0, "multiworker", "--workers is a:1,b."),
        ("a:1,a:1", 0, "multiworker", "--workers is a:1,a:1."),
        ("a:1,b:1", None, "multiworker", "--worker_index is None. Give a number in [0, 2)."),
        ("a:1,b:1", 2, "multiworker", "--worker_index is 2."),
        ("a:1,b:1", 0, "auto", "--workers and --worker_index need --strategy multiworker, not auto."),
    ],
)
def test_wrong_flags_are_named(workers, index, strategy, flag):
    (problem,) = device_options(workers, index, strategy).problems()
    assert problem.startswith(flag)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "no workers. Give --workers and --worker_index, or set TF_CONFIG"),
        ("{", "TF_CONFIG: expected cluster.worker and task.index, received {"),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"index": 1}}', "one of them as task.index"),
        ('{"cluster": {"worker": ["a:1"], "ps": []}, "task": {"index": 0}}', "workers only"),
    ],
)
def test_a_wrong_environment_is_an_error(monkeypatch, config, message):
    if config:
        monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(ValueError, match=message):
        set_workers(device_options())


def test_only_the_chief_writes_where_the_flags_say():
    output = OutputOptions(summary_path=Path("s"))
    for device in (DeviceOptions(), device_options("a:1,b:1", 0)):
        with own_folders(device, output) as own:
            assert own == output
    with own_folders(device_options("a:1,b:1", 1), output) as own:
        folder = own.worker_folder
        assert folder.is_dir()
        assert {own.summary_path.parent, own.saved_model_path.parent, own.log_file_path.parent} == {folder}
        assert own.ckpt_path == output.ckpt_path
    assert not folder.exists()
