from pathlib import Path

import numpy as np
import pytest

from eval.report import __main__ as report
from eval.report import comparison as report_comparison
from eval.report.comparison import comparison_page, paired_difference
from eval.report.runs import Run
from eval.scoring.metrics import FARS, tar_name
from tests.eval.fake_run import changed, make_run
from tests.eval.html_page import HOSTILE, check_stands_alone, parse, rows_of, shown


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "first", num_hardest=0, quality=0.8)


@pytest.fixture(scope="module")
def runs(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    second = make_run(folder / "second", seed=1, name="second & best", num_hardest=0, quality=1.1)
    third = make_run(
        folder / "third", seed=2, name="x" * 90, method="best_frames", num_hardest=0, faithful=True
    )
    return [run, second, third]


@pytest.fixture(scope="module")
def comparison_text(runs):
    return comparison_page(runs)


@pytest.fixture(scope="module")
def comparison(comparison_text):
    return parse(comparison_text)


class TestComparison:
    def test_stands_alone(self, comparison, comparison_text):
        check_stands_alone(comparison, comparison_text)
        assert comparison.find("h1")[0].text == "3 runs compared"
        assert len(comparison.find("svg")) == 6
        assert comparison.find("ul", class_="notes") == []

    def test_table_of_scores(self, runs, comparison):
        rows = list(rows_of(comparison, "Scores of all runs").items())
        assert [name for name, _ in rows] == [
            "Aiter_258000_lfw_0.99133_ytf_0.95900normalised mean",
            "Bsecond & bestnormalised mean",
            f"C{'x' * 90}best frames",
        ]
        for (_, cells), run in zip(rows, runs, strict=True):
            scores = run.scores["methods"][run.scores["method"]]
            metrics, intervals = scores["metrics"], scores["intervals"]
            lines = run.scores["lines"]
            assert cells[:3] == [
                shown(lines[0]["accuracy"], intervals["accuracy"]),
                shown(lines[1]["accuracy"]),
                shown(lines[2]["accuracy"]),
            ]
            assert cells[4:] == [
                shown(lines[0]["threshold"]),
                *(shown(metrics[key], intervals.get(key)) for key in ("eer", "auc", *map(tar_name, FARS))),
            ]
        assert rows[0][1][3] == ""

    def test_differences(self, runs, comparison):
        rows = list(rows_of(comparison, "Scores of all runs").values())
        for cells, run in zip(rows[1:], runs[1:], strict=True):
            one, two = (np.array(other.scores["lines"][0]["fold_accuracies"]) for other in (runs[0], run))
            difference, (low, high) = paired_difference(runs[0], run)
            assert difference == pytest.approx(np.mean(two - one))
            assert cells[3] == f"{difference:+.4f}{low:+.4f} to {high:+.4f}".replace("-", "−")
        assert rows[1][3].startswith("+")
        assert rows[2][3] != rows[1][3]

    def test_interval_of_a_difference(self, runs):
        first = changed(runs[0], bootstrap={"num_resamples": 4000, "confidence": 0.8})
        one, two = (np.array(run.scores["lines"][0]["fold_accuracies"]) for run in runs[:2])
        drawn = (two - one)[np.random.default_rng(5).integers(10, size=(4000, 10))].mean(axis=1)
        _, interval = paired_difference(first, runs[1])
        np.testing.assert_allclose(
            interval, np.quantile(drawn, [0.1, 0.9]), atol=0.0026
        )  # a pair of one fold

    def test_a_run_does_not_differ_from_itself(self, run):
        assert paired_difference(run, run) == (0.0, (0.0, 0.0))

    def test_all_is_on_the_line_of_the_first(self, runs, monkeypatch):
        drawn = {}
        monkeypatch.setattr(
            report_comparison, "curves_section", lambda about, **parts: drawn.update(parts) or ""
        )
        first = changed(runs[0], error_filter="both")
        other = changed(
            runs[2],
            lines=[
                line | {"threshold": threshold, "accuracy": threshold + 0.05}
                for line, threshold in zip(runs[2].scores["lines"], (0.1, 0.2, 0.3), strict=True)
            ],
        )
        page = parse(comparison_page([first, other]))
        [notes] = page.find("ul", class_="notes")
        assert notes.text == "EER, AUC and TAR are of different lines. See the settings below."
        cells = list(rows_of(page, "Scores of all runs").values())[1]
        interval = other.scores["methods"]["best_frames"]["intervals"]["accuracy"]
        assert cells[:3] == [shown(0.15, interval), shown(0.25), shown(0.35)]
        assert cells[4] == shown(0.2)
        one, two = (np.mean(run.scores["lines"][1]["fold_accuracies"]) for run in (first, other))
        assert paired_difference(first, other)[0] == pytest.approx(two - one)

        used = other.arrays["used"][1]
        assert np.count_nonzero(~used) > 0
        for distances, is_same in (drawn["curves"][1][1:], drawn["panels"][1][1:3]):
            np.testing.assert_array_equal(distances, other.arrays["distances/best_frames"][used])
            np.testing.assert_array_equal(is_same, other.arrays["is_same"][used])
        assert drawn["panels"][1][3] == 0.2
        assert drawn["splits"][1][2] == other.scores["lines"][1]["fold_accuracies"]
        # The interval of the other run is one of another line.
        assert [entry[2:] for entry in drawn["accuracies"]] == [
            (
                first.scores["lines"][1]["accuracy"],
                first.scores["methods"]["normalised_mean"]["intervals"]["accuracy"],
            ),
            (0.25, None),
        ]

    def test_settings_that_differ_are_marked(self, comparison):
        [table] = comparison.find("div", **{"aria-label": "Settings and inputs of all runs"})
        marked = [row.find("th")[0].text for row in table.find("tr", class_="chosen")]
        assert marked == [
            "Distances by",
            "Mode",
            *(f"SHA-256 of the {name}" for name in ("model", "splits", "frames")),
        ]
        rows = rows_of(comparison, "Settings and inputs of all runs")
        assert rows["Distances by"] == ["normalised mean", "normalised mean", "best frames"]
        assert rows["Mode"] == ["default", "default", "faithful"]
        assert rows["Frames"] == ["112 × 112, no crop, no mirror images"] * 3

    def test_legends_have_short_labels(self, comparison):
        texts = [element.text for element in comparison.find("svg")[0].find("text")]
        assert "B: second & best" in texts
        assert f"C: {'x' * 21}…{'x' * 21}" in texts

    def test_fewer_shared_pairs(self, run):
        fewer = {name: array[..., :150] for name, array in run.arrays.items()}
        other = Run(run.folder, run.scores, fewer)
        assert paired_difference(run, other) == (None, None)
        page = parse(comparison_page([run, other]))
        [notes] = page.find("ul", class_="notes")
        assert notes.text == (
            "B was scored on other pairs than A: 150 of its 150 are among the 400 of A. "
            "So there is no difference to show."
        )
        assert list(rows_of(page, "Scores of all runs").values())[1][3] == "–"

    def test_other_folds(self, run):
        folds = np.roll(run.arrays["folds"], 1, axis=1)
        page = parse(comparison_page([run, Run(run.folder, run.scores, {**run.arrays, "folds": folds})]))
        assert page.find("ul", class_="notes")[0].text == (
            "B was scored in other folds than A. So there is no difference to show."
        )

    @pytest.mark.parametrize("name", ["is_same", "folds", "second"])
    def test_pairs_that_differ_otherwise(self, run, name):
        other = {**run.arrays, name: run.arrays[name][..., ::-1]}
        assert paired_difference(run, Run(run.folder, run.scores, other)) == (None, None)

    def test_no_shared_pairs(self, run):
        other = {**run.arrays, "first": np.char.add(run.arrays["first"], "x")}
        other = Run(Path("other"), run.scores, other)
        with pytest.raises(
            ValueError, match=r"other: expected pairs that .*first has too, received none of its 400"
        ):
            comparison_page([run, other])

    def test_too_many_runs(self, run):
        with pytest.raises(ValueError, match="expected 2 to 26 runs to compare, received 27"):
            comparison_page([run] * 27)

    def test_single_fold(self, run):
        lines = [
            {key: value[:1] if isinstance(value, list) else value for key, value in line.items()}
            for line in run.scores["lines"]
        ]
        single = changed(run, lines=lines)
        assert paired_difference(single, single) == (0.0, None)
        empty = changed(run, lines=[line | {"fold_accuracies": []} for line in lines])
        assert paired_difference(empty, empty) == (None, None)

    def test_sets_and_rules_that_differ(self, run):
        page = parse(comparison_page([run, changed(run, set="other", rule="crossing")]))
        assert page.find("ul", class_="notes")[0].text == (
            "The sets have different names. See the settings below."
            "Thresholds were found by different rules. See the settings below."
        )

    def test_escapes_everything(self, run):
        hostile = changed(run, name=HOSTILE, set=HOSTILE, inputs={"model": {"path": "", "sha256": HOSTILE}})
        text = comparison_page([hostile, hostile])
        page = parse(text)
        check_stands_alone(page, text)
        assert "alert" not in page.find("style")[0].text
        assert page.find("title")[0].text == f"Comparison: {HOSTILE}, {HOSTILE}"
        assert list(rows_of(page, "Scores of all runs"))[1] == f"B{HOSTILE}normalised mean"
        assert rows_of(page, "Settings and inputs of all runs")["Set"] == [HOSTILE, HOSTILE]

    def test_program(self, runs, comparison_text):
        report.main([str(run.folder) for run in runs])
        path = runs[0].folder.parent / "comparison.html"
        assert path.read_text(encoding="utf-8") == comparison_text
