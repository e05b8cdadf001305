"""The record of a run, `run.json` in its checkpoint folder: all starts, and what changed between them.

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
# Flags whose change says nothing about the run. Those that name a model are checked on their own.
_IGNORED = ("check", "allow_changes", "model_path", "init_from", "from_scratch", "teacher", "xla")


def read_starts(folder: Path) -> list[dict[str, Any]]:
    """Reads all starts of the run in a folder, oldest first. A record that cannot be read counts as none."""
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
        logger.warning("%s: cannot be read, and will be written again: %s", path, error)
        return []


def changed_flags(options: TrainingOptions, previous: list[dict[str, Any]]) -> dict[str, tuple[Any, Any]]:
    """Returns `(value of the previous start, value now)` by flag, where they differ."""
    now, before = _as_json(flag_values(options)), previous[0]["options"] if previous else {}
    return {
        flag: (before[flag], value)
        for flag, value in now.items()
        if flag in before and before[flag] != value and flag not in _IGNORED
    }


def describe_sources(manifests: Sequence[Manifest]) -> dict[str, dict[str, Any]]:
    """Fingerprints of the data, by source: a digest of the manifest covers the checksums of all shards."""
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
        previous: the entry of that start, or nothing.
        sources: `describe_sources`.

    Raises:
        ValueError: the data of a source has changed, without `--allow_changes`.
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
            f"The data of {', '.join(changed)} is not that of the run in {options.output.ckpt_path}. Give "
            "--allow_changes to resume on other data, or --output NEW for a new run."
        )


@contextlib.contextmanager
def recorded(
    folder: Path, options: TrainingOptions, sources: dict[str, dict[str, Any]], **facts: Any
) -> Iterator[dict[str, Any]]:
    """Adds a start to the record, and its end when the block ends.

    Yields:
        The entry of this start. The block may add to it. A killed run has no `end`.
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
    """The values as JSON returns them: tuples become lists, paths become strings."""
    return json.loads(json.dumps(values, default=str))


def shown(value: Any) -> str:
    """The value of a flag as you would type it."""
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return "(not given)" if value is None else str(value)


def _now():
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _git_commit():
    """The commit of this project, with `-dirty` if files differ from it; `None` outside a repository."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
