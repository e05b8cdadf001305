"""Signals that end a run after the step at hand."""

import contextlib
import signal


class StopSignals:
    """SIGINT and SIGTERM are noted; a second one ends the program at once.

    Attributes:
        received: int, the first signal's number; `None` before.
    """

    def __init__(self):
        self.received = None

    @contextlib.contextmanager
    def noted(self):
        """In this context signals are noted; after it they act as before."""

        def handle(number, _frame):
            if self.received is not None:
                raise KeyboardInterrupt
            self.received = number

        old = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)
