"""Several processes, one run: who is who, and where each may write. Imports no TensorFlow."""

import contextlib
import json
import os
import tempfile
from pathlib import Path


def set_workers(workers, worker_index):
    """Says in `TF_CONFIG`, where TensorFlow looks, which workers there are and which one this is.

    Args:
        workers: str, `host:port,host:port`, the same on every worker; `None` leaves `TF_CONFIG` as it is.
        worker_index: int, the place of this worker in the list; 0 is the chief.

    Returns:
        `(worker_index, num_workers)`.

    Raises:
        ValueError: neither flags nor `TF_CONFIG`, or what they say does not fit together.
    """
    if workers is not None:
        addresses = workers.split(",")
        if not all(":" in address for address in addresses) or len(set(addresses)) < len(addresses):
            raise ValueError(f"--workers: expected host:port,host:port,..., each once, received {workers}")
        if worker_index is None or not 0 <= worker_index < len(addresses):
            raise ValueError(
                f"--worker_index: expected a number in [0, {len(addresses)}), received {worker_index}"
            )
        task = {"type": "worker", "index": worker_index}
        os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": addresses}, "task": task})
        return worker_index, len(addresses)
    text = os.environ.get("TF_CONFIG")
    if worker_index is not None or not text:
        raise ValueError(
            "--strategy multiworker: expected --workers and --worker_index, or TF_CONFIG in the environment, "
            f"received --worker_index {worker_index} and {'' if text else 'no '}TF_CONFIG"
        )
    try:
        config = json.loads(text)
        cluster, task = config["cluster"], config["task"]
        kinds, index, count = set(cluster), int(task["index"]), len(cluster["worker"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"TF_CONFIG: expected cluster.worker and task.index, received {text}") from error
    if kinds != {"worker"} or not 0 <= index < count:
        raise ValueError(f"TF_CONFIG: expected workers alone, and task.index one of them, received {text}")
    return index, count


@contextlib.contextmanager
def own_folders(args):
    """Has all workers but the chief write to a temporary folder, which goes at the end.

    They have to write what the chief writes, since variables are read by all workers together; checkpoints
    are read from `--ckpt_path` by all.

    Args:
        args: parsed flags with `strategy`, `workers`, `worker_index` and the output's paths; of a worker
            that is not the chief the paths are changed, and `worker_folder` becomes the temporary folder.

    Raises:
        ValueError: as `set_workers`; or workers without `--strategy multiworker`.
    """
    if args.strategy != "multiworker":
        if args.workers is not None or args.worker_index is not None:
            raise ValueError(
                f"--workers, --worker_index: expected --strategy multiworker, received {args.strategy}"
            )
        yield
        return
    index, _ = set_workers(args.workers, args.worker_index)
    if index == 0:
        yield
        return
    with tempfile.TemporaryDirectory(prefix=f"worker_{index}_") as folder:
        args.worker_folder = Path(folder)
        for name in ("summary_path", "saved_model_path", "log_file_path"):
            setattr(args, name, args.worker_folder / name)
        args.saver_maxkeep = 1
        yield
