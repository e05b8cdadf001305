import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from eval.report import words
from eval.scoring.evaluation_run import ByErrorFilter, read_run, write_run
from eval.scoring.ytf_protocol import ERROR_FILTERS
from tests.eval.fake_run import changed, make_run

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "made", num_people=12, pairs_per_fold=8, num_hardest=2)


@pytest.fixture
def folder(made, tmp_path):
    """A copy of the run, for tests that change it."""
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


def arrays_of(pairs):
    """Returns all arrays of the pairs by name."""
    arrays = {
        f"{name}/{key}": array
        for name in ("used", "folds")
        for key, array in getattr(pairs, name)._asdict().items()
    }
    arrays |= {f"distances/{name}": array for name, array in pairs.distances.items()}
    return arrays | {name: getattr(pairs, name) for name in ("first", "second", "is_same", "splits")}


def test_a_written_run_is_read_back(made):
    run = read_run(made.folder)
    assert run.folder == made.folder
    assert run.scores == made.scores
    arrays, expected = arrays_of(run.pairs), arrays_of(made.pairs)
    assert arrays.keys() == expected.keys()
    for name, array in expected.items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array)


def test_the_same_run_gives_the_same_bytes(made, folder):
    run = read_run(made.folder)
    write_run(folder, run.scores, run.pairs)
    for name in ("scores.json", "pairs.npz"):
        assert (folder / name).read_bytes() == (made.folder / name).read_bytes()


def test_version_1_keeps_its_format(made):
    """Other versions of the program read these keys, in this order, and these arrays."""
    scores = json.loads((made.folder / "scores.json").read_text())
    assert " ".join(scores) == (
        "version name set faithful command versions inputs engine model coverage method rule folds "
        "error_filter error_match lines methods frames_curve bootstrap hardest"
    )
    assert scores["version"] == 1
    assert [line["name"] for line in scores["lines"]] == list(ERROR_FILTERS.values())
    assert " ".join(scores["lines"][0]) == (
        "name num_pairs num_genuine accuracy std threshold folds fold_accuracies fold_thresholds fold_sizes"
    )
    assert list(scores["methods"]["mean"]) == ["lines", "std", "threshold", "metrics", "intervals"]
    assert scores["methods"]["mean"]["lines"] == list(made.scores.methods["mean"].lines)
    assert list(scores["inputs"]["frames"]) == ["path", "sha256", "image_size", "crop", "flip"]
    assert scores["inputs"]["frames"]["image_size"] == [112, 112]
    with np.load(made.folder / "pairs.npz") as file:
        names = [f"distances/{method}" for method in made.scores.methods]
        assert file.files == ["first", "second", "is_same", "splits", "used", "folds", *names]
        np.testing.assert_array_equal(file["used"][2], made.pairs.used.positives)


def test_runs_of_earlier_versions_can_be_read(folder):
    change_scores(folder, lambda scores: [scores.pop(name) for name in ("engine", "model")])
    run = read_run(folder)
    assert run.scores.engine is run.scores.model is None
    assert words.title(run.scores) == f"{run.scores.name}: ytf"


def test_write_run_returns_what_read_run_returns(made, folder):
    run = write_run(folder, dataclasses.replace(made.scores, frames_curve=[]), made.pairs)
    assert run.scores == read_run(folder).scores


def test_lines_are_named_by_the_error_filters():
    assert ByErrorFilter._fields == tuple(ERROR_FILTERS)


def test_error_filter_chooses_the_line(made):
    for error_filter in ERROR_FILTERS:
        run = changed(made, error_filter=error_filter)
        assert run.line.name == ERROR_FILTERS[error_filter]
        assert run.named_lines[error_filter] == run.line


def test_a_line_with_the_scores_of_another_one_is_left_out(made):
    lines = {name: dataclasses.asdict(made.scores.lines.both) | {"name": name} for name in ERROR_FILTERS}
    lines["none"] |= {"accuracy": 0.5}
    for error_filter, expected in (
        ("none", ["none", "both"]),
        ("both", ["none", "both"]),
        ("positives", ["none", "positives"]),
    ):
        assert list(changed(made, error_filter=error_filter, lines=lines).named_lines) == expected


def test_verdicts_agree_with_the_accuracies(made):
    for error_filter in ERROR_FILTERS:
        verdicts, line = made.verdicts(error_filter), made.scores.lines.select(error_filter)
        folds = made.pairs.folds.select(error_filter)
        accuracies = [np.mean(verdicts[folds == fold] == "right") for fold in line.folds]
        assert accuracies == pytest.approx(line.fold_accuracies)
        np.testing.assert_array_equal(verdicts == "not scored", ~made.pairs.used.select(error_filter))
        assert "wrong" in verdicts


@pytest.mark.parametrize(("rule", "verdicts"), [("best", ["wrong", "right"]), ("crossing", ["wrong"] * 2)])
def test_the_rule_decides_about_ties_with_the_threshold(made, rule, verdicts):
    pairs = [np.flatnonzero(made.pairs.is_same == kind)[0] for kind in (True, False)]
    distances = made.distances.copy()
    distances[pairs] = made.thresholds("none")[pairs]
    run = changed(made, {"distances": {made.scores.method: distances}}, rule=rule)
    assert run.verdicts("none")[pairs].tolist() == verdicts


