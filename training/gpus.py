"""Chooses the GPUs of a run, and limits the memory that it takes."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
from collections.abc import Iterator
from typing import Any

from common.files import readable_size

logger = logging.getLogger(__name__)

# The most that TensorFlow leaves to CUDA and its libraries: 225 MB to 1.8 GB, depending on the GPU's
# generation.
_RESERVE = 1800 * 2**20


class _UnknownMemory(Exception):
    """Raised when the free memory of the GPUs is unknown. The message says why."""


def prepare_gpus(kind: str, memory: str) -> list[int]:
    """Chooses the GPUs of a run, and how TensorFlow reserves their memory.

    Call it before the first operation of TensorFlow, because that operation reserves almost all memory of
    every GPU.

    Args:
        kind: as in `training.distribution.make_strategy`. `"one"` uses the first GPU and hides the others.
        memory: `"all"` reserves what is free at the start, `"growth"` reserves memory when it is needed, and
            a number in a string is a limit in GiB.

    Returns:
        The bytes that TensorFlow can use on each GPU of the run. The list is empty if there is no GPU, or if
        the free memory is unknown.

    Raises:
        ValueError: a GPU has less free memory than the limit.
    """
    import tensorflow as tf

    gpus = visible = tf.config.list_physical_devices("GPU")
    if not visible:
        return []
    if kind == "one":
        gpus = visible[:1]
        tf.config.set_visible_devices(gpus, "GPU")
    try:
        free = free_memory(len(visible))[: len(gpus)]
    except _UnknownMemory as reason:
        logger.info("The free memory of the GPUs is unknown: %s", reason)
        free = []
    if memory == "all":
        return [max(size - _RESERVE, 0) for size in free]
    if memory == "growth":
        for gpu in gpus:
            tf.config.experimental.set_memory_growth(gpu, True)
        return [max(size - _RESERVE, 0) for size in free]
    megabytes = round(float(memory) * 1024)
    for number, size in enumerate(free):
        if size < megabytes * 2**20:
            raise ValueError(
                f"--gpu_memory is {memory} GiB, but GPU {number} has {readable_size(size)} free. Give less, "
                "or end other programs that use the GPU."
            )
    limit = tf.config.LogicalDeviceConfiguration(memory_limit=megabytes)
    for gpu in gpus:
        tf.config.set_logical_device_configuration(gpu, [limit])
    return [megabytes * 2**20] * len(gpus)


def free_memory(num_gpus: int) -> list[int]:
    """Asks the driver for the free bytes of the GPUs that this process sees, in TensorFlow's order.

    TensorFlow numbers only the GPUs in `CUDA_VISIBLE_DEVICES`, in the order of that list. The driver numbers
    all GPUs of the machine by their place on the PCI bus.

    Args:
        num_gpus: number of GPUs that TensorFlow sees.

    Returns:
        Free bytes of each GPU.

    Raises:
        _UnknownMemory: `nvidia-ml-py` is not installed, or the numbers do not tell which GPU is which.
    """
    try:
        pynvml = importlib.import_module("pynvml")
    except ImportError:
        raise _UnknownMemory("run pip install -r requirements-gpu.txt") from None
    try:
        with _driver(pynvml):
            handles = _visible_handles(pynvml)
            if len(handles) != num_gpus:
                raise _UnknownMemory(f"TensorFlow sees {num_gpus} and the driver {len(handles)}")
            return [pynvml.nvmlDeviceGetMemoryInfo(handle).free for handle in handles]
    except pynvml.NVMLError as error:
        raise _UnknownMemory(f"the driver says: {error}") from None


@contextlib.contextmanager
def _driver(pynvml: Any) -> Iterator[None]:
    pynvml.nvmlInit()
    try:
        yield
    finally:
        pynvml.nvmlShutdown()


def _visible_handles(pynvml):
    """Returns the driver's handles of the GPUs that CUDA shows to this process, in CUDA's order.

    References: [CUDA](https://docs.nvidia.com/cuda/cuda-c-programming-guide/#cuda-environment-variables)
    """
    handles = [pynvml.nvmlDeviceGetHandleByIndex(number) for number in range(pynvml.nvmlDeviceGetCount())]
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    entries = [str(number) for number in range(len(handles))] if given is None else given.split(",")
    names = {pynvml.nvmlDeviceGetName(handle) for handle in handles}
    visible = []
    for entry in map(str.strip, entries):
        if entry.isdigit():
            if len(names) > 1 and os.environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
                raise _UnknownMemory("CUDA sorts different GPUs by speed. Set CUDA_DEVICE_ORDER=PCI_BUS_ID.")
            found = handles[int(entry) : int(entry) + 1]
        elif entry.startswith("MIG-"):
            found = [pynvml.nvmlDeviceGetHandleByUUID(entry)]
        else:  # The list may contain only the start of a UUID.
            found = [
                handle for handle in handles if entry and pynvml.nvmlDeviceGetUUID(handle).startswith(entry)
            ]
        if len(found) != 1:
            break  # CUDA ignores this entry and all after it.
        visible += found
    return visible
