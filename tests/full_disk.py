"""Simulates a full disk."""

import contextlib
import resource


@contextlib.contextmanager
def no_file_larger_than(num_bytes):
    """Makes writing beyond `num_bytes` fail in the middle of a file, as on a full disk."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
