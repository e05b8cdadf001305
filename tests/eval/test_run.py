import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from eval.report.runs import read_run, write_run
from tests.eval.fake_run import make_run

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "made", num_people=12, pairs_per_fold=8, num_hardest=2)


@pytest.fixture
def folder(made, tmp_path):
    """A copy to break."""
    return shutil.copytree(made.folder, tmp_path / "run")


def change_scores(folder, change):
    path = folder / "scores.json"
    scores = json.loads(path.read_text())
    change(scores)
    path.write_text(json.dumps(scores))


def change_arrays(folder, change):
    path = folder / "pairs.npz"
    with np.load(path) as file:
        arrays = dict(file)
    change(arrays)
    np.savez(path, **arrays)


def test_round_trip(made):
    run = read_run(str(made.folder))
    assert run.scores == made.scores
    assert run.label == "iter_258000_lfw_0.99133_ytf_0.95900"
    assert run.arrays.keys() == made.arrays.keys()
    for name, array in made.arrays.items():
        assert run.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(run.arrays[name], array)


def test_same_run_same_bytes(made, folder):
    write_run(folder, made.scores, made.arrays)
    for name in ("scores.json", "pairs.npz"):
        assert (folder / name).read_bytes() == (made.folder / name).read_bytes()


def test_what_is_returned_is_what_will_be_read(made, folder):
    curve = tuple(made.scores["frames_curve"])
    run = write_run(folder, {**made.scores, "frames_curve": curve}, made.arrays)
    assert run.scores == read_run(folder).scores


@pytest.mark.parametrize(("error_filter", "number"), [("none", 0), ("both", 1), ("positives", 2)])
def test_line_number(folder, error_filter, number):
    change_scores(folder, lambda scores: scores.update(error_filter=error_filter))
    assert read_run(folder).line_number == number


def test_scores_come_last(made, folder, monkeypatch):
    """A folder with scores is whole, also where an earlier run is replaced."""

    def fail(file, **arrays):
        assert not (folder / "scores.json").exists()
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(OSError, match="disk full"):
        write_run(folder, made.scores, made.arrays)
    assert not (folder / "scores.json").exists()
    with pytest.raises(FileNotFoundError, match=r"run: expected a run with scores.json, received none"):
        read_run(folder)


@pytest.mark.parametrize("name", ["scores.json", "pairs.npz"])
def test_missing_file(folder, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"run: expected a run with {name}, received none"):
        read_run(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update(version=2), "version: expected 1, received 2"),
        (lambda s: s.pop("rule"), "scores: expected key 'rule', received version, name, set"),
        (lambda s: s.update(name=3), "scores.name: expected str, received '3'"),
        (lambda s: s.update(faithful=1), "scores.faithful: expected bool, received '1'"),
        (lambda s: s.update(lines={}), "scores.lines: expected list, received '{}'"),
        (
            lambda s: s.update(method="best"),
            "method: expected one of mean, normalised_mean, .* received 'best'",
        ),
        (lambda s: s.update(rule="worst"), "rule: expected one of best, crossing, received 'worst'"),
        (lambda s: s.update(folds="odd"), "folds: expected one of official, position, received 'odd'"),
        (lambda s: s.update(error_filter="all"), "error_filter: expected one of none, both, positives"),
        (lambda s: s.update(error_match="near"), "error_match: expected one of exact, substring"),
        (lambda s: s["inputs"].update(ytf_error={}), "scores.inputs.ytf_error: expected key 'path'"),
        (lambda s: s["inputs"]["model"].pop("sha256"), "scores.inputs.model: expected key 'sha256'"),
        (
            lambda s: s["inputs"]["frames"].update(crop=[1]),
            "inputs.frames.crop: expected 2 items, received 1",
        ),
        (
            lambda s: s["coverage"].update(videos=True),
            "scores.coverage.videos: expected int, received 'True'",
        ),
        (lambda s: s["coverage"]["missing"].append(1), r"scores.coverage.missing\[0\]: expected str"),
        (lambda s: s["coverage"]["unusable"].update(a=1), "scores.coverage.unusable.a: expected str"),
        (lambda s: s["lines"].pop(), "scores.lines: expected 3 items, received 2"),
        (lambda s: s["lines"][1].update(accuracy="1"), r"lines\[1\].accuracy: expected int or float or null"),
        (
            lambda s: s["lines"][2]["fold_sizes"].pop(),
            r"lines\[2\].fold_sizes: expected 10 items, received 9",
        ),
        (lambda s: s["methods"]["mean"]["lines"].pop(), "methods.mean.lines: expected 3 items, received 2"),
        (lambda s: s["methods"]["mean"]["intervals"].update(eer=[1]), "intervals.eer: expected 2 items"),
        (lambda s: s["frames_curve"][0].pop("eer"), r"scores.frames_curve\[0\]: expected key 'eer'"),
        (
            lambda s: s["hardest"]["genuine"][1].update(picture="../a.jpg"),
            r"genuine\[1\].picture: expected a p",
        ),
        (lambda s: s["hardest"]["genuine"][1].update(picture="/a.jpg"), "inside the run, received '/a.jpg'"),
        (lambda s: s["hardest"]["impostor"][0].update(pair=80), "expected pairs from 0 to 79, received 80"),
        (lambda s: s["hardest"]["impostor"][0].update(pair=-1), "expected pairs from 0 to 79, received -1"),
        (lambda s: s["methods"].pop("mean"), "expected arrays first, .* received first, .*distances/mean"),
    ],
)
def test_wrong_scores(folder, change, message):
    change_scores(folder, change)
    with pytest.raises(ValueError, match=message) as raised:
        read_run(folder)
    assert str(raised.value).startswith(str(folder))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "scores.json: expected JSON, received"),
        (b'{"version": 1', "scores.json: expected JSON, received"),
        (b"[]", "scores.json: scores: expected dict, received"),
        (b'{"version": NaN}', "scores.json: expected JSON, received the number NaN"),
        (b"\xff\xfe\xfd", "scores.json: expected JSON, received"),
    ],
)
def test_not_scores(folder, content, message):
    (folder / "scores.json").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_run(folder)


