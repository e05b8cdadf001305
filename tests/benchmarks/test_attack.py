"""Tests that the attack recognises every wrong outcome, and attacks each quick parser with a few files."""

import os
import pickle

import numpy as np
import pytest

from benchmarks.attack import ERROR, KILLED, MEMORY, OTHER, RAN, READ, attack
from benchmarks.malformed_files import PARSERS, Parser

QUICK = [name for name, parser in PARSERS.items() if not parser.imports_tensorflow]
NUM_FILES = 15


def write(folder):
    (folder / "file.txt").write_text("some text\n")


class Reader:
    """Reads the first file, which is valid. Every later call ends in the same way, chosen by name."""

    def __init__(self, name):
        self.name = name
        self.is_first = True

    def __call__(self, folder):
        path = folder / "file.txt"
        match None if self.is_first else self.name:
            case "refuse":
                raise ValueError(f"{path}: expected some text")
            case "name no file":
                raise ValueError("expected some text")
            case "quote everything":
                raise ValueError(f"{path}: received {'x' * 10_000}")
            case "fail":
                raise KeyError(str(path))
            case "fill the memory":
                np.ones(40_000_000)
            case "ask for all memory":
                np.ones(2**40)
            case "die":
                os._exit(3)
            case "obey":
                pickle.loads(b"cposix\nsystem\n(Vtouch RAN\ntR.")
        self.is_first = False


ENDS = {
    "read": READ,
    "refuse": ERROR,
    "name no file": OTHER,
    "quote everything": OTHER,
    "fail": OTHER,
    "fill the memory": MEMORY,
    "ask for all memory": MEMORY,
    "die": KILLED,
    "obey": RAN,
}


def test_every_outcome_gets_its_verdict(tmp_path):
    parsers = {name: Parser(write, Reader(name)) for name in ENDS}
    ends = list(attack([(name, 0) for name in ENDS], seed=0, kept=tmp_path, parsers=parsers))
    assert {end.parser: end.verdict for end in ends} == ENDS
    kept = {end.parser: end.kept for end in ends if end.kept}
    assert kept.keys() == {name for name, verdict in ENDS.items() if verdict not in (READ, ERROR)}
    assert all((folder / "file.txt").is_file() for folder in kept.values())


def test_the_same_seed_breaks_files_in_the_same_way(tmp_path):
    parser = PARSERS["pairs_bin"]
    parser.good(tmp_path)
    good = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def cases(seed):
        return [parser.broken("pairs_bin", good, seed, number) for number in range(30)]

    assert cases(1) == cases(1) != cases(2)
    assert all(files.keys() == good.keys() for _, files in cases(1))


@pytest.mark.parametrize("name", QUICK)
def test_malformed_files_are_read_or_refused(name, ends):
    assert len(ends[name]) == NUM_FILES
    assert not [end for end in ends[name] if end.verdict not in (READ, ERROR)]


@pytest.fixture(scope="module")
def ends():
    """Returns the cases of each quick parser, by its name. One child process reads all files."""
    ends = {name: [] for name in QUICK}
    for end in attack([(name, number) for name in QUICK for number in range(NUM_FILES)], seed=1):
        ends[end.parser].append(end)
    return ends
