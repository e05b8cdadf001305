"""The documentation names files and tests that exist."""

import collections
import re
from pathlib import Path

import pytest

from tests.first_party import ROOT

PAGES = [path.name for path in sorted((ROOT / "docs").glob("*.md"))]
TESTS = collections.defaultdict(str)  # two folders can have tests of one name
for path in (ROOT / "tests").rglob("test_*.py"):
    TESTS[path.name] += path.read_text()
PROGRAMS = ("test_lfw.py", "test_ytf.py")


@pytest.mark.parametrize("page", PAGES)
def test_named_tests_exist(page):
    for file, names in re.findall(r"(test_\w+\.py)((?:::\w+)*)", (ROOT / "docs" / page).read_text()):
        if file in PROGRAMS:
            continue
        assert file in TESTS
        for name in names.split("::")[1:]:
            assert re.search(rf"\b(def|class) {name}\b", TESTS[file]), f"{file} has no {name}"


@pytest.mark.parametrize("page", ["../README.md", "../CONTRIBUTING.md", *PAGES])
def test_links_lead_to_files(page):
    path = ROOT / "docs" / page
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text()):
        assert Path(path.parent, target).exists(), target
