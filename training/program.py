"""Runs a training program: opens its log, reports its errors, returns its exit code."""

import contextlib
import dataclasses
import logging
import sys
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from common.files import check_writable, folder_lock, new_folder
from training.options import OutputOptions, TrainingOptions
from training.workers.cluster import own_folders

logger = logging.getLogger(__name__)

Options = TypeVar("Options", bound=TrainingOptions)

# Folders that no two runs may share.
_RUN_FOLDERS = ("ckpt_path", "saved_model_path", "summary_path")


def run_program(name: str, work: Callable[[Options], int], options: Options) -> int:
    """Runs `work(options)` with a log on the console and in a file.

    First it checks that every output folder can be written. If the start fails before anything was written,
    the folders that it created are removed.

    Args:
        name: name of the program. The log file is `{log_file_path}/{name}_{time}.log`.
        work: function that trains and returns an exit code.
        options: flags, passed to `work`.

    Returns:
        The exit code: that of `work`; 1 after bad input, a full disk or a loss that is not finite, which the
        log explains; 130 after Ctrl-C.
    """
    try:
        with own_folders(options.device, options.output) as output, _own_output(output):
            return _run_logged(name, work, dataclasses.replace(options, output=output))
    except (ValueError, OSError) as error:  # The log file is not open yet.
        logger.error("%s: %s", name, error)
        return 1


@contextlib.contextmanager
def _own_output(output: OutputOptions) -> Iterator[None]:
    """Locks the folders of a run, and checks that they can be written. Runs may share a log folder."""
    with contextlib.ExitStack() as stack:
        if output.worker_folder is None:  # Workers other than the chief write to temporary folders.
            for folder, flag in {getattr(output, flag).resolve(): flag for flag in _RUN_FOLDERS}.items():
                with _naming(flag):
                    stack.enter_context(folder_lock(folder))
        with _naming("log_file_path"):
            stack.enter_context(new_folder(output.log_file_path))
            check_writable(output.log_file_path)
        yield


@contextlib.contextmanager
def _naming(flag):
    """Puts the flag before the message of an `OSError` in the block."""
    try:
        yield
    except OSError as error:
        raise OSError(f"--{flag} {error}") from None


class _LogFile(logging.FileHandler):
    """A log file that tolerates a full disk: the console reports it once, and the program continues."""

    _has_failed = False

    def handleError(self, record: logging.LogRecord) -> None:
        """Called by `logging` when a record cannot be written."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._has_failed:
            self._has_failed = True
            logger.error("%s: cannot write the log file: %s", self.baseFilename, error.strerror)

    def close(self) -> None:
        """Closes the file, even if the disk is full."""
        with contextlib.suppress(OSError):
            super().close()


def _run_logged(name, work, options):
    folder = options.output.log_file_path
    path = folder / f"{name}_{time.strftime('%Y%m%d-%H%M%S')}.log"
    is_first_log = not any(folder.iterdir())
    before = _files(options.output)
    file = _LogFile(path)
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    handlers = (logging.StreamHandler(), file)
    root = logging.getLogger()
    # The module of a program that `python -m` runs is called __main__.
    for package in ("common", "dataset", "nets", "eval", "training", "export", name, "__main__"):
        logging.getLogger(package).setLevel(logging.INFO)
    # TensorFlow warns of every name that it changes in a SavedModel.
    for library in ("tensorflow", "absl"):
        logging.getLogger(library).setLevel(logging.ERROR)
    for handler in handlers:
        root.addHandler(handler)
    code = 1
    try:
        code = work(options)
    except (ValueError, OSError, FloatingPointError) as error:
        logger.error("%s: %s", name, error)
    except KeyboardInterrupt:
        logger.error("%s: interrupted", name)
        code = 130
    finally:
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()
        if code and is_first_log and _files(options.output) == before | {path}:
            path.unlink()
    return code


def _files(output):
    return {path for flag in _RUN_FOLDERS + ("log_file_path",) for path in getattr(output, flag).glob("*")}
