"""Starts training runs, kills them at chosen moments, and checks the files that they leave."""

import dataclasses
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from nets.importers.training_checkpoint import checkpoint_folders, newest_checkpoint, read_checkpoint

ROOT = Path(__file__).parents[1]
PROGRAMS = ("train_centre", "train_triplet")
MOMENTS = ("any", "step", "saving", "model", "sigterm")
_MODEL_FILES = ("saved_model.pb", "net.json", "variables/variables.index")
_POLL_SECONDS = 0.001  # seconds
_MAX_START_SECONDS = 15.0  # seconds; "any" kills within this time
_MAX_WAIT_SECONDS = 300.0  # seconds to wait for a moment before killing anyway


@dataclasses.dataclass(frozen=True)
class Kill:
    """One kill of a run.

    Attributes:
        moment: the moment that was chosen, one of `MOMENTS`.
        hit: what the process was doing when it was killed.
        reached: last step that the run had logged.
        saved: step from which the next start resumes.
    """

    moment: str
    hit: str
    reached: int
    saved: int

    @property
    def redone(self):
        """Number of steps that are trained again."""
        return max(0, self.reached - self.saved)


def training_command(program, config, output, steps, **given):
    """Returns the command of a small run that uses everything that a real run uses.

    Args:
        program: one of `PROGRAMS`.
        config: Path of the config file.
        output: Path of the folder for everything that the run writes.
        steps: int > 0.
        **given: other flags of the program, without `--`.

    Returns:
        List of str.
    """
    flags = {
        "config": config,
        "net_depth": 32,
        "batch_size": 8,
        "max_steps": steps,
        "show_info_interval": 1,
        "summary_interval": 5,
        "save_interval": 4,
        "validate_interval": 40,
        "ckpt_interval": 80,
        "lfw_threshold": 0.0,  # exports a model after every improvement
        "saver_maxkeep": 3,
        "output": output,
        **given,
    }
    return [
        *(sys.executable, "-m", program, "--image_size", "16", "16"),
        *(["--from_scratch"] if program == "train_triplet" else []),
        *(f"--{name}={value}" for name, value in flags.items()),
    ]


def finish(command, output):
    """Runs a command until it ends.

    Args:
        command: from `training_command`.
        output: Path of its folder.

    Raises:
        RuntimeError: the run failed. The message shows the end of its output.
    """
    process, console = _start(command, output)
    if process.wait():
        raise RuntimeError(f"exit code {process.returncode}: {console.read_text()[-2000:]}")


def torture(command, output, moments, rng):
    """Kills a run at the given moments, restarts it each time, then lets it finish.

    Args:
        command: from `training_command`.
        output: Path of its folder.
        moments: list of str, each one of `MOMENTS`.
        rng: `np.random.Generator`, for the exact time of each kill.

    Yields:
        A `Kill` for each moment; fewer if the run finishes first.

    Raises:
        ValueError: a moment is unknown.
        RuntimeError: the run failed, a checkpoint or a model is incomplete, or the run did not save when it
            received SIGTERM.
    """
    for moment in moments:
        if moment not in MOMENTS:
            raise ValueError(f"moments: expected some of {MOMENTS}, received {moment!r}")
        # This kill may come before the leftovers of the previous one are removed.
        before = _find_leftovers(output)
        process, console = _start(command, output)
        try:
            _wait_for(moment, process, console, output, rng)
        finally:
            process.send_signal(signal.SIGTERM if moment == "sigterm" else signal.SIGKILL)
            code = process.wait()
        if code == 0:
            return
        if code not in (-signal.SIGKILL, 128 + signal.SIGTERM):
            raise RuntimeError(f"exit code {code}: {console.read_text()[-2000:]}")
        kill = _inspect(moment, console, output, before)
        if code == 128 + signal.SIGTERM and kill.redone:
            raise RuntimeError(
                f"SIGTERM at step {kill.reached}: expected this step to be saved, found step {kill.saved}"
            )
        yield kill
    finish(command, output)


def _start(command, output):
    output.mkdir(parents=True, exist_ok=True)
    console = output / "console.txt"
    with console.open("w") as file:
        return subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=file), console


def _wait_for(moment, process, console, output, rng):
    """Waits until it is time to kill the process, or until it has ended."""
    if moment == "any":
        return _sleep(process, rng.uniform(0, _MAX_START_SECONDS))
    if moment == "saving":
        # Kills shortly after the first or second save of this start has begun.
        return _wait_until(process, output / "ckpt", ".step_*.tmp", rng.integers(1, 3), rng.uniform(0, 0.1))
    if moment == "model":
        return _wait_until(process, output / "models", ".iter_*.tmp", 1, rng.uniform(0, 0.15))
    give_up = time.monotonic() + _MAX_WAIT_SECONDS
    while process.poll() is None and not _read_steps(console) and time.monotonic() < give_up:
        time.sleep(_POLL_SECONDS)
    return _sleep(process, rng.uniform(0, 3))


def _wait_until(process, folder, pattern, count, seconds):
    seen = set()
    give_up = time.monotonic() + _MAX_WAIT_SECONDS
    while process.poll() is None and len(seen) < count and time.monotonic() < give_up:
        seen.update(path.name for path in folder.glob(pattern))
        time.sleep(_POLL_SECONDS)
    _sleep(process, seconds)


def _sleep(process, seconds):
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end:
        time.sleep(_POLL_SECONDS)


def _read_steps(console):
    """Returns the steps of all progress lines."""
    return [int(step) for step in re.findall(r"^step (\d+)/.* images/s ", console.read_text(), re.MULTILINE)]


def _find_leftovers(output):
    """Returns `(name of the parent folder, inode)` of everything that is half written or half removed."""
    return {
        (path.parent.name, path.stat().st_ino)
        for pattern in ("ckpt/.step_*", "models/.iter_*")
        for path in output.glob(pattern)
    }


def _inspect(moment, console, output, before):
    """Checks every file that has its final name after a kill, and returns the `Kill`."""
    for folder in checkpoint_folders(output / "ckpt"):
        try:
            read_checkpoint(folder)
        except ValueError as error:
            raise RuntimeError(str(error)) from None
    for model in (output / "models").glob("iter_*"):
        for name in _MODEL_FILES:
            if not (model / name).is_file():
                raise RuntimeError(f"{model}: expected a complete model, but {name} is missing")
    newest = newest_checkpoint(output / "ckpt")
    saved, pending = (newest[1]["step"], newest[1]["owed"]) if newest else (0, [])
    left = {folder for folder, _ in _find_leftovers(output) - before}
    reached = max(_read_steps(console), default=0)
    if moment == "sigterm":
        hit = "SIGTERM: saved first"
    elif "ckpt" in left:
        hit = "saving"
    elif "models" in left:
        hit = "writing a model"
    elif not reached:
        hit = "starting, first step"
    elif pending and saved == reached:
        hit = "validation" if "validate" in pending else "making a model"
    else:
        hit = "step"
    return Kill(str(moment), hit, reached, saved)