def test_scores_are_written_last(made, folder, monkeypatch):
    """A folder with scores is complete, even if an earlier run is replaced."""

    def fail(file, **arrays):
        assert not (folder / "scores.json").exists()
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(OSError, match="disk full"):
        write_run(folder, made.scores, made.pairs)
    assert not (folder / "scores.json").exists()
    with pytest.raises(FileNotFoundError, match=r"run/scores.json"):
        read_run(folder)


@pytest.mark.parametrize("name", ["scores.json", "pairs.npz"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"run/{name}"):
        read_run(folder)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda s: s.update(version=2), ", version: expected 1, received 2"),
        (lambda s: s.pop("version"), ", version: expected 1, received None"),
        (lambda s: s.pop("rule"), ": expected key 'rule', received version, name, set"),
        (lambda s: s.update(name=3), ", name: expected str, received '3'"),
        (lambda s: s.update(method="best"), ": method: "),
        (lambda s: s.update(rule="worst"), ": rule: "),
        (lambda s: s.update(folds="odd"), ": folds: "),
        (lambda s: s.update(error_filter="all"), ": error_filter: "),
        (lambda s: s.update(error_match="near"), ": error_match: "),
        (lambda s: s["inputs"].update(ytf_error={}), ", inputs.ytf_error: expected key 'path'"),
        (lambda s: s["inputs"]["frames"].update(crop=[1]), ", inputs.frames.crop: expected 2 items"),
        (lambda s: s["coverage"]["missing"].append(1), ", coverage.missing[0]: expected str"),
        (lambda s: s["model"].update(date="yesterday"), ", model: "),
        (lambda s: s["lines"].pop(), ", lines: expected 3 items, received 2"),
        (lambda s: s["lines"][1].update(accuracy="1"), ", lines[1].accuracy: expected float"),
        (lambda s: s["lines"][2]["fold_sizes"].pop(), ", lines[2]: fold_sizes: "),
        (lambda s: s["lines"][2].update(folds=[1]), ", lines[2]: folds: "),
        (lambda s: s["methods"]["mean"]["lines"].pop(), ", methods.mean.lines: expected 3 items"),
        (lambda s: s["methods"]["mean"]["intervals"].update(eer=[1]), ", methods.mean.intervals.eer: "),
        (lambda s: s["hardest"]["genuine"][1].update(picture="../a.jpg"), ", hardest.genuine[1]: picture: "),
        (lambda s: s["hardest"]["genuine"][1].update(picture="/a.jpg"), ", hardest.genuine[1]: picture: "),
        (lambda s: s["hardest"]["genuine"][1].update(picture=""), ", hardest.genuine[1]: picture: "),
    ],
)
def test_wrong_scores_are_refused_with_their_place(folder, change, place):
    change_scores(folder, change)
    with pytest.raises(ValueError) as raised:
        read_run(folder)
    assert str(raised.value).startswith(f"{folder / 'scores.json'}{place}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["hardest"]["impostor"][0].update(pair=80), "names pair 80"),
        (lambda s: s["hardest"]["impostor"][0].update(pair=-1), "names pair -1"),
        (lambda s: s["methods"].pop("mean"), "expected arrays first, .* received first, .*distances/mean"),
    ],
)
def test_scores_that_do_not_fit_the_pairs_are_refused(folder, change, message):
    change_scores(folder, change)
    with pytest.raises(ValueError, match=message) as raised:
        read_run(folder)
    assert str(raised.value).startswith(str(folder / "pairs.npz"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "scores.json: not JSON"),
        (b'{"version": 1', "scores.json: not JSON"),
        (b"[]", "scores.json: expected object"),
        (b'{"version": NaN}', "scores.json: .*NaN"),
        (b"\xff\xfe\xfd", "scores.json: not JSON"),
    ],
)
def test_files_that_are_not_scores_are_refused(folder, content, message):
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
        (set_item("distances/mean", 7, np.nan), "distances/mean: .* received nan for pair 7"),
        (set_item("folds", (1, 3), 11), r"folds, line both: .*received 11"),
        (lambda a: a["used"].__iand__(a["is_same"]), "used, line none: expected genuine and impostor pairs"),
    ],
)
def test_wrong_arrays_are_refused(folder, change, message):
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
    with pytest.raises(ValueError, match=r"pairs.npz: "):
        read_run(folder)
    assert not Hostile.path.exists()


@pytest.mark.parametrize("length", [0, 3, 1000])
def test_truncated_arrays_are_refused(folder, length):
    path = folder / "pairs.npz"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match=r"pairs.npz: "):
        read_run(folder)


@pytest.mark.parametrize(
    ("scores", "pairs"),
    [
        ({"name": np.float64("nan")}, {}),
        ({"name": b"name"}, {}),
        ({"frames_curve": 3}, {}),
        ({}, {"splits": np.zeros(3, int)}),
        ({}, {"first": np.array([None] * 80)}),
    ],
)
def test_unreadable_runs_are_not_written(made, tmp_path, scores, pairs):
    run = changed(made, pairs, **scores)
    with pytest.raises(ValueError, match=r"scores.json|pairs.npz"):
        write_run(tmp_path / "new", run.scores, run.pairs)
    assert not (tmp_path / "new").exists()


def test_reading_a_run_imports_neither_jinja2_nor_matplotlib():
    program = (
        "import sys, eval.scoring.evaluation_run, eval.report.__main__\n"
        "print({'jinja2', 'matplotlib', 'sklearn', 'tensorflow'} & set(sys.modules))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert run.stdout.strip() == "set()", run.stderr
