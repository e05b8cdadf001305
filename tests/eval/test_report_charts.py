"""Tests the charts of a report: the plotted data, and the SVG."""

import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from scipy.special import ndtr

from eval.report import charts
from eval.report import svg as report_svg
from eval.report.charts import AccuracyBar, Curve
from eval.scoring.evaluation_run import FramesPoint, LineScores
from eval.scoring.metrics import equal_error_rate, roc
from eval.scoring.video_distances import METHODS
from tests.eval.html_page import HOSTILE, parse

STYLE = (Path(charts.__file__).parent / "templates" / "report.css").read_text()


def draw(function, *data):
    """Calls a drawing function with an empty figure, and returns the figure's axes."""
    figure = Figure()
    function(figure, *data)
    return figure.axes


def line_of(folds, accuracies):
    """Scores of a line with these folds; other fields do not matter."""
    size = (0,) * len(folds)
    return LineScores("", 0, 0, 0.0, 0.0, 0.0, tuple(folds), tuple(accuracies), size, size)


class TestCharts:
    @pytest.fixture
    def pairs(self):
        rng = np.random.default_rng(3)
        is_same = np.arange(150) < 50
        distances = np.where(is_same, 0.6, 0.9) + rng.normal(0, 0.12, 150)
        distances[10] = distances[100]  # one distance of both kinds
        return distances, is_same

    def test_the_roc_chart_shows_the_curves(self, pairs):
        distances, is_same = pairs
        curves = [Curve("one", distances, is_same), Curve("two", distances + 0.2 * is_same, is_same)]
        [axes] = draw(charts.draw_roc, curves, True)
        first, second = axes.get_lines()
        assert first.get_linewidth() > second.get_linewidth()
        assert first.get_zorder() <= second.get_zorder()
        far, tar = first.get_data()
        assert far[0] == pytest.approx(1 / 100)
        assert far[-1] == pytest.approx(1)
        for rate, height in zip(far, tar, strict=True):
            accepted = [
                (distances[is_same] < threshold).mean()
                for threshold in [*distances, np.inf]
                if (distances[~is_same] < threshold).mean() <= rate + 1e-9
            ]
            assert height == max(accepted)
        assert axes.get_xlim() == (pytest.approx(0.01), 1)
        assert 0 <= axes.get_ylim()[0] < second.get_ydata()[0] < tar[0]

    def test_the_det_chart_shows_the_curves(self, pairs):
        distances, is_same = pairs
        axes = draw(charts.draw_det, [Curve("one", distances, is_same)])[0]
        curve, diagonal = axes.get_lines()
        far, frr = (ndtr(values) for values in curve.get_data())
        assert far.min() >= 1 / 100 - 1e-9
        assert frr.min() >= 1 / 50 - 1e-9
        assert far.max() <= 0.5 + 1e-9
        assert frr.max() <= 0.5 + 1e-9
        thresholds = [*distances, np.inf]
        for rate, height in zip(far, frr, strict=True):
            refused = [
                (distances[is_same] >= threshold).mean()
                for threshold in thresholds
                if (distances[~is_same] < threshold).mean() <= rate + 1e-9
            ]
            assert height == pytest.approx(min(refused))
        np.testing.assert_array_equal(*diagonal.get_data())
        crossing = far[np.argmin(np.abs(far - frr))]
        assert crossing == pytest.approx(equal_error_rate(*roc(distances, is_same)), abs=0.02)
        ticks = [label.get_text() for label in axes.get_xticklabels()]
        np.testing.assert_allclose(ndtr(axes.get_xticks()), list(map(float, ticks)))
        assert min(map(float, ticks)) >= 0.01

    def test_the_det_curve_is_empty_without_errors(self):
        distances, is_same = np.array([0.1, 0.2, 0.8, 0.9]), np.array([True, True, False, False])
        axes = draw(charts.draw_det, [Curve("one", distances, is_same)])[0]
        assert axes.get_lines()[0].get_xdata().size == 0

    def test_histograms_count_the_pairs(self, pairs):
        distances, is_same = pairs
        curves = [Curve("one", distances, is_same, 0.7), Curve("two", distances + 0.5, is_same, 1.2)]
        rows = draw(charts.draw_histograms, list(enumerate(curves)), "L2 distance")
        assert [axes.get_title(loc="left") or axes.get_title() for axes in rows] == ["one", "two"]
        for number, (axes, curve) in enumerate(zip(rows, curves, strict=True)):
            genuine, impostor = [patch for patch in axes.patches if not patch.get_fill()]
            assert genuine.get_edgecolor() == to_rgba(report_svg.line_style(number)["color"])
            assert impostor.get_edgecolor() == to_rgba(report_svg.MUTED)
            for outline, kind in ((genuine, is_same), (impostor, ~is_same)):
                counts, edges, _ = outline.get_data()
                np.testing.assert_array_equal(counts, np.histogram(curve.distances[kind], edges)[0])
                assert counts.sum() == kind.sum()
            assert [line.get_xdata()[0] for line in axes.get_lines()] == [curve.threshold]
        assert rows[-1].get_xlabel() == "L2 distance"
        [axes] = draw(charts.draw_histograms, [(0, curves[0])], "")
        assert axes.get_title(loc="left") == axes.get_title() == ""

    def test_equal_distances_have_a_histogram(self):
        curve = Curve("one", np.full(4, 1.0), np.array([True, False, True, False]), 1.0)
        [axes] = draw(charts.draw_histograms, [(0, curve)], "")
        assert sum(patch.get_data()[0].sum() for patch in axes.patches if not patch.get_fill()) == 4

    def test_the_chart_of_folds_shows_their_accuracies(self):
        lines = [line_of([1, 2, 5], [0.9, 1.0, 0.8]), line_of([2, 5, 7], [0.7, 0.95, 1.0])]
        [axes] = draw(charts.draw_folds, lines, "fold")
        labels = [label.get_text() for label in axes.get_xticklabels()]
        assert labels == ["1", "2", "5", "7"]
        for line, scores in zip(axes.get_lines(), lines, strict=True):
            places = np.round(line.get_xdata()).astype(int)
            assert [labels[place] for place in places] == list(map(str, scores.folds))
            np.testing.assert_array_equal(line.get_ydata(), scores.fold_accuracies)
        assert axes.get_ylim()[1] == 1.0
        assert axes.get_xlabel() == "fold"
        markers = {line.get_marker() for line in axes.get_lines()}
        assert len(markers) == 2

    def test_the_chart_of_accuracies_shows_intervals(self):
        bars = [AccuracyBar(1, "one", 0.9, (0.8, 0.95)), AccuracyBar(0, "two", 0.7, None)]
        [axes] = draw(charts.draw_accuracies, bars)
        drawn = [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.get_lines()]
        assert drawn == [([0.8, 0.95], [0, 0]), ([0.9], [0]), ([0.7], [1])]
        assert [label.get_text() for label in axes.get_yticklabels()] == ["one", "two"]
        assert axes.get_ylim() == (1.5, -0.5)  # the first on top
        assert axes.get_lines()[0].get_color() == axes.get_lines()[1].get_color()
        assert axes.get_lines()[1].get_color() != axes.get_lines()[2].get_color()

    def test_the_chart_of_frames_shows_the_curve(self):
        counts, accuracies = [1, 2, 4, 8, 16, 17], [0.8, 0.9, 0.93, 0.95, 0.96, 1.0]
        points = [FramesPoint(*point, 1 / point[0]) for point in zip(counts, accuracies, strict=True)]
        above, below = draw(charts.draw_frames, [points])
        np.testing.assert_array_equal(above.get_lines()[0].get_xdata(), counts)
        np.testing.assert_array_equal(above.get_lines()[0].get_ydata(), accuracies)
        np.testing.assert_array_equal(below.get_lines()[0].get_ydata(), [1 / count for count in counts])
        # 16 would touch 17.
        assert [label.get_text() for label in below.get_xticklabels()] == ["1", "2", "4", "8", "17"]
        assert above.get_ylim()[1] == 1.0
        assert below.get_ylim()[0] >= 0
        assert (above.get_xscale(), below.get_xscale()) == ("log", "log")

    def test_curves_look_different(self):
        """There are eight colours, and no two of 32 runs have the same line or marker."""
        looks = [report_svg.line_style(number) for number in range(32)]
        assert len({look["color"] for look in looks[: report_svg.NUM_COLOURS]}) == report_svg.NUM_COLOURS == 8
        assert len({(look["color"], str(look["linestyle"])) for look in looks}) == 32
        markers = [report_svg.marker_style(number) for number in range(32)]
        assert len({(look["color"], look["marker"]) for look in markers}) == 32

    def test_every_method_has_a_colour_of_its_own(self):
        assert len(METHODS) <= report_svg.NUM_COLOURS
        for scheme in re.split("prefers-color-scheme: dark", STYLE):
            colours = re.findall(r"--series-\d: (#\w{6});", scheme) + re.findall(
                r"--muted: (#\w{6});", scheme
            )
            assert len(colours) == report_svg.NUM_COLOURS + 1
            lab = np.array([_oklab(colour) for colour in colours])
            distances = np.linalg.norm(lab[:, None] - lab[None], axis=2) + np.eye(len(lab))
            assert distances.min() > 0.1, colours


