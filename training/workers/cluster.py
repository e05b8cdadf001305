"""Names the workers, which are the processes that train one net together, and the folders of each.

Imports no TensorFlow.
"""

import contextlib
import dataclasses
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from training.options import DeviceOptions, OutputOptions


def set_workers(options: DeviceOptions) -> int:
    """Sets the environment variable `TF_CONFIG`, which TensorFlow reads, if flags name the workers.

    Returns:
        The index of this worker; 0 is the chief.

    Raises:
        ValueError: neither flags nor `TF_CONFIG` name the workers, or `TF_CONFIG` is wrong.
    """
    if options.workers is not None:
        task = {"type": "worker", "index": options.worker_index}
        jobs = {"worker": options.workers.split(",")}
        os.environ["TF_CONFIG"] = json.dumps({"cluster": jobs, "task": task})
    return cluster()[1]


def cluster() -> tuple[list[str], int]:
    """Returns the addresses of all workers and the index of this one, from `TF_CONFIG`.

    Raises: like `set_workers`.
    """
    text = os.environ.get("TF_CONFIG")
    if not text:
        raise ValueError(
            "--strategy multiworker: no workers. Give --workers and --worker_index, or set TF_CONFIG."
        )
    try:
        config = json.loads(text)
        jobs, index = config["cluster"], int(config["task"]["index"])
        addresses = list(jobs["worker"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"TF_CONFIG: expected cluster.worker and task.index, received {text}") from error
    if set(jobs) != {"worker"} or not 0 <= index < len(addresses):
        raise ValueError(f"TF_CONFIG: expected workers only, and one of them as task.index, received {text}")
    return addresses, index


@contextlib.contextmanager
def own_folders(device: DeviceOptions, output: OutputOptions) -> Iterator[OutputOptions]:
    """Yields the folders that this process writes to. A worker that is not the chief gets temporary folders.

    Such a worker has to write what the chief writes, because all workers read variables together. All workers
    read checkpoints from `ckpt_path`. Raises like `set_workers`.
    """
    index = set_workers(device) if device.strategy == "multiworker" else 0
    if index == 0:
        yield output
        return
    with tempfile.TemporaryDirectory(prefix=f"worker_{index}_") as name:
        folder = Path(name)
        paths = {key: folder / key for key in ("summary_path", "saved_model_path", "log_file_path")}
        yield dataclasses.replace(output, **paths, worker_folder=folder, saver_maxkeep=1)
