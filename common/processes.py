"""Processes that work for a program: that end with it, and that it stops."""

import contextlib
import multiprocessing
import os
import signal
import threading

_BLAS_THREADS = "OPENBLAS_NUM_THREADS"


def end_with_parent():
    """Called in a worker: ends it when its parent is killed. It would wait for its next task for ever."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent():
    multiprocessing.parent_process().join()
    os._exit(1)


@contextlib.contextmanager
def interrupts_held():
    """Holds Ctrl-C back until the end of the block; processes started in it never get one.

    Ctrl-C goes to all processes of a terminal, but it is the parent that stops its workers.
    """
    received = []
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    is_main = threading.current_thread() is threading.main_thread()
    if is_main:
        # The mask holds for this thread and for new processes; a thread of NumPy's may take the signal.
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
def single_threaded():
    """Processes started in the block have no threads for products, which would spin beside their work."""
    before = os.environ.get(_BLAS_THREADS)
    os.environ[_BLAS_THREADS] = "1"
    try:
        yield
    finally:
        del os.environ[_BLAS_THREADS]
        if before is not None:
            os.environ[_BLAS_THREADS] = before
