"""Refuses phrases that read badly, in all text of the repository."""

import re
import subprocess

import pytest

from tests.first_party import ROOT

PHRASES = (
    # words
    "beside",
    "alike",
    "anew",
    "at hand",
    "thereof",
    "of which",
    r"(?<!there\s)(?-i:is none)",
    "files are none",
    "for want of",
    "all else",
    # sentences that were found here once
    "faces in video above all",
    "(is|are)? put right",
    "(GPUs|devices) there are",
    "what came out",
    "where (things are|it stops)",
    "the first whole",
    "(before|after) (the|a) night",
    "a line each",
    "which net it is",
    "nobody's result",
    "than they teach",
    "command goes on",
    "goes on from there",
    "with what is done once",
    "even if it is there",
    "TensorFlow's form",
    "the say on",
    "which are fewer",
    "at fault for",
    "not found out after",
    "_(owed|settle|look)",
)
PATTERN = re.compile(rf"(?<!\w)({'|'.join(PHRASES)})(?!\w)".replace(" ", r"[\s#*]+"), re.IGNORECASE)
# Jinja's `is none` is code.
CODE = re.compile(r"\{[{%].*?[%}]\}", re.DOTALL)


def tracked_files():
    if not (ROOT / ".git").exists():
        pytest.skip("not a clone")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True)
    names = [name for name in listed.stdout.split("\0") if name and name != "tests/test_wording.py"]
    return [name for name in names if (ROOT / name).is_file() and b"\0" not in (ROOT / name).read_bytes()]


def find_phrases(text):
    """Returns `(line number, phrase)` of each refused phrase."""
    text = CODE.sub(lambda code: "\n" * code[0].count("\n"), text)
    return [(text.count("\n", 0, found.start()) + 1, found[0]) for found in PATTERN.finditer(text)]


def test_find_phrases():
    text = "A line.\nIt lies beside\n# the others; all\n    # else is none. Where things are: Anew."
    assert find_phrases(text) == [
        (2, "beside"),
        (3, "all\n    # else"),
        (4, "is none"),
        (4, "Where things are"),
        (4, "Anew"),
    ]
    assert find_phrases("if there is none, besides; x is not None {{ x is none }} a likely one") == []


def test_no_refused_phrase():
    found = {
        name: [
            f"line {line}: {phrase}"
            for line, phrase in find_phrases((ROOT / name).read_text(errors="replace"))
        ]
        for name in tracked_files()
    }
    assert {name: phrases for name, phrases in found.items() if phrases} == {}
