import base64
import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from eval.report import __main__ as report
from eval.report import page as report_page
from eval.report import words
from eval.report.charts import Charts
from eval.report.page import run_page, write_report
from eval.scoring.evaluation_run import EvaluationRun
from eval.scoring.metrics import FARS, tar_name
from eval.scoring.video_distances import METHODS
from tests.eval.fake_run import changed, make_run
from tests.eval.html_page import HOSTILE, check_stands_alone, parse, rows_of, shown

ROOT = Path(__file__).parents[2]
NO_CHARTS = Charts({}, [], [])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "first", num_hardest=3, quality=0.8)


@pytest.fixture(scope="module")
def text(run):
    return run_page(run)


@pytest.fixture(scope="module")
def page(text):
    return parse(text)


@pytest.fixture
def without_curves(monkeypatch):
    """Leaves out the curves, for tests in which they do not matter."""
    monkeypatch.setattr(report_page, "draw_charts", lambda **parts: NO_CHARTS)


class TestRun:
    def test_the_page_needs_no_other_file(self, page, text):
        check_stands_alone(page, text)

    def test_the_page_has_all_sections(self, page):
        name = "iter_258000_lfw_0.99133_ytf_0.95900"
        assert page.find("title")[0].text == f"{name} (ir50, 258,000 steps, 27 November 2026): ytf"
        assert [heading.text for heading in page.find("h1")] == [name]
        assert page.find("p", class_="model")[0].text == "ir50 · 258,000 steps · 27 November 2026"
        sections = [heading.text for heading in page.find("h2")]
        assert sections == ["Scores of all methods", "Curves", "Hardest pairs", "Coverage", "Inputs"]
        charts = [chart for chart in page.find("svg") if "aria-hidden" not in chart.attributes]
        assert len(charts) == 6
        for chart in charts:
            assert chart.attributes["role"] == "img"
            assert chart.attributes["aria-label"]
            assert chart.attributes["viewbox"].startswith("0 0 ")
        assert all(image.attributes["alt"] for image in page.find("img"))

    def test_contents_link_to_every_section(self, page):
        links = {link.text: link.attributes["href"] for link in page.find("nav")[0].find("a")}
        assert list(links) == ["Scores", "Curves", "Hardest pairs", "Coverage", "Inputs"]
        assert list(links.values()) == ["#" + part.attributes["id"] for part in page.find("section")]

    def test_the_page_has_one_legend(self, page):
        [legend] = page.find("ul", class_="legend")
        names = [words.method_name(method) for method in METHODS]
        assert sorted(item.text for item in legend.find("li")) == sorted(names)
        assert legend.find("li")[0].text == "normalised mean"
        # The charts have no legends of their own.
        curves = [chart for chart in page.find("svg") if "aria-label" in chart.attributes][:2]
        assert not {text.text for chart in curves for text in chart.find("text")} & set(names)

    def test_all_three_lines_are_scored(self, run, page):
        digits = words.digits(run.method.intervals["accuracy"])
        assert digits == 3
        boxes = page.find("dl", class_="lines")[0].find("div")
        assert ["class" in box.attributes for box in boxes] == [True, False, False]
        for box, line in zip(boxes, run.scores.lines, strict=True):
            assert box.text == (
                f"{line.name}{line.accuracy:.{digits}f} ± {line.std:.{digits}f}threshold {line.threshold:.4f}"
                f"{line.num_pairs:,} pairs, {line.num_genuine:,} of them genuine"
            )

    def test_the_table_compares_all_methods(self, run, page):
        rows = rows_of(page, "Scores of all methods")
        assert len(rows) == len(METHODS)
        for (name, cells), method in zip(rows.items(), METHODS, strict=True):
            scores = run.scores.methods[method]
            metrics, intervals = scores.metrics, scores.intervals
            digits = words.digits(intervals["accuracy"])
            assert cells == [
                shown(scores.lines.none, intervals["accuracy"]),
                shown(scores.lines.both, digits=digits),
                shown(scores.lines.positives, digits=digits),
                shown(scores.std, digits=digits),
                shown(scores.threshold),
                # 200 impostor pairs are too few for the last FAR, so it has no column.
                *(shown(metrics[key], intervals[key]) for key in ("eer", "auc", *map(tar_name, FARS[:2]))),
            ]
            assert name.endswith("chosen") == (method == "normalised_mean")
        assert rows["normalised meanchosen"] is not None

    def test_intervals_belong_to_the_line_of_the_filter(self, without_curves, run):
        page = parse(run_page(changed(run, error_filter="positives")))
        method = run.scores.methods["mean"]
        digits = words.digits(method.intervals["accuracy"])
        cells = rows_of(page, "Scores of all methods")["mean"]
        assert cells[:3] == [
            shown(method.lines.none, digits=digits),
            shown(method.lines.both, digits=digits),
            shown(method.lines.positives, method.intervals["accuracy"]),
        ]
        boxes = page.find("dl", class_="lines")[0].find("div")
        assert [bool(box.attributes) for box in boxes] == [False, False, True]

    def test_curves_have_the_values_of_the_run(self, run, monkeypatch):
        drawn = {}

        def record(**parts):
            drawn.update(parts)
            return NO_CHARTS

        monkeypatch.setattr(report_page, "draw_charts", record)
        run_page(changed(run, method="best_frames", error_filter="both"))
        used = run.pairs.used.both
        assert np.count_nonzero(~used) > 0
        assert [curve.label for curve in drawn["curves"]][:3] == ["best frames", "mean", "normalised mean"]
        first, *others = drawn["curves"]
        np.testing.assert_array_equal(first.distances, run.pairs.distances["best_frames"][used])
        np.testing.assert_array_equal(first.is_same, run.pairs.is_same[used])
        assert first.threshold == run.scores.lines.both.threshold
        assert [curve.threshold for curve in others] == [None] * 6
        # In the order of the table, with the colours of the curves.
        assert [bar.number for bar in drawn["accuracies"]] == [1, 2, 3, 4, 0, 5, 6]
        best = run.scores.methods["best_frames"]
        expected = (0, "best frames", best.lines.both, best.intervals["accuracy"])
        assert dataclasses.astuple(drawn["accuracies"][4]) == expected
        assert drawn["lines"] == [run.scores.lines.both]
        assert drawn["frames"] == [run.scores.frames_curve]

    def test_every_fold_and_frame_count_has_a_row(self, run, page):
        rows = rows_of(page, "Every split")
        assert list(rows) == [str(fold) for fold in range(1, 11)]
        for place, cells in enumerate(rows.values()):
            expected = []
            for line in run.scores.lines:
                accuracy, threshold = line.fold_accuracies[place], line.fold_thresholds[place]
                expected += [shown(accuracy, digits=2), shown(threshold)]
                expected.append(str(line.fold_sizes[place]))
            assert cells == expected
        rows = rows_of(page, "Template quality")
        first, second = (words.digits(run.method.intervals[name]) for name in ("accuracy", "eer"))
        assert rows == {
            str(point.num_frames): [shown(point.accuracy, digits=first), shown(point.eer, digits=second)]
            for point in run.scores.frames_curve
        }

    @pytest.mark.parametrize(
        ("changes", "texts"),
        [
            (
                {},
                [
                    "the best accuracy on the other folds",
                    "the official splits",
                    "YTF: all pairs are used",
                    "default",
                ],
            ),
            (
                {"rule": "crossing", "folds": "position", "error_filter": "positives"}
                | {"error_match": "substring", "faithful": True},
                [
                    "the sorted distances",
                    "by position in the file",
                    "genuine pairs with a wrong video are left",
                ]
                + ["also matches as a part of another name", "faithful: scores as the original does"],
            ),
            ({"error_filter": "both"}, ["YTF-corrected (both): pairs with a wrong video are left out"]),
        ],
    )
    def test_the_protocol_is_described_in_words(self, without_curves, run, changes, texts):
        facts = parse(run_page(changed(run, **changes))).find("dl", class_="facts")[0].text
        for part in texts:
            assert part in facts

    def test_coverage_and_inputs_are_listed(self, without_curves, run):
        coverage = {
            "videos": 3425,
            "missing": tuple(f"Missing_{number}/1" for number in range(500)),
            "empty": ("Empty/0",),
            "frames": 621126,
            "unusable": {"A/1/1.3.jpg": "expected <112x112>"},
            "pairs_left_out": 77,
        }
        page = parse(run_page(changed(run, coverage=coverage)))
        text = page.text
        for part in (
            "named3,425",
            "found2,924",
            "missing500",
            "without frames1",
            "used621,126",
            "left out77",
        ):
            assert part in text
        for part in (
            "fewest per video48",
            "median per video181",
            "most per video6,070",
            "A/1/1.3.jpg: expected <112x112>",
            "listed as wrong2",
        ):
            assert part in text
        lists = {item.find("summary")[0].text: item.find("li") for item in page.find("details")}
        missing = [item.text for item in lists["Missing videos: 500"]]
        assert missing == [*coverage["missing"][:200], "and 300 more"]
        assert [item.text for item in lists["Videos without usable frames: 1"]] == ["Empty/0"]
        for file in vars(run.scores.inputs).values():
            assert file.path in text
            assert file.sha256 in text
        assert run.scores.command in text
        assert "tensorflow2.21.0" in text

    def test_the_hardest_pairs_are_shown(self, run, page):
        figures = [figure for pairs in page.find("div", class_="pairs") for figure in pairs.find("figure")]
        entries = run.scores.hardest.genuine + run.scores.hardest.impostor
        for figure, entry in zip(figures, entries, strict=True):
            [image] = figure.find("img")
            written = base64.b64decode(image.attributes["src"].removeprefix("data:image/jpeg;base64,"))
            assert written == (run.folder / entry.picture).read_bytes()
            names = [str(run.pairs.first[entry.pair]), str(run.pairs.second[entry.pair])]
            assert image.attributes["alt"] == f"{names[0]} and {names[1]}"
            # All are wrong, so no single picture says so.
            assert figure.text == f"{run.distances[entry.pair]:.4f}{names[0]}{names[1]}"
        [section] = [part for part in page.find("section") if part.attributes["id"] == "hardest"]
        assert section.text.count("All of them are on the wrong side") == 2

    def test_verdicts_are_shown_if_they_differ(self, without_curves, run):
        pair = run.scores.hardest.impostor[0].pair
        thresholds = list(run.line.fold_thresholds)
        thresholds[run.pairs.splits[pair] - 1] = float(run.distances[pair])  # Now the pair is right.
        page = parse(run_page(changed(run, lines={"none": {"fold_thresholds": tuple(thresholds)}})))
        genuine, impostor = page.find("div", class_="pairs")
        assert not genuine.find("span", class_="wrong")
        verdicts = [figure.find("b")[0].text.split()[-1] for figure in impostor.find("figure")]
        assert verdicts == ["right", "wrong", "wrong"]

    def test_at_most_two_pairs_of_a_person_are_shown(self, without_curves, run):
        """This also holds for runs of earlier versions, which store more pairs."""
        entries = run.scores.hardest.impostor
        second = run.pairs.second.copy()
        for entry, name in zip(entries, ("Bo/1", "Bo/2", "Bo/3"), strict=True):
            second[entry.pair] = name
        page = parse(run_page(changed(run, {"second": second})))
        shown = page.find("div", class_="pairs")[1].find("figure")
        assert [figure.text.split("Bo/")[-1] for figure in shown] == ["1", "2"]

    def test_a_pair_that_is_never_scored_says_so(self, without_curves, run):
        folds = run.pairs.folds.none.copy()
        folds[run.scores.hardest.genuine[0].pair] = -1
        page = parse(run_page(changed(run, {"folds": run.pairs.folds._replace(none=folds)})))
        assert "not scored" in page.find("div", class_="pairs")[0].find("figure")[0].text

    def test_pictures_that_are_not_jpeg_files_are_refused(self, without_curves, run, tmp_path):
        moved = EvaluationRun(tmp_path, run.scores, run.pairs)
        with pytest.raises(FileNotFoundError, match=r"genuine-01\.jpg"):
            run_page(moved)
        (tmp_path / "hardest").mkdir()
        (tmp_path / "hardest" / "genuine-01.jpg").write_bytes(b"<svg>")
        with pytest.raises(ValueError, match=r"genuine-01\.jpg: .*3c7376673e"):
            run_page(moved)

    def test_optional_values_may_be_missing(self, without_curves, run):
        methods = {
            name: dataclasses.replace(method, metrics={"accuracy": 0.5}, intervals={})
            for name, method in run.scores.methods.items()
        }
        names = ("folds", "fold_accuracies", "fold_thresholds", "fold_sizes")
        some_folds = {name: getattr(run.scores.lines.both, name)[2:] for name in names}
        bare = changed(
            run,
            lines={"both": some_folds},
            methods=methods,
            engine=None,
            model=None,
            inputs={"ytf_error": None, "frames": {"crop": (96, 112), "flip": True}},
        )
        page = parse(run_page(bare))
        assert len(rows_of(page, "Scores of all methods")["mean"]) == 5
        assert "TAR" not in page.find("table")[0].text
        assert rows_of(page, "Every split")["1"][3:6] == ["–"] * 3
        accuracy = run.scores.lines.both.fold_accuracies[2]
        assert rows_of(page, "Every split")["3"][3] == shown(accuracy, digits=2)
        assert "cropped to 96 × 112, with mirror images" in page.text
        assert "Engine" not in page.text
        assert "None" not in page.text

    def test_a_single_frame_count_has_no_curve(self, run):
        page = parse(run_page(changed(run, frames_curve=run.scores.frames_curve[:1])))
        assert list(rows_of(page, "Template quality")) == ["1"]

    def test_perfect_scores_have_no_det_curve(self, tmp_path):
        run = make_run(tmp_path, quality=3.0, num_people=20, pairs_per_fold=16, num_hardest=1)
        assert run.line.accuracy == 1.0
        page = parse(run_page(run))
        assert page.find("dl", class_="lines")[0].text.startswith("YTF1.0000 ± 0.0000")
        det = page.find("figcaption")[1].text
        assert "Without errors: normalised mean, mean" in det

    def test_texts_are_escaped(self, run):
        hostile = changed(
            run,
            {
                "first": np.array([HOSTILE] * len(run.pairs)),
                "distances": {HOSTILE: run.pairs.distances["mean"]},
            },
            name=HOSTILE,
            set=HOSTILE,
            method=HOSTILE,
            methods={HOSTILE: run.scores.methods["mean"]},
            command=HOSTILE,
            model={"net": HOSTILE, "steps": None},
            versions={HOSTILE: HOSTILE},
            inputs={"model": {"path": HOSTILE, "sha256": HOSTILE}},
            coverage={"missing": (HOSTILE,), "empty": (HOSTILE,), "unusable": {HOSTILE: HOSTILE}},
            lines={name: {"name": HOSTILE} for name in run.scores.lines._fields},
        )
        text = run_page(hostile)
        page = parse(text)
        check_stands_alone(page, text)
        assert "alert" not in page.find("style")[0].text
        assert page.find("title")[0].text == f"{HOSTILE} ({HOSTILE}, 27 November 2026): {HOSTILE}"
        assert page.find("h1")[0].text == HOSTILE
        assert list(rows_of(page, "Scores of all methods")) == [HOSTILE.replace("_", " ")]
        alternatives = [image.attributes["alt"] for image in page.find("img")]
        assert len(alternatives) == 4  # All are of one person now.
        assert all(text.startswith(f"{HOSTILE} and ") for text in alternatives)
        lists = [item.text for part in page.find("details") for item in part.find("li")]
        assert lists == [HOSTILE, HOSTILE, f"{HOSTILE}: {HOSTILE}"]

    def test_the_same_run_gives_the_same_bytes(self, run, text, tmp_path):
        """The second page is written in another process, with another hash seed, from the stored run."""
        write_report([run], tmp_path / "new" / "here.html")
        assert (tmp_path / "new" / "here.html").read_text() == text
        out = tmp_path / "there.html"
        environment = {**os.environ, "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "LC_ALL": "C"}
        command = [sys.executable, "-m", "eval.report", str(run.folder), f"--out={out}"]
        subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, timeout=120)
        assert out.read_text(encoding="utf-8") == text
        assert str(run.folder) not in text

    def test_the_page_is_small(self, text):
        assert len(text) < 400_000  # without the pictures, which are small here


class TestProgram:
    def test_a_report_of_one_run_is_written(self, run, text, caplog):
        with caplog.at_level("INFO"):
            report.main([str(run.folder)])
        path = run.folder / "report" / "index.html"
        assert path.read_text(encoding="utf-8") == text
        assert caplog.messages == [f"Report : {path}"]

    def test_out_gives_the_path_of_the_page(self, run, tmp_path):
        report.main([str(run.folder), "--out", str(tmp_path / "deep" / "page.html")])
        assert [path.name for path in (tmp_path / "deep").iterdir()] == ["page.html"]

    def test_bad_input_ends_with_one_line(self, run, tmp_path):
        for folders, message in (
            ([tmp_path / "nothing"], "eval.report: .*nothing/scores.json: no such file"),
            ([run.folder, tmp_path], "scores.json: no such file"),
        ):
            with pytest.raises(SystemExit, match=message) as stopped:
                report.main([*map(str, folders), "--out", str(tmp_path / "page.html")])
            assert "\n" not in str(stopped.value)
        assert not (tmp_path / "page.html").exists()
