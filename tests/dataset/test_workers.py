"""Processes that work for a program."""

import os
import subprocess
import sys

import pytest

from common.processes import one_blas_thread

NUM_THREADS = """
import numpy, threadpoolctl
print(max(pool["num_threads"] for pool in threadpoolctl.threadpool_info()))
"""


@pytest.mark.parametrize("before", [None, "3"])
def test_processes_of_one_thread(before, monkeypatch):
    if before is None:
        monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OPENBLAS_NUM_THREADS", before)
    with one_blas_thread():
        started = subprocess.run([sys.executable, "-c", NUM_THREADS], check=True, capture_output=True)
    assert started.stdout.split() == [b"1"]
    assert os.environ.get("OPENBLAS_NUM_THREADS") == before
