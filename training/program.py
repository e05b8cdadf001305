"""Logging, error messages and exit codes of the training programs."""

import contextlib
import dataclasses
import logging
import os
import time
from collections.abc import Callable
from typing import TypeVar

from common.files import folder_lock
from training.options import OutputOptions, TrainingOptions
from training.workers import own_folders

logger = logging.getLogger(__name__)

Options = TypeVar("Options", bound=TrainingOptions)


def run_program(name: str, work: Callable[[Options], int], options: Options) -> int:
    """Runs `work(options)` with a log on the console and in a file.

    Args:
        name: name of the program; the log file is `{log_file_path}/{name}_{time}.log`.
        work: trains and returns an exit code.

    Returns:
        The exit code: that of `work`; 1 after bad input, a full disk or a loss that is not finite, with a
        line in the log that says so; 130 after Ctrl-C.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        with own_folders(options.device, options.output) as output, _locked(output):
            return _run_logged(name, work, dataclasses.replace(options, output=output))
    except (ValueError, OSError) as error:  # before there is a log
        logger.error("%s: %s", name, error)
        return 1


@contextlib.contextmanager
def _locked(output: OutputOptions):
    """Holds the folders of a run. Runs may share a log folder. Only the chief writes where others might."""
    folders = (output.ckpt_path, output.saved_model_path, output.summary_path)
    with contextlib.ExitStack() as locks:
        if output.worker_folder is None:
            for folder in {path.resolve(): path for path in folders}.values():
                locks.enter_context(folder_lock(folder))
        yield


def _run_logged(name, work, options):
    folder = options.output.log_file_path
    folder.mkdir(parents=True, exist_ok=True)
    file = logging.FileHandler(folder / f"{name}_{time.strftime('%Y%m%d-%H%M%S')}.log", delay=True)
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    handlers = (logging.StreamHandler(), file)
    root = logging.getLogger()
    # A program that is run by `python -m` is called __main__.
    for package in ("dataset", "nets", "eval", "training", "export", name, "__main__"):
        logging.getLogger(package).setLevel(logging.INFO)
    # TensorFlow warns of every name that it changes in a SavedModel.
    for library in ("tensorflow", "absl"):
        logging.getLogger(library).setLevel(logging.ERROR)
    for handler in handlers:
        root.addHandler(handler)
    try:
        return work(options)
    except (ValueError, OSError, FloatingPointError) as error:
        logger.error("%s: %s", name, error)
        return 1
    except KeyboardInterrupt:
        logger.error("%s: interrupted", name)
        return 130
    finally:
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()
