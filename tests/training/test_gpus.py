"""Tests which GPUs a run uses, and how it finds their free memory, with a fake driver."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import tensorflow as tf

from tests.first_party import ROOT
from tests.small_runs import data, flags
from training.gpus import prepare_gpus
from training.memory import device_memory
from training.options import parse_centre_options

__all__ = ["data"]  # the fixture

GB = 10**9
RESERVE = 1800 * 2**20
DRIVER = {"GPU-aa11": (80, "H100"), "GPU-ab22": (70, "H100"), "GPU-cc33": (60, "H100")}


class DriverError(Exception):
    """Stands for `pynvml.NVMLError`."""


@pytest.fixture
def machine(monkeypatch):
    """Returns a function that fakes a machine with GPUs and returns the list of TensorFlow's settings."""

    def make(gpus=DRIVER, visible=None, num_visible=None, order=None, error=None):
        told = []
        names = list(gpus)

        def start():
            if error:
                raise DriverError(error)

        driver = SimpleNamespace(
            NVMLError=DriverError,
            nvmlInit=start,
            nvmlShutdown=lambda: None,
            nvmlDeviceGetCount=lambda: len(names),
            nvmlDeviceGetHandleByIndex=names.__getitem__,
            nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
            nvmlDeviceGetUUID=lambda name: name,
            nvmlDeviceGetName=lambda name: gpus[name][1],
            nvmlDeviceGetMemoryInfo=lambda name: SimpleNamespace(free=gpus.get(name, (7,))[0] * GB),
        )
        monkeypatch.setitem(sys.modules, "pynvml", driver)
        for name, value in (("CUDA_VISIBLE_DEVICES", visible), ("CUDA_DEVICE_ORDER", order)):
            monkeypatch.delenv(name, raising=False)
            if value is not None:
                monkeypatch.setenv(name, value)
        count = len(names) if num_visible is None else num_visible
        found = [f"gpu {number}" for number in range(count)]
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: found)
        monkeypatch.setattr(tf.config, "set_visible_devices", lambda *args: told.append(("visible", *args)))
        monkeypatch.setattr(
            tf.config.experimental, "set_memory_growth", lambda *args: told.append(("growth", *args))
        )
        monkeypatch.setattr(
            tf.config,
            "set_logical_device_configuration",
            lambda gpu, limits: told.append(("limit", gpu, limits[0].memory_limit)),
        )
        return told

    return make


def free(*gigabytes):
    return [size * GB - RESERVE for size in gigabytes]


def test_all_leaves_a_reserve_on_every_gpu(machine):
    told = machine()
    assert prepare_gpus("auto", "all") == free(80, 70, 60)
    assert told == []


def test_one_gpu_hides_the_others(machine):
    told = machine()
    assert prepare_gpus("one", "growth") == free(80)
    assert told == [("visible", ["gpu 0"], "GPU"), ("growth", "gpu 0", True)]


def test_growth_is_set_on_every_gpu(machine):
    told = machine()
    assert prepare_gpus("mirrored", "growth") == free(80, 70, 60)
    assert told == [("growth", f"gpu {number}", True) for number in range(3)]


def test_a_limit_is_set_on_every_gpu_and_must_be_free(machine):
    told = machine()
    assert prepare_gpus("auto", "1.5") == [1536 * 2**20] * 3
    assert told == [("limit", f"gpu {number}", 1536) for number in range(3)]
    with pytest.raises(ValueError, match=r"--gpu_memory is 60 GiB, but GPU 1 has 60 GB"):
        machine(visible="0,2", num_visible=2)
        prepare_gpus("auto", "60")


def test_without_gpus_nothing_is_set(machine):
    told = machine({})
    assert prepare_gpus("one", "growth") == []
    assert told == []


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("2,0", free(60, 80)),
        ("GPU-cc33", free(60)),
        ("GPU-ab, 0", free(70, 80)),
        ("1,9,0", free(70)),  # CUDA stops at the first unknown number.
        ("GPU-a,0", []),  # The names of two GPUs start like this.
        ("MIG-5", free(7)),
        ("", []),
    ],
)
def test_free_memory_is_that_of_the_visible_gpus(machine, visible, expected):
    machine(visible=visible, num_visible=len(expected))
    assert prepare_gpus("auto", "all") == expected


@pytest.mark.parametrize("order", [None, "PCI_BUS_ID"])
def test_different_gpus_need_the_order_of_the_bus(machine, order, caplog):
    """CUDA numbers GPUs as the driver does only if CUDA_DEVICE_ORDER says so."""
    caplog.set_level("INFO")
    gpus = {"GPU-a": (8, "T400"), "GPU-b": (80, "H100")}
    machine(gpus, order=order)
    assert prepare_gpus("auto", "all") == (free(8, 80) if order else [])
    assert ("CUDA_DEVICE_ORDER=PCI_BUS_ID" in caplog.text) == (order is None)
    machine(gpus, visible="GPU-b", num_visible=1)
    assert prepare_gpus("auto", "all") == free(80)


def test_unknown_memory_is_logged_with_its_reason(machine, monkeypatch, caplog):
    caplog.set_level("INFO")
    machine(num_visible=2)
    assert prepare_gpus("auto", "all") == []
    assert "TensorFlow sees 2 and the driver 3" in caplog.text
    machine(error="Driver Not Loaded")
    assert prepare_gpus("auto", "4") == [4 * 2**30] * 3
    assert "Driver Not Loaded" in caplog.text
    machine()
    monkeypatch.setitem(sys.modules, "pynvml", None)  # The import fails as if it were not installed.
    assert prepare_gpus("auto", "growth") == []
    assert "requirements-gpu.txt" in caplog.text


def test_the_fullest_gpu_decides(monkeypatch):
    used = {"GPU:0": 5, "GPU:1": 30}
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: list(used))
    monkeypatch.setattr(tf.config.experimental, "get_memory_info", lambda name: {"current": used[name]})
    assert device_memory(tf.distribute.get_strategy(), [100, 110]) == 80
    assert device_memory(tf.distribute.get_strategy(), []) is None


@pytest.mark.parametrize("value", ["0", "-1", "inf", "nan", "half"])
def test_a_wrong_amount_of_memory_is_refused(value, capsys):
    with pytest.raises(SystemExit):
        parse_centre_options([f"--gpu_memory={value}"])
    assert f"--gpu_memory is {value}." in capsys.readouterr().err


@pytest.mark.long
def test_gpus_are_prepared_before_tensorflow_uses_a_device(data):
    """TensorFlow refuses to split a device that it has used."""
    program = f"""
import train_centre
from nets.start_tensorflow import start_tensorflow
start_tensorflow()
import tensorflow as tf
from training import session

def prepare(kind, memory):
    (processor,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * 2)
    print(kind, memory)
    raise SystemExit

session.prepare_gpus = prepare
train_centre.main({flags(data, backbone="ir32", strategy="one", gpu_memory=3)})
"""
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.stdout.splitlines()[-1:] == ["one 3"], ended.stderr
