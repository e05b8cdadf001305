"""Reading training checkpoints: whole, checked, newest first.

A checkpoint is a folder `step_{step:08d}` with a `checkpoint.json` (step, the arguments of the
`nets.backbone.Backbone`, SHA-256 of the other files) and a `tf.train.Checkpoint` called `state`.
`training/checkpoints.py` writes them.
"""

import hashlib
import json
import logging
from pathlib import Path

MANIFEST_NAME = "checkpoint.json"
STATE_NAME = "state"
VERSION = 1

logger = logging.getLogger(__name__)


def checkpoint_folders(path):
    """The checkpoints at a path: the folder itself if it is one, else those in it, newest first.

    Args:
        path: str or Path.

    Returns:
        List of Path; empty if there are none.
    """
    path = Path(path)
    if (path / MANIFEST_NAME).is_file():
        return [path]
    return sorted((folder for folder in path.glob("step_*") if folder.is_dir()), reverse=True)


def read_checkpoint(folder):
    """The manifest of a checkpoint, after every file was compared with its checksum.

    Args:
        folder: Path of one checkpoint.

    Returns:
        dict: `step`, `net` (arguments of `Backbone`), and what the trainer added.

    Raises:
        ValueError: not a whole checkpoint; names the file, what was expected and received.
    """
    path = folder / MANIFEST_NAME
    try:
        manifest = json.loads(path.read_text())
        version, checksums, net = manifest["version"], manifest["sha256"], manifest["net"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: expected a checkpoint's manifest, received {error!r}") from None
    if version != VERSION:
        raise ValueError(f"{path}: expected format version {VERSION}, received {version}")
    for name, expected in checksums.items():
        file = folder / name
        received = sha256(file) if file.is_file() else "no such file"
        if received != expected:
            raise ValueError(f"{file}: expected SHA-256 {expected}, received {received}")
    # The first checkpoints did not name their loss: there was one.
    return {"loss": "angular_centre", **manifest, "net": _by_name(net)}


def newest_checkpoint(path):
    """The newest checkpoint at a path that can be read; damaged ones are skipped with a warning.

    Args:
        path: str or Path, a checkpoint or a folder of checkpoints.

    Returns:
        `(folder, manifest)`, or `None` if there are no checkpoints at all.

    Raises:
        ValueError: there are checkpoints, and none of them can be read.
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


def load_backbone_of_checkpoint(path):
    """Builds the net of a training checkpoint and loads its weights: the average if there is one.

    Args:
        path: str or Path, a checkpoint or a folder of checkpoints.

    Returns:
        `Backbone`, float32.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: none can be read, or it does not hold the net that it names.
    """
    # TensorFlow only here: the rest finds and checks files.
    import tensorflow as tf

    from ..backbone import Backbone

    newest = newest_checkpoint(path)
    if newest is None:
        raise FileNotFoundError(f"{path}: expected a checkpoint or a folder of checkpoints, received none")
    folder, manifest = newest
    backbone = Backbone(**manifest["net"])
    # Only the net: the optimizer and the centres of the same file stay where they are.
    name = "average" if "ema" in (manifest.get("recipe") or {}) else "backbone"
    try:
        status = tf.train.Checkpoint(**{name: backbone}).read(str(folder / STATE_NAME)).expect_partial()
        status.assert_existing_objects_matched()
    except (AssertionError, ValueError) as error:
        raise ValueError(f"{folder}: expected the weights of {manifest['net']}: {error}") from None
    return backbone


def sha256(path):
    """Hexadecimal SHA-256 of a file."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _by_name(net):
    """The net's arguments; the first checkpoints had depth and unit type in place of a name."""
    if "architecture" in net:
        return net
    rest = {name: net[name] for name in net if name not in ("depth", "unit_type")}
    return {"architecture": f"{net['unit_type']}{net['depth']}", "embedding_size": 512, **rest}
