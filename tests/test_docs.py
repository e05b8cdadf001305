"""Tests that the files, headings, programs and tests that the documentation names exist."""

import collections
import functools
import os
import re
from pathlib import Path

import pytest

from benchmarks.start_up import programs
from docs.site_extensions.parsers import find_parser
from tests.first_party import ROOT

PAGES = [str(path.relative_to(ROOT / "docs")) for path in sorted((ROOT / "docs").rglob("*.md"))]
PAGES += ["../README.md", "../CONTRIBUTING.md", "../CHANGELOG.md"]
PAGES += ["../benchmarks/README.md", "../benchmarks/gpu.md"]
all_programs = functools.cache(programs)
TESTS = collections.defaultdict(str)  # Two folders can have test files of the same name.
for path in (ROOT / "tests").rglob("test_*.py"):
    TESTS[path.name] += path.read_text()
PROGRAMS = ("test_lfw.py", "test_ytf.py")


@pytest.mark.parametrize("page", PAGES)
def test_named_tests_exist(page):
    file = None
    text = (ROOT / "docs" / page).read_text()
    # A name without a file, such as `::test_name`, belongs to the file before it.
    for named, names in re.findall(r"(test_\w+\.py|(?<=`)(?=::))((?:::\w+)*)", text):
        file = named or file
        if file in PROGRAMS:
            continue
        assert file in TESTS
        for name in names.split("::")[1:]:
            assert re.search(rf"\b(def|class) {name}\b", TESTS[file]), f"{file} has no {name}"


@functools.cache
def text_and_headings(path):
    """Returns the text without code blocks, and the anchors that code-hosting sites give its headings."""
    text = re.sub(r"^( *)(```+|~~~+).*?^\1\2", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)", text, re.MULTILINE)
    return text, {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings(page):
    path = ROOT / "docs" / page
    for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^):]*))?\)", text_and_headings(path)[0]):
        file = Path(os.path.normpath(path.parent / target)) if target else path
        assert file.exists(), target
        if anchor:
            assert anchor in text_and_headings(file)[1], f"{target}#{anchor}"


def test_all_pages_are_in_the_site():
    index = (ROOT / "docs/index.md").read_text()
    entries = re.findall(r"```\{toctree\}\n(?::[^\n]*\n)*\n(.*?)```", index, re.DOTALL)
    assert sorted(f"{line}.md" for entry in entries for line in entry.split()) == sorted(
        {*PAGES} - {"index.md"}
    )


def test_fenced_commands_and_examples_are_run():
    fenced = {page for page in PAGES if re.search(r"```(bash|python)", (ROOT / "docs" / page).read_text())}
    tests = "".join(TESTS[f"test_{name}.py"] for name in ("docs_commands", "tutorials", "keras_api"))
    for page in fenced:
        assert re.search(rf"{page}|\"{page.removesuffix('.md')}\"", tests), f"no test runs {page}"


def test_the_reference_has_all_programs():
    pages = "".join(path.read_text() for path in (ROOT / "docs/reference").glob("*.md"))
    documented = re.findall(r"\{program-flags\} (\S+)", pages)
    assert sorted(documented) == [name for name in all_programs() if not name.startswith("benchmarks")]


@functools.cache
def flags_of(program):
    """Returns all flags of a program, including those of its commands."""
    parser = find_parser(program)
    commands = [action.choices.values() for action in parser._actions if hasattr(action, "_parser_class")]
    parsers = [parser, *(command for group in commands for command in group)]
    return {flag for one in parsers for action in one._actions for flag in action.option_strings}


@pytest.mark.parametrize("page", PAGES)
def test_commands_have_known_flags(page):
    text = (ROOT / "docs" / page).read_text().replace("\\\n", " ")
    for program, arguments in re.findall(r"python -m ([\w.]+)([^`\n]*)", text):
        if program in all_programs():
            flags = set(re.findall(r"(?<!\S)--\w+", arguments))
            assert flags <= flags_of(program) | {"--help"}, program
