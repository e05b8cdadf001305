"""Tests worker processes."""

import os
import subprocess
import sys

import pytest

from common.processes import one_blas_thread, worker_map

NUM_THREADS = """
import numpy, threadpoolctl
print(max(pool["num_threads"] for pool in threadpoolctl.threadpool_info()))
"""


@pytest.mark.parametrize("before", [None, "3"])
def test_processes_use_one_blas_thread(before, monkeypatch):
    if before is None:
        monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OPENBLAS_NUM_THREADS", before)
    with one_blas_thread():
        started = subprocess.run([sys.executable, "-c", NUM_THREADS], check=True, capture_output=True)
    assert started.stdout.split() == [b"1"]
    assert os.environ.get("OPENBLAS_NUM_THREADS") == before


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_results_of_workers_are_in_order(num_workers):
    with worker_map(num_workers, chunk_size=2) as run:
        assert list(run(pow, range(5), [2] * 5)) == [0, 1, 4, 9, 16]
        assert sum(run(abs, [-1, 2])) == 3