def set_item(name, place, value):
    return lambda arrays: arrays[name].__setitem__(place, value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda a: a.pop("splits"),
            "expected arrays first, second, .* received first, second, is_same, used",
        ),
        (lambda a: a.update(more=a["splits"]), "received .*more"),
        (lambda a: a.update(first=a["splits"]), r"first: expected text of shape \(80,\), received int64"),
        (lambda a: a.update(is_same=a["splits"]), "is_same: expected bool of shape"),
        (lambda a: a.update(second=a["second"][1:]), r"shape \(80,\), received .* of shape \(79,\)"),
        (lambda a: a.update(used=a["used"][:2]), r"used: expected bool of shape \(3, 80\), received bool"),
        (lambda a: a.update(folds=a["folds"] + 0.5), "folds: expected integer of shape"),
        (
            set_item("distances/mean", 7, np.nan),
            "distances/mean: expected finite distances, received nan for pair 7",
        ),
        (
            set_item("folds", (1, 3), 11),
            r"folds of line 1: expected those of the scores, \[1, 2.*received 11",
        ),
        (
            lambda a: a["used"].__iand__(a["is_same"]),
            "used of line 0: expected genuine and impostor pairs, received 40 and 0",
        ),
    ],
)
def test_wrong_arrays(folder, change, message):
    change_arrays(folder, change)
    with pytest.raises(ValueError, match=message) as raised:
        read_run(folder)
    assert str(raised.value).startswith(str(folder / "pairs.npz"))


class Hostile:
    def __reduce__(self):
        return Path.touch, (self.path,)


def test_nothing_is_unpickled(folder, tmp_path):
    Hostile.path = tmp_path / "was_here"
    change_arrays(folder, lambda arrays: arrays.update(first=np.array([Hostile()] * 80)))
    with pytest.raises(ValueError, match=r"pairs.npz: expected arrays of NumPy"):
        read_run(folder)
    assert not Hostile.path.exists()


@pytest.mark.parametrize("length", [0, 3, 1000])
def test_cut_arrays(folder, length):
    path = folder / "pairs.npz"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match=r"pairs.npz: expected arrays of NumPy"):
        read_run(folder)


@pytest.mark.parametrize(
    ("scores", "arrays"),
    [
        ({"rule": "worst"}, {}),
        ({"name": np.float64("nan")}, {}),
        ({"name": b"name"}, {}),
        ({}, {"splits": np.zeros(3, int)}),
        ({}, {"first": np.array([None] * 80)}),
    ],
)
def test_what_cannot_be_read_is_not_written(made, tmp_path, scores, arrays):
    with pytest.raises(ValueError, match=r"scores.json|pairs.npz"):
        write_run(tmp_path / "new", {**made.scores, **scores}, {**made.arrays, **arrays})
    assert not (tmp_path / "new").exists()


def test_reading_needs_numpy_only():
    program = (
        "import sys, eval.report.runs, eval.report\n"
        "print({'matplotlib', 'sklearn', 'tensorflow'} & set(sys.modules))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert run.stdout.strip() == "set()", run.stderr
