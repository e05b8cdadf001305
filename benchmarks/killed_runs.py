"""Runs of a trainer that are killed on purpose."""

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
_POLL = 0.001  # seconds
_LONGEST_START = 15.0  # seconds; moments of "any" lie in it
_LONGEST_WAIT = 300.0  # seconds that a planned moment may keep one waiting


@dataclasses.dataclass(frozen=True)
class Kill:
    """What one kill met.

    Attributes:
        moment: str, what was aimed at.
        hit: str, what the process was at.
        reached: int, the last step it had shown.
        saved: int, the step that the next start goes on from.
    """

    moment: str
    hit: str
    reached: int
    saved: int

    @property
    def redone(self):
        """Steps that are trained once more."""
        return max(0, self.reached - self.saved)


def training_command(program, config, output, steps, **given):
    """The command of a small run that has all that a real one has.

    Args:
        program: str, one of `PROGRAMS`.
        config: Path of the config.
        output: Path of the folder for all that the run writes.
        steps: int > 0.
        **given: other flags of the program.

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
        "lfw_threshold": 0.0,  # so that improvements are exported, too
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
    """Runs a command to its end.

    Args:
        command: of `training_command`.
        output: Path, its folder.

    Raises:
        RuntimeError: it failed; shows the end of what it printed.
    """
    process, console = _start(command, output)
    if process.wait():
        raise RuntimeError(f"exit code {process.returncode}: {console.read_text()[-2000:]}")


def torture(command, output, moments, rng):
    """Kills a run at the given moments, then lets it finish.

    Args:
        command: of `training_command`.
        output: Path, its folder.
        moments: list of str, each of `MOMENTS`.
        rng: `np.random.Generator`, for the exact time.

    Yields:
        A `Kill` for each moment, fewer if the run is through before.

    Raises:
        ValueError: an unknown moment.
        RuntimeError: the run failed of itself, a checkpoint or a model is not whole, or a SIGTERM did not
            save first.
    """
    for moment in moments:
        if moment not in MOMENTS:
            raise ValueError(f"moments: expected some of {MOMENTS}, received {moment!r}")
        before = _leftovers(output)  # of the kill before, if the next comes before they are removed
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
        kill = _look_at(moment, console, output, before)
        if code == 128 + signal.SIGTERM and kill.redone:
            raise RuntimeError(f"SIGTERM at step {kill.reached}: step {kill.saved} was saved")
        yield kill
    finish(command, output)


def _start(command, output):
    output.mkdir(parents=True, exist_ok=True)
    console = output / "console.txt"
    with console.open("w") as file:
        return subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=file), console


def _wait_for(moment, process, console, output, rng):
    """Returns when it is time to kill the process, or when it has ended."""
    if moment == "any":
        return _sleep(process, rng.uniform(0, _LONGEST_START))
    if moment == "saving":
        # The n-th of this start, a little after it began.
        return _wait_until(process, output / "ckpt", ".step_*.tmp", rng.integers(1, 3), rng.uniform(0, 0.1))
    if moment == "model":
        return _wait_until(process, output / "models", ".iter_*.tmp", 1, rng.uniform(0, 0.15))
    give_up = time.monotonic() + _LONGEST_WAIT
    while process.poll() is None and not _steps(console) and time.monotonic() < give_up:
        time.sleep(_POLL)
    return _sleep(process, rng.uniform(0, 3))


def _wait_until(process, folder, pattern, count, seconds):
    seen = set()
    give_up = time.monotonic() + _LONGEST_WAIT
    while process.poll() is None and len(seen) < count and time.monotonic() < give_up:
        seen.update(path.name for path in folder.glob(pattern))
        time.sleep(_POLL)
    _sleep(process, seconds)


def _sleep(process, seconds):
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end:
        time.sleep(_POLL)


def _steps(console):
    """The steps of the progress lines."""
    return [int(step) for step in re.findall(r"^step (\d+)/.* images/s ", console.read_text(), re.MULTILINE)]


def _leftovers(output):
    """`(folder, number)` of what is half written or half removed."""
    return {
        (path.parent.name, path.stat().st_ino)
        for pattern in ("ckpt/.step_*", "models/.iter_*")
        for path in output.glob(pattern)
    }


def _look_at(moment, console, output, before):
    """What a kill left: checks all that has a final name."""
    for folder in checkpoint_folders(output / "ckpt"):
        try:
            read_checkpoint(folder)
        except ValueError as error:
            raise RuntimeError(str(error)) from None
    for model in (output / "models").glob("iter_*"):
        for name in _MODEL_FILES:
            if not (model / name).is_file():
                raise RuntimeError(f"{model}: expected a whole model, received one without {name}")
    newest = newest_checkpoint(output / "ckpt")
    saved, owed = (newest[1]["step"], newest[1]["owed"]) if newest else (0, [])
    left = {folder for folder, _ in _leftovers(output) - before}
    reached = max(_steps(console), default=0)
    if moment == "sigterm":
        hit = "SIGTERM: saved first"
    elif "ckpt" in left:
        hit = "saving"
    elif "models" in left:
        hit = "writing a model"
    elif not reached:
        hit = "starting, first step"
    elif owed and saved == reached:
        hit = "validation" if "validate" in owed else "making a model"
    else:
        hit = "step"
    return Kill(str(moment), hit, reached, saved)
