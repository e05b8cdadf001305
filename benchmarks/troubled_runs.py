"""Tests training runs under bad conditions: kills, a full disk, and two runs in one folder."""

import itertools
import logging
import resource
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.killed_runs import MOMENTS, PROGRAMS, ROOT, finish, torture, training_command
from benchmarks.torture import differences

_STEPS = 60
_NUM_KILLS = 5
_MAX_FILE_BYTES = 1_000_000  # bytes; less than a checkpoint needs
_MAX_LINES = 200  # that a run may print


def trouble(seed):
    """Runs each test once.

    Args:
        seed: int, of the moments of the kills.

    Yields:
        `(name, problems)`: name of the test, and a list of str, which is empty if the run recovered.
    """
    from dataset.synthetic import FaceSetOptions, write_set

    logging.getLogger("dataset").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        sizes = {"identities": 12, "images": 8, "held_out": 4, "pairs": 40, "videos": 3, "frames": 1}
        write_set(FaceSetOptions(out=folder / "data", **sizes))
        config = folder / "data" / "config.ini"
        commands = {
            name: training_command(PROGRAMS[0], config, folder / name, _STEPS)
            for name in ("unbroken", "killed", "full_disk", "two_runs")
        }
        finish(commands["unbroken"], folder / "unbroken")
        yield f"{_NUM_KILLS} kills", _test_kills(commands["killed"], folder, seed)
        yield "full disk", _test_full_disk(commands["full_disk"], folder)
        yield "two runs in one folder", _test_two_runs(commands["two_runs"], folder)


def _test_kills(command, folder, seed):
    rng = np.random.default_rng(seed)
    moments = list(itertools.islice(itertools.cycle(rng.permutation(MOMENTS)), _NUM_KILLS))
    try:
        num_kills = len(list(torture(command, folder / "killed", moments, rng)))
    except RuntimeError as error:
        return [str(error)]
    return [
        *([] if num_kills else ["the run was never killed"]),
        *differences(folder / "unbroken", folder / "killed"),
    ]


def _test_full_disk(command, folder):
    """Limits the size of files, so that writing a checkpoint fails as on a full disk."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (_MAX_FILE_BYTES, _MAX_FILE_BYTES))

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, preexec_fn=limit)
    lines = (done.stdout + done.stderr).splitlines()
    problems = []
    if done.returncode != 1:
        problems.append(f"expected exit code 1, received {done.returncode}: {lines[-1:]}")
    if any(line.startswith("Traceback") for line in lines):
        problems.append("expected no traceback")
    if len(lines) > _MAX_LINES:
        problems.append(f"expected at most {_MAX_LINES} lines, received {len(lines)}")
    finish(command, folder / "full_disk")
    return problems + differences(folder / "unbroken", folder / "full_disk")


def _test_two_runs(command, folder):
    output, problems = folder / "two_runs", []
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as first:
        while first.poll() is None and not list(output.glob("ckpt/step_*")):
            time.sleep(0.1)
        second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if first.poll() is not None:
            problems.append("the first run ended before the second one was refused")
        if second.returncode != 1 or str(first.pid) not in second.stderr:
            problems.append(
                f"second run: expected a refusal that names process {first.pid}, received exit code "
                f"{second.returncode}: {second.stderr[-300:]}"
            )
    if first.returncode:
        problems.append(f"the first run ended with exit code {first.returncode}")
        return problems
    return problems + differences(folder / "unbroken", output)
