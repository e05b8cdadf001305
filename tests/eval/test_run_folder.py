"""Tests that each model, set and way of scoring has its own default folder."""

from itertools import combinations
from pathlib import Path

import pytest

from eval.report.run_folder import default_output


@pytest.fixture(autouse=True)
def in_project(tmp_path, monkeypatch):
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")


def test_the_folder_is_named_after_the_model_path():
    assert default_output("ytf", Path("output/ckpt"), False) == Path("output/ytf/output--ckpt")
    assert default_output("lfw", Path("net.keras"), True) == Path("output/lfw/net.keras--faithful")


def test_the_same_model_by_another_path_has_the_same_folder():
    paths = (Path("output/ckpt"), Path("./output/../output/ckpt"), Path("output/ckpt").absolute())
    assert len({default_output("ytf", path, False) for path in paths}) == 1


def test_other_models_sets_and_modes_have_other_folders():
    long = "語" * 80
    models = [
        "output/ckpt",
        "output/vgg-triplet/ckpt",
        "output--ckpt",
        "a-/b",
        "a--b",
        "a/-b",
        "a",
        "a/faithful",
    ]
    models += ["../ckpt", "../output/ckpt", "/output/ckpt", f"{long}/a", f"{long}/b"]
    outputs = [default_output("ytf", Path(model), faithful) for model in models for faithful in (False, True)]
    assert all(first != second for first, second in combinations(outputs, 2))
    assert all(len(str(output.name).encode()) <= 230 and output.parent.name == "ytf" for output in outputs)
