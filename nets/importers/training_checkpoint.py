"""Finds, verifies and reads training checkpoints, newest first.

A checkpoint is a folder with the exact name `step_{step:08d}`, which `training/checkpoints.py` writes. It
contains a manifest `checkpoint.json` (step, arguments of the `Backbone`, SHA-256 of the other files) and a
`tf.train.Checkpoint` with the name `state`.
"""

import hashlib
import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .net_arguments import check_net, read_small_json
from .restricted_pickle import brief

if TYPE_CHECKING:
    from ..backbone import Backbone

MANIFEST_NAME = "checkpoint.json"
STATE_NAME = "state"
VERSION = 1

NAME = re.compile(r"step_([0-9]{8}|[1-9][0-9]{8,})")

logger = logging.getLogger(__name__)


def checkpoint_folders(path: str | Path) -> list[Path]:
    """Lists the checkpoints at a path, newest first: the folder itself if it is one, else those in it.

    A copy with another name, such as `step_00000010_keep`, is found only if it is the path itself.
    """
    path = Path(path)
    if (path / MANIFEST_NAME).is_file():
        return [path]
    folders = [folder for folder in path.glob("step_*") if folder.is_dir()]
    named = [(NAME.fullmatch(folder.name), folder) for folder in folders]
    by_step = {int(match[1]): folder for match, folder in named if match}
    return [by_step[step] for step in sorted(by_step, reverse=True)]


def checkpoint_name(step: int) -> str:
    """Returns the folder name of a step's checkpoint, such as `step_00001000`."""
    return f"step_{step:08d}"


def read_manifest(folder: Path) -> dict[str, Any]:
    """Reads the manifest of a checkpoint without checking the other files.

    Raises:
        ValueError: there is no manifest, or it is damaged.
    """
    path = folder / MANIFEST_NAME
    try:
        manifest = read_small_json(path)
        version, checksums, net = manifest["version"], manifest["sha256"], _by_name(manifest["net"])
        has_types = isinstance(manifest["step"], int) and all(
            isinstance(values, dict) for values in (checksums, manifest.get("recipe") or {})
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: expected a checkpoint's manifest, received {brief(error)}") from None
    if version != VERSION:
        raise ValueError(f"{path}: expected format version {VERSION}, received {brief(version)}")
    if not has_types or any(Path(name).name != name for name in checksums):
        raise ValueError(
            f"{path}: expected a step, checksums of files in its folder and a recipe, "
            f"received {brief(manifest)}"
        )
    # The first checkpoints do not name their loss, because there was only one.
    return {"loss": "angular_centre", **manifest, "net": net}


def read_checkpoint(folder: Path) -> dict[str, Any]:
    """Reads the manifest of a checkpoint after checking every file against its checksum.

    Raises:
        ValueError: the checkpoint is incomplete or damaged.
    """
    manifest = read_manifest(folder)
    for name, expected in manifest["sha256"].items():
        file = folder / name
        received = sha256(file) if file.is_file() else "no such file"
        if received != expected:
            raise ValueError(f"{file}: expected SHA-256 {brief(expected)}, received {received}")
    return manifest


def newest_checkpoint(path: str | Path) -> tuple[Path, dict[str, Any]] | None:
    """Finds the newest readable checkpoint at a path. Skips damaged ones with a warning.

    Returns:
        Its folder and its manifest, or `None` if there are no checkpoints.

    Raises:
        ValueError: there are checkpoints, but none can be read.
    """
    problems = []
    for folder in checkpoint_folders(path):
        try:
            return folder, read_checkpoint(folder)
        except ValueError as error:
            logger.warning("skipping a damaged checkpoint: %s", error)
            problems.append(str(error))
    if problems:
        raise ValueError(f"{path}: there are checkpoints, but none can be read: " + "; ".join(problems))
    return None


def load_backbone_of_checkpoint(path: str | Path) -> "Backbone":
    """Builds the backbone of the newest checkpoint and loads its weights, or their average if it has one.

    Args:
        path: a checkpoint, or a folder of checkpoints.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: no checkpoint can be read, or it does not contain the backbone that it names.
    """
    import tensorflow as tf  # here, because the import takes seconds and the functions above do not need it

    from ..backbone import Backbone
    from ..layers.counters import save_counters_as_int32

    newest = newest_checkpoint(path)
    if newest is None:
        raise FileNotFoundError(f"{path}: expected a checkpoint or a folder of checkpoints, but found none")
    folder, manifest = newest
    try:
        check_net(manifest["net"], sum(file.stat().st_size for file in folder.glob(f"{STATE_NAME}.*")))
        backbone = Backbone(**manifest["net"])
    except (ValueError, TypeError) as error:
        raise ValueError(f"{folder / MANIFEST_NAME}: {error}") from None
    # Reads neither the optimizer nor the centres, which are in the same file.
    name = "average" if "ema" in (manifest.get("recipe") or {}) else "backbone"
    state = str(folder / STATE_NAME)
    try:
        dtypes = tf.train.load_checkpoint(state).get_variable_to_dtype_map()
        # Only checkpoints of the training programs store counters as int32.
        if any(key.startswith(name) and dtype == tf.int32 for key, dtype in dtypes.items()):
            save_counters_as_int32(backbone)
        status = tf.train.Checkpoint(**{name: backbone}).read(state).expect_partial()
        status.assert_existing_objects_matched()
    except (AssertionError, ValueError, tf.errors.OpError) as error:
        raise ValueError(f"{folder}: expected the weights of {manifest['net']}: {error}") from None
    return backbone


def sha256(path: str | Path) -> str:
    """Returns the hexadecimal SHA-256 of a file."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _by_name(net):
    """Adds the architecture's name. The first checkpoints had depth and unit type in its place."""
    if "architecture" in net:
        return net
    rest = {name: net[name] for name in net if name not in ("depth", "unit_type")}
    return {"architecture": f"{net['unit_type']}{net['depth']}", "embedding_size": 512, **rest}