def _oklab(colour):
    """Converts a colour to OKLab (Björn Ottosson, 2020), in which equal distances look about equal."""
    encoded = np.array([int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)])
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    cones = np.array(
        [
            [0.4122214708, 0.5363325363, 0.0514459929],
            [0.2119034982, 0.6806995451, 0.1073969566],
            [0.0883024619, 0.2817188376, 0.6299787005],
        ]
    )
    axes = np.array(
        [
            [0.2104542553, 0.7936177850, -0.0040720468],
            [1.9779984951, -2.4285922050, 0.4505937099],
            [0.0259040371, 0.7827717662, -0.8086757660],
        ]
    )
    return axes @ np.cbrt(cones @ linear)


class TestSvg:
    LINES = (line_of([1, 2], [0.5, 0.6]), line_of([1, 2], [0.6, 0.7]))

    def render(self, fold_name="split", ident="s", title="t"):
        return parse(report_svg.render(charts.draw_folds, (self.LINES, fold_name), 2.75, ident, title))

    def test_colours_are_those_of_the_page(self):
        chart = self.render()
        drawn = "".join(element.attributes.get("style", "") for element in chart)
        used = set(re.findall(r"var\((--[\w-]+)\)", drawn))
        assert used == {"--ink", "--muted", "--grid", "--series-1", "--series-2"}
        for name in [*used, *(f"--series-{number}" for number in range(1, report_svg.NUM_COLOURS + 1))]:
            assert STYLE.count(f"{name}: #") == 2, f"{name}: expected a light and a dark colour"
        # Matplotlib uses white for parts that are not drawn.
        assert set(re.findall(r"#[0-9a-f]{6}", drawn)) <= {"#ffffff"}
        assert "font-family" not in drawn
        assert chart.find("style") == []

    def test_text_stays_text(self):
        texts = [element.text for element in self.render("a $x_1$ _b_ & <b> \u9762").find("text")]
        assert "a $x_1$ _b_ & <b> \u9762" in texts

    def test_ids_are_unique_on_the_page(self):
        drawn = [self.render(ident=ident) for ident in ("one", "two")]
        ids = [{e.attributes["id"] for e in chart if "id" in e.attributes} for chart in drawn]
        assert ids[0].isdisjoint(ids[1])
        assert all(name.startswith("one-") for name in ids[0])
        for chart, own in zip(drawn, ids, strict=True):
            targets = [use.attributes["href"].removeprefix("#") for use in chart.find("use")]
            assert targets
            assert own.issuperset(targets)

    def test_a_chart_has_a_label_for_screen_readers(self):
        [svg] = self.render(title=HOSTILE).find("svg")
        assert svg.attributes["role"] == "img"
        assert svg.attributes["aria-label"] == HOSTILE

    def test_the_key_of_a_curve_has_its_colour_and_dashes(self):
        svg = parse(report_svg.render_key(9)).find("svg")[0]
        assert svg.attributes["aria-hidden"] == "true"
        drawn = "".join(element.attributes.get("style", "") for element in svg)
        assert set(re.findall(r"var\((--[\w-]+)\)", drawn)) == {"--series-2"}
        assert "stroke-dasharray" in drawn
