import ctypes
import gc
import os
import sys
from pathlib import Path

import pytest

from nets.start_tensorflow import start_tensorflow
from nets.variants import STAGES, VARIANTS, Variant
from tests.first_party import loads_tensorflow

# A net with one unit per stage, for tests in which the depth does not matter. It trains and exports in less
# than half the time of `ir32`. Processes that a test starts do not know it.
STAGES[8] = tuple((filters, 1) for filters, _ in STAGES[32])
VARIANTS["ir8"] = Variant("resnet_ir", {"depth": 8, "unit_type": "ir"})

WITHOUT = "not tensorflow"
_FIRST_LIMIT, _GROWTH = 1.2e9, 5e7  # bytes
_limit = _FIRST_LIMIT
_is_configured = False


def pytest_ignore_collect(collection_path, config):
    """Skips files that import TensorFlow under `-m "not tensorflow"`, without importing them."""
    is_test = collection_path.name.startswith("test_") and collection_path.suffix == ".py"
    if is_test and WITHOUT in config.option.markexpr and loads_tensorflow(collection_path):
        return True
    return None


def pytest_collectstart(collector):
    if isinstance(collector, pytest.Module) and loads_tensorflow(collector.path):
        _configure_devices()  # before importing the file, which may already create tensors


def pytest_collection_modifyitems(config, items):
    """Deselects the long tests, unless `-m` mentions them."""
    if "long" in config.option.markexpr:
        return
    long = [item for item in items if item.get_closest_marker("long")]
    config.hook.pytest_deselected(items=long)
    items[:] = [item for item in items if item not in long]


def pytest_itemcollected(item):
    if loads_tensorflow(item.path):
        item.add_marker("tensorflow")


def pytest_runtest_setup(item):
    if item.get_closest_marker("tensorflow"):
        _configure_devices()  # for a test that imports TensorFlow itself


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    was_loaded = "tensorflow" in sys.modules
    yield
    if "tensorflow" in sys.modules and not was_loaded:
        raise AssertionError("The test imports TensorFlow. Mark it with pytest.mark.tensorflow.")


def _configure_devices():
    """Splits the processor into two devices for tests of replicas, before TensorFlow initialises it."""
    global _is_configured
    if _is_configured:
        return
    start_tensorflow()  # as the programs do, with oneDNN
    import tensorflow as tf

    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
    _is_configured = True


@pytest.fixture(scope="session")
def two_replicas():
    """Returns a MirroredStrategy over two CPU devices. All tests share it, because two would clash."""
    _configure_devices()
    from training.distribution import make_strategy

    return make_strategy(["CPU:0", "CPU:1"])


@pytest.fixture(autouse=True)
def _free_memory():
    """Frees the nets of earlier tests when the process has grown. They form cycles, so Python keeps them."""
    yield
    global _limit
    if "tensorflow" in sys.modules and _resident_bytes() > _limit:
        gc.collect()
        # Returns the memory from the allocator to the system.
        ctypes.CDLL(None).malloc_trim(0)
        _limit = max(_FIRST_LIMIT, _resident_bytes() + _GROWTH)


def _resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
