"""Runs the fenced commands and examples of a page of the documentation."""

import configparser
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

from tests.first_party import ROOT

_FENCE = re.compile(r"^( *)```(bash|python|ini)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)


def run_page(page, folder, preamble="", smaller=()):
    """Runs the blocks of a page in order. Settings go to `config.ini`, a copy of the example at first.

    Args:
        page: name of the page in `docs/`, without `.md`.
        folder: Path of the folder to run in.
        preamble: Python code that runs before each example.
        smaller: pairs of a text in a block and what to run in its place.

    Raises:
        AssertionError: the page has no block, a text of `smaller` is not on the page, or a block fails.
    """
    text = (ROOT / "docs" / f"{page}.md").read_text()
    blocks = [(language, textwrap.dedent(code)) for _, language, code in _FENCE.findall(text)]
    assert blocks
    assert all(old in text for old, _ in smaller)
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    for language, code in blocks:
        if language == "ini":
            _add_settings(folder / "config.ini", code)
            continue
        # The packages are installed.
        code = re.sub(r"^pip install .*\n", "", code, flags=re.MULTILINE)
        for old, new in smaller:
            code = code.replace(old, new)
        if code.endswith(" --check\n"):  # The text says to run it again without.
            code += code.removesuffix(" --check\n")
        command = ["bash", "-euc", code] if language == "bash" else [sys.executable, "-c", preamble + code]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"


def _add_settings(path, settings):
    config = configparser.ConfigParser(interpolation=None)
    config.optionxform = str
    config.read(path if path.exists() else ROOT / "config.ini.example")
    config.read_string(settings)
    with path.open("w") as file:
        config.write(file)
