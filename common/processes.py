"""Starts worker processes that end when their program ends or is interrupted."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

_BLAS_THREADS = "OPENBLAS_NUM_THREADS"


@contextlib.contextmanager
def worker_map(num_workers: int, chunk_size: int) -> Iterator[Callable[..., Iterator]]:
    """Starts worker processes and yields a function like `map` that makes its calls in them.

    With one worker or fewer, it yields `map` itself. Function, arguments and results must be picklable.
    OpenCV uses one thread per worker.

    Args:
        num_workers: largest number of processes.
        chunk_size: number of calls that a worker receives at once. Ctrl-C waits until it has made them.

    Raises:
        OSError: a worker was killed.
    """
    if num_workers <= 1:
        yield map
        return
    # Forked processes would share the state of OpenCV's threads.
    pool = ProcessPoolExecutor(num_workers, multiprocessing.get_context("spawn"), _start_worker)

    def run(function, *arguments):
        with hold_interrupts():  # `pool.map` starts the workers.
            return pool.map(function, *arguments, chunksize=chunk_size)

    try:
        yield run
    except BrokenProcessPool:
        raise OSError("a worker was killed (out of memory?). Run the same command again to resume.") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker():
    import cv2

    exit_with_parent()
    cv2.setNumThreads(1)


def exit_with_parent() -> None:
    """Makes this worker end when its parent is killed. Otherwise it would wait forever for its next task."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent():
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextlib.contextmanager
def hold_interrupts() -> Iterator[None]:
    """Delays Ctrl-C until the end of the block. Processes that start in the block never receive it.

    A terminal sends Ctrl-C to all processes, but only the parent should react to it and stop its workers.
    """
    received = []
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    is_main = threading.current_thread() is threading.main_thread()
    handler = None
    if is_main:
        # The mask applies to this thread and to new processes. A thread of NumPy may still get the signal.
        handler = signal.signal(signal.SIGINT, lambda *_: received.append(True))
    try:
        yield
    finally:
        if is_main:
            signal.signal(signal.SIGINT, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    if received:
        raise KeyboardInterrupt


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """Limits processes that start in the block to one BLAS thread each. More would compete for the cores."""
    before = os.environ.get(_BLAS_THREADS)
    os.environ[_BLAS_THREADS] = "1"
    try:
        yield
    finally:
        del os.environ[_BLAS_THREADS]
        if before is not None:
            os.environ[_BLAS_THREADS] = before
