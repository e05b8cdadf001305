"""Records all starts of a run in `run.json`, in its checkpoint folder, and compares each with the one before.

Imports no TensorFlow.
"""

import contextlib
import datetime
import importlib.metadata
import json
import logging
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from common.files import file_sha256, write_json
from common.options import flag_values
from dataset.records.manifest import MANIFEST_NAME, Manifest
from export.card import RUN_NAME
from training.options import TrainingOptions

logger = logging.getLogger(__name__)

VERSION = 1
_PACKAGES = ("tensorflow", "keras", "numpy")
# Flags that may change during a run. `input_checks` checks those that name a model.
_IGNORED = ("check", "allow_changes", "model_path", "init_from", "from_scratch", "teacher", "xla")


def read_starts(folder: Path) -> list[dict[str, Any]]:
    """Reads all starts of the run in a folder, oldest first. An unreadable record counts as empty."""
    path = folder / RUN_NAME
    try:
        starts = json.loads(path.read_bytes())["starts"]
        return [
            {**start, "options": dict(start["options"]), "sources": dict(start.get("sources", {}))}
            for start in starts
        ]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("%s cannot be read. A new record will replace it: %s", path, error)
        return []


def changed_flags(options: TrainingOptions, previous: list[dict[str, Any]]) -> dict[str, tuple[Any, Any]]:
    """Returns `(previous value, new value)` of each flag that has changed.

    Args:
        options: the flags of this start.
        previous: a list with the entry of the previous start. It is empty at the first start.
    """
    now, before = _as_json(flag_values(options)), previous[0]["options"] if previous else {}
    return {
        flag: (before[flag], value)
        for flag, value in now.items()
        if flag in before and before[flag] != value and flag not in _IGNORED
    }


def describe_sources(manifests: Sequence[Manifest]) -> dict[str, dict[str, Any]]:
    """Returns a fingerprint of each source. The digest of a manifest covers the checksums of all shards."""
    return {
        manifest.source: {
            "manifest_sha256": file_sha256(manifest.folder / MANIFEST_NAME),
            "fingerprint": manifest.fingerprint,
            "num_images": manifest.num_images,
            "num_identities": manifest.num_identities,
        }
        for manifest in manifests
    }


def check_changes(
    options: TrainingOptions, previous: list[dict[str, Any]], sources: dict[str, dict[str, Any]]
) -> None:
    """Logs each flag and each source that changed since the previous start of a run.

    Args:
        options: the flags of this start.
        previous: a list with the entry of the previous start. It is empty at the first start.
        sources: what `describe_sources` returns.

    Raises:
        ValueError: the data of a source has changed, and `--allow_changes` is not given.
    """
    for flag, values in changed_flags(options, previous).items():
        before, now = (shown(value) for value in values)
        logger.warning("changed since the last start: --%s %s -> %s", flag, before, now)
    known = previous[0].get("sources", {}) if previous else {}
    changed = [name for name, source in sources.items() if name in known and source != known[name]]
    for name in changed:
        logger.warning("changed since the last start: the data of source %s", name)
    if changed and not options.allow_changes:
        raise ValueError(
            f"The data of {', '.join(changed)} has changed since the last start of the run in "
            f"{options.output.ckpt_path}. Give --allow_changes to resume with the new data, or --output NEW "
            "for a new run."
        )


@contextlib.contextmanager
def recorded(
    folder: Path, options: TrainingOptions, sources: dict[str, dict[str, Any]], **facts: Any
) -> Iterator[dict[str, Any]]:
    """Adds a start to the record, and its end when the block ends. A killed run has no `end`.

    Args:
        folder: folder of the checkpoints.
        options: the flags.
        sources: what `describe_sources` returns.
        **facts: other values for the entry, as JSON.

    Yields:
        The entry of this start, to which the block may add.
    """
    entry: dict[str, Any] = {
        "command": shlex.join(sys.orig_argv),
        "options": _as_json(flag_values(options)),
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in _PACKAGES},
        },
        "git_commit": _git_commit(),
        "sources": sources,
        "host": platform.node(),
        "process": os.getpid(),
        "start": _now(),
        "end": None,
        **facts,
    }
    record = {"version": VERSION, "starts": [*read_starts(folder), entry]}
    write_json(folder / RUN_NAME, record)
    try:
        yield entry
    except BaseException as error:
        entry["error"] = f"{type(error).__name__}: {error}"
        raise
    finally:
        entry["end"] = _now()
        try:
            write_json(folder / RUN_NAME, record)
        except OSError as error:
            logger.error("%s: the end of the run is not recorded: %s", folder / RUN_NAME, error)


def _as_json(values):
    """Passes the values through JSON: tuples become lists, paths become strings."""
    return json.loads(json.dumps(values, default=str))


def shown(value: Any) -> str:
    """Returns the value of a flag as messages show it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return "(not given)" if value is None else str(value)


def _now():
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _git_commit():
    """Returns the commit of this project, with `-dirty` if files differ from it, or `None` outside Git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
