import base64

import numpy as np
import pytest

from eval.report import __main__ as report
from eval.report import comparison as report_comparison
from eval.report import words
from eval.report.charts import Charts
from eval.report.comparison import paired_difference
from eval.report.page import comparison_page
from eval.scoring.evaluation_run import ByErrorFilter, EvaluationRun
from eval.scoring.metrics import FARS, tar_name
from tests.eval.fake_run import changed, make_run
from tests.eval.html_page import HOSTILE, check_stands_alone, parse, rows_of, shown


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "first", quality=0.8)


@pytest.fixture(scope="module")
def runs(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    second = make_run(folder / "second", seed=1, name="second & best", quality=1.1)
    third = make_run(folder / "third", seed=2, name="x" * 90, method="best_frames", faithful=True)
    return [run, second, third]


@pytest.fixture(scope="module")
def comparison_text(runs):
    return comparison_page(runs)


@pytest.fixture(scope="module")
def comparison(comparison_text):
    return parse(comparison_text)


class TestComparison:
    def test_the_page_needs_no_other_file(self, comparison, comparison_text):
        check_stands_alone(comparison, comparison_text)
        assert comparison.find("h1")[0].text == "3 runs compared"
        assert len([chart for chart in comparison.find("svg") if "aria-label" in chart.attributes]) == 6
        assert comparison.find("ul", class_="notes") == []

    def test_the_table_shows_the_scores_of_all_runs(self, runs, comparison):
        rows = list(rows_of(comparison, "Scores of all runs").items())
        assert [name for name, _ in rows] == [
            "Aiter_258000_lfw_0.99133_ytf_0.95900normalised mean",
            "Bsecond & bestnormalised mean",
            f"C{'x' * 90}best frames",
        ]
        for (_, cells), run in zip(rows, runs, strict=True):
            metrics, intervals, lines = run.method.metrics, run.method.intervals, run.scores.lines
            digits = words.digits(intervals["accuracy"])
            assert cells[:3] == [
                shown(lines.none.accuracy, intervals["accuracy"]),
                shown(lines.both.accuracy, digits=digits),
                shown(lines.positives.accuracy, digits=digits),
            ]
            assert cells[4:] == [
                shown(lines.none.threshold),
                # The last FAR cannot be measured in any run, so it has no column.
                *(shown(metrics[key], intervals[key]) for key in ("eer", "auc", *map(tar_name, FARS[:2]))),
            ]
        assert rows[0][1][3] == ""

    def test_differences_to_the_first_run_are_shown(self, runs, comparison):
        rows = list(rows_of(comparison, "Scores of all runs").values())
        for cells, run in zip(rows[1:], runs[1:], strict=True):
            one, two = (np.array(other.line.fold_accuracies) for other in (runs[0], run))
            difference, (low, high) = paired_difference(runs[0], run)
            assert difference == pytest.approx(np.mean(two - one))
            digits = words.digits((low, high))
            text = f"{difference:+.{digits}f}{low:+.{digits}f} to {high:+.{digits}f}"
            assert cells[3] == text.replace("-", "−")
        assert rows[1][3].startswith("+")
        assert rows[2][3] != rows[1][3]

    def test_the_interval_of_a_difference_is_that_of_paired_folds(self, runs):
        first = changed(runs[0], bootstrap={"num_resamples": 4000, "confidence": 0.8})
        one, two = (np.array(run.line.fold_accuracies) for run in runs[:2])
        drawn = (two - one)[np.random.default_rng(5).integers(10, size=(4000, 10))].mean(axis=1)
        _, interval = paired_difference(first, runs[1])
        # One pair of a fold changes the mean by at most this tolerance.
        np.testing.assert_allclose(interval, np.quantile(drawn, [0.1, 0.9]), atol=0.0026)

    def test_a_run_does_not_differ_from_itself(self, run):
        assert paired_difference(run, run) == (0.0, (0.0, 0.0))

    def test_everything_is_for_the_line_of_the_first_run(self, runs, monkeypatch):
        drawn = {}

        def record(**parts):
            drawn.update(parts)
            return Charts({}, [], [])

        monkeypatch.setattr(report_comparison, "draw_charts", record)
        first = changed(runs[0], error_filter="both")
        thresholds = {"none": 0.1, "both": 0.2, "positives": 0.3}
        lines = {name: {"threshold": value, "accuracy": value + 0.05} for name, value in thresholds.items()}
        other = changed(runs[2], lines=lines)
        page = parse(comparison_page([first, other]))
        [notes] = page.find("ul", class_="notes")
        assert notes.text == "EER, AUC and TAR are for different selections of pairs. See the settings below."
        cells = list(rows_of(page, "Scores of all runs").values())[1]
        interval = other.method.intervals["accuracy"]
        digits = words.digits(interval)
        assert cells[:3] == [shown(0.15, interval), shown(0.25, digits=digits), shown(0.35, digits=digits)]
        assert cells[4] == shown(0.2)
        one, two = (np.mean(run.scores.lines.both.fold_accuracies) for run in (first, other))
        assert paired_difference(first, other)[0] == pytest.approx(two - one)

        used = other.pairs.used.both
        assert np.count_nonzero(~used) > 0
        curve = drawn["curves"][1]
        np.testing.assert_array_equal(curve.distances, other.pairs.distances["best_frames"][used])
        np.testing.assert_array_equal(curve.is_same, other.pairs.is_same[used])
        assert curve.threshold == 0.2
        assert drawn["lines"][1] == other.scores.lines.both
        # The interval of the other run belongs to another line.
        assert [(bar.accuracy, bar.interval) for bar in drawn["accuracies"]] == [
            (first.scores.lines.both.accuracy, first.method.intervals["accuracy"]),
            (0.25, None),
        ]

    def test_settings_that_differ_are_listed(self, comparison):
        rows = rows_of(comparison, "Settings and inputs that differ")
        assert [name[0] for name in rows] == ["A", "B", "C"]
        [table] = comparison.find("div", **{"aria-label": "Settings and inputs that differ"})
        heads = [head.text for head in table.find("thead")[0].find("th")]
        assert heads == [
            "Run",
            "Method",
            "Mode",
            *(f"SHA-256 of the {name}" for name in ("model", "splits", "frames")),
        ]
        assert [cells[0] for cells in rows.values()] == ["normalised mean", "normalised mean", "best frames"]
        assert [cells[1] for cells in rows.values()] == ["default", "default", "faithful"]

    def test_settings_that_are_the_same_are_listed_once(self, comparison):
        text = comparison.find("dl", class_="facts")[0].text
        for part in ("Modelir50, 258,000 steps", "Frames112 × 112, no crop, no mirror images", "Setytf"):
            assert part in text
        assert "SHA-256" not in text

    def test_the_table_of_differences_is_left_out_if_empty(self, run):
        page = parse(comparison_page([run, run]))
        assert not page.find("div", **{"aria-label": "Settings and inputs that differ"})

    def test_legends_have_short_labels(self, comparison):
        [legend] = comparison.find("ul", class_="legend")
        texts = [item.text for item in legend.find("li")]
        assert "B: second & best" in texts
        assert f"C: {'x' * 21}…{'x' * 21}" in texts

    def test_runs_on_other_pairs_have_no_difference(self, run):
        fewer = {name: getattr(run.pairs, name)[:150] for name in ("first", "second", "is_same", "splits")}
        for name in ("used", "folds"):
            fewer[name] = ByErrorFilter(*(array[:150] for array in getattr(run.pairs, name)))
        fewer["distances"] = {name: array[:150] for name, array in run.pairs.distances.items()}
        other = changed(run, fewer)
        assert paired_difference(run, other) is None
        page = parse(comparison_page([run, other]))
        [notes] = page.find("ul", class_="notes")
        assert notes.text == (
            "No difference is shown for B. It was scored on other pairs than A: A has 150 of its 150 pairs."
        )
        # A column of dashes would say nothing.
        assert "Difference" not in page.find("table")[0].text

    def test_runs_in_other_folds_have_no_difference(self, run):
        folds = ByErrorFilter(*np.roll(run.pairs.folds, 1, axis=1))
        page = parse(comparison_page([run, changed(run, {"folds": folds})]))
        assert page.find("ul", class_="notes")[0].text == (
            "No difference is shown for B. It was scored with other folds than A."
        )

    @pytest.mark.parametrize("name", ["is_same", "second"])
    def test_pairs_that_differ_otherwise(self, run, name):
        other = changed(run, {name: getattr(run.pairs, name)[::-1]})
        assert paired_difference(run, other) is None

    def test_runs_without_a_shared_pair_are_refused(self, run):
        other = changed(run, {"first": np.char.add(run.pairs.first, "x")})
        with pytest.raises(ValueError, match="none of its 400 pairs"):
            comparison_page([run, other])

    def test_too_many_runs_are_refused(self, run):
        with pytest.raises(ValueError, match=r" 26 .* 27"):
            comparison_page([run] * 27)

    def test_sets_and_rules_that_differ_are_pointed_out(self, run):
        page = parse(comparison_page([run, changed(run, set="other", rule="crossing")]))
        assert page.find("ul", class_="notes")[0].text == (
            "The sets have different names. See the settings below."
            "Thresholds were found by different rules. See the settings below."
        )

    def test_texts_are_escaped(self, run):
        hostile = changed(run, name=HOSTILE, set=HOSTILE, inputs={"model": {"sha256": HOSTILE}})
        text = comparison_page([hostile, hostile])
        page = parse(text)
        check_stands_alone(page, text)
        assert "alert" not in page.find("style")[0].text
        assert page.find("title")[0].text == f"Comparison: {HOSTILE}, {HOSTILE}"
        assert list(rows_of(page, "Scores of all runs"))[1] == f"B{HOSTILE}normalised mean"
        assert f"Set{HOSTILE}" in page.find("dl", class_="facts")[0].text


class TestDisagreement:
    @pytest.fixture
    def page(self, runs):
        return parse(comparison_page(runs[:2]))

    def test_disagreements_are_counted(self, runs, page):
        right = [run.verdicts("none") == "right" for run in runs[:2]]
        one, two = right
        assert rows_of(page, "Numbers of pairs by both verdicts") == {
            "A right": [str((one & two).sum()), str((one & ~two).sum())],
            "A wrong": [str((~one & two).sum()), str((~one & ~two).sum())],
        }
        titles = [heading.text for heading in page.find("h3")][:2]
        assert titles == [
            f"Only A is right: {(one & ~two).sum()} pairs",
            f"Only B is right: {(~one & two).sum()} pairs",
        ]
        assert "Pairs on which they disagree" in page.find("nav")[0].text

    def test_the_clearest_disagreements_are_shown(self, runs, page):
        first, second = runs[:2]
        one, two = (run.verdicts("none") == "right" for run in (first, second))
        gaps = sum(np.abs(run.distances - run.thresholds("none")) for run in (first, second))
        names = list(zip(first.pairs.first.tolist(), first.pairs.second.tolist(), strict=True))
        lists = page.find("div", class_="pairs")
        for figures, places, wrong in ((lists[0], one & ~two, second), (lists[1], ~one & two, first)):
            clearest = max(np.flatnonzero(places), key=lambda pair: gaps[pair])
            figure = figures.find("figure")[0]
            distances = [
                f"{letter} {run.distances[clearest]:.4f} "
                + ("<" if run.distances[clearest] < run.thresholds("none")[clearest] else "≥")
                + f" {run.thresholds('none')[clearest]:.4f}"
                for letter, run in (("A", first), ("B", second))
            ]
            assert figure.text == "".join([*distances, *names[clearest]])
            [picture] = wrong.folder.glob(f"errors/*_{clearest:06d}_*.jpg")
            image = figure.find("img")[0].attributes["src"].removeprefix("data:image/jpeg;base64,")
            assert base64.b64decode(image) == picture.read_bytes()
            assert 0 < len(figures.find("figure")) <= 12

    def test_disagreements_are_counted_without_pictures(self, runs, tmp_path):
        moved = [EvaluationRun(tmp_path, run.scores, run.pairs) for run in runs[:2]]
        figures = parse(comparison_page(moved)).find("div", class_="pairs")[0].find("figure")
        assert figures and not figures[0].find("img")

    def test_disagreements_are_shown_only_for_two_runs_on_the_same_pairs(self, run, runs, comparison):
        assert "disagree" not in comparison.text
        other = changed(run, {"is_same": run.pairs.is_same[::-1]})
        assert "disagree" not in parse(comparison_page([run, other])).text

    def test_a_run_does_not_disagree_with_itself(self, run):
        page = parse(comparison_page([run, run]))
        assert rows_of(page, "Numbers of pairs by both verdicts")["A right"][1] == "0"
        assert page.find("div", class_="pairs") == []


class TestProgram:
    def test_the_program_writes_a_comparison(self, runs, comparison_text):
        report.main([str(run.folder) for run in runs])
        path = runs[0].folder.parent / "comparison.html"
        assert path.read_text(encoding="utf-8") == comparison_text
