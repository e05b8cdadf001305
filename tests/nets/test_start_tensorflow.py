"""Tests that TensorFlow starts with oneDNN, and that only the lines that it always writes are hidden."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from nets import start_tensorflow as module

ROOT = Path(__file__).parents[2]
NOISE = (
    b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n",
    b"I0000 00:00:1795806138.880462   10862 port.cc:153] oneDNN custom operations are on. You may see\n",
)
CUDA = (
    b"I0000 00:00:1795806138.880733   10862 cudart_stub.cc:31] Could not find cuda drivers on your machine\n",
    b"E0000 00:00:1795806146.372584   10862 cuda_platform.cc:52] failed call to cuInit: INTERNAL: CUDA\n",
)
OTHERS = (
    b"W0000 00:00:1795806146.372584   10862 gpu_device.cc:2340] Cannot dlopen some GPU libraries.\n",
    b"F0000 00:00:1795806146.372584   10862 cpu_feature_guard.cc:37] compiled to use AVX instructions\n",
    b"Traceback: oneDNN custom operations are on.\n",
)


@pytest.mark.parametrize("has_gpu", [False, True])
def test_only_known_lines_are_hidden(capfd, monkeypatch, tmp_path, has_gpu):
    """On a machine with a GPU, `failed call to cuInit` is a real error."""
    monkeypatch.setattr(module, "_GPUS", (tmp_path if has_gpu else tmp_path / "nvidia0",))
    with module._hide_lines(module._noise_patterns()):
        for line in (*NOISE, *CUDA, *OTHERS):
            os.write(2, line)
    os.write(2, b"after\n")
    shown = [*CUDA] * has_gpu + [*OTHERS, b"after\n"]
    assert capfd.readouterr().err == b"".join(shown).decode()


def run(program, **environment):
    inherited = {name: value for name, value in os.environ.items() if name != "TF_ENABLE_ONEDNN_OPTS"}
    environment = {**inherited, **environment}
    command = [sys.executable, "-c", f"import os\nfrom nets import start_tensorflow as module\n{program}"]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=120)


def test_lines_before_a_crash_are_shown():
    ended = run(f"with module._hide_lines(module._noise_patterns()): os.write(2, {OTHERS[1]!r}); os.abort()")
    assert ended.returncode < 0 and OTHERS[1] in ended.stderr


@pytest.mark.skipif(any(Path(device).exists() for device in module._GPUS), reason="CUDA may say more")
def test_starting_tensorflow_writes_nothing():
    """Fails once another version of TensorFlow writes other lines."""
    ended = run("module.start_tensorflow()", TF_CPP_MIN_LOG_LEVEL="2")
    assert (ended.returncode, ended.stderr) == (0, b"")


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="TensorFlow may lack oneDNN")
@pytest.mark.parametrize("choice", [{}, {"TF_ENABLE_ONEDNN_OPTS": "0"}])
def test_onednn_is_on_unless_the_user_turns_it_off(choice):
    ended = run("module.start_tensorflow()", TF_CPP_MIN_LOG_LEVEL="0", **choice)
    assert (b"oneDNN custom operations are on" in ended.stderr) == (not choice)
