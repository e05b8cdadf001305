"""What every training program does around its work: logs, clear errors, exit codes."""

import logging
import os
import time

from training.workers import own_folders

logger = logging.getLogger(__name__)


def run_program(name, work, args):
    """Runs `work(args)` with a log on the console and in a file.

    Args:
        name: str, of the program; its logs are `{log_file_path}/{name}_{time}.log`.
        work: function of the parsed flags, returns an exit code.
        args: parsed flags with `log_file_path`.

    Returns:
        int, exit code: that of `work`; 1 after bad input, a full disk or a loss that is not
        finite, with one line that says so; 130 after Ctrl-C.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        with own_folders(args):
            return _run_logged(name, work, args)
    except ValueError as error:  # of the workers' flags; there is no log yet
        logger.error("%s: %s", name, error)
        return 1


def _run_logged(name, work, args):
    args.log_file_path.mkdir(parents=True, exist_ok=True)
    file = logging.FileHandler(
        args.log_file_path / f"{name}_{time.strftime('%Y%m%d-%H%M%S')}.log", delay=True
    )
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    console = logging.StreamHandler()
    console.setFormatter(logging.Formatter("%(message)s"))
    root = logging.getLogger()
    # A program that is run by `python -m` is called __main__.
    for package in ("dataset", "nets", "eval", "training", "export", name, "__main__"):
        logging.getLogger(package).setLevel(logging.INFO)
    # TensorFlow warns of every name that it changes in a SavedModel.
    for library in ("tensorflow", "absl"):
        logging.getLogger(library).setLevel(logging.ERROR)
    for handler in (console, file):
        root.addHandler(handler)
    try:
        return work(args)
    except (ValueError, OSError, FloatingPointError) as error:
        logger.error("%s: %s", name, error)
        return 1
    except KeyboardInterrupt:
        logger.error("%s: interrupted", name)
        return 130
    finally:
        for handler in (console, file):
            root.removeHandler(handler)
            handler.close()
