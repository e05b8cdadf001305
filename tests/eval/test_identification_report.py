import base64
import dataclasses

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure

from eval.report import identification
from eval.report.charts import Charts
from eval.report.identification import Faces, hardest_probes
from eval.scoring.identification_run import Candidate
from eval.scoring.open_set import RankedProbes, rates_at
from tests.eval.fake_identification import make_identification
from tests.eval.html_page import HOSTILE, check_stands_alone, parse, rows_of, shown


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "report" / "index.html"
    scores, ranked = make_identification(path, frames=6)
    return scores, ranked, path.read_text(encoding="utf-8")


@pytest.fixture
def without_charts(monkeypatch):
    monkeypatch.setattr(identification, "draw_identification_charts", lambda *_: Charts({}, [], []))


def test_the_page_has_all_sections(made):
    scores, _, text = made
    page = parse(text)
    check_stands_alone(page, text)
    assert page.find("h1")[0].text == scores.name
    links = {link.text: link.attributes["href"] for link in page.find("nav")[0].find("a")}
    assert list(links) == ["Scores", "Curves", "Hardest probes", "Answers", "Inputs"]
    assert list(links.values()) == ["#" + part.attributes["id"] for part in page.find("section")]
    charts = [chart.attributes["aria-label"] for chart in page.find("svg") if "role" in chart.attributes]
    assert len(charts) == 3
    assert len(page.find("img")) == 9


def test_scores_are_in_the_tables(made):
    scores, ranked, text = made
    page = parse(text)
    rows = rows_of(page, "Scores of templates and of single frames")
    for kind, label in (("templates", "Templates"), ("frames", "Single frames")):
        one = scores.kinds[kind]
        metrics = [shown(one.metrics[name], one.intervals.get(name)) for name in one.metrics]
        low, high = (shown(threshold) for threshold in one.thresholds.values())
        rank_1, rank_5, tpir_low, tpir_high = metrics
        assert rows[label] == [
            str(one.num_probes), str(one.num_unknown), rank_1, rank_5, tpir_low, low, tpir_high, high
        ]  # fmt: skip
        rates = rates_at(ranked[kind], scores.threshold.value)
        assert rows_of(page, "Scores at the threshold of eval.identify")[label] == [*map(shown, rates)]
    assert scores.kinds["templates"].metrics["tpir@fpir=0.01"] is None
    answers = rows_of(page, "Answers for all templates")
    assert answers.keys() == {result.path for result in scores.results}
    first, last = scores.results[0], scores.results[-1]
    nearest, runner_up = first.nearest[:2]
    assert answers[first.path] == [
        *("6", nearest.person, shown(nearest.similarity)),
        *(f"{runner_up.person} {shown(runner_up.similarity)}", "1"),
    ]
    assert answers[last.path][-1] == "unknown"


def test_names_are_escaped(tmp_path, without_charts):
    path = tmp_path / "index.html"
    make_identification(path, num_people=2, num_unknown=1, name=HOSTILE, text=HOSTILE)
    text = path.read_text(encoding="utf-8")
    page = parse(text)
    check_stands_alone(page, text)
    assert page.find("h1")[0].text == HOSTILE
    assert f"{HOSTILE}Person_0/video 0.mkv" in rows_of(page, "Answers for all templates")
    [unusable] = [item.text for part in page.find("details") for item in part.find("li")]
    assert unusable == f"{HOSTILE}Person_0/dark.jpg: no face"


def test_without_unknown_people_tpir_is_left_out(tmp_path):
    path = tmp_path / "index.html"
    make_identification(path, num_people=3, num_unknown=0, frames=2)
    page = parse(path.read_text(encoding="utf-8"))
    assert page.find("ul", class_="notes")
    charts = [chart.attributes["aria-label"] for chart in page.find("svg") if "role" in chart.attributes]
    assert len(charts) == 2
    rows = rows_of(page, "Scores of templates and of single frames")
    assert rows["Templates"][3:] == ["–"] * 5


def test_the_curve_shows_the_best_tpir_at_each_fpir():
    """The curve at each FPIR is the largest TPIR with at most this FPIR."""
    rng = np.random.default_rng(0)
    similarities, probes = rng.random((60, 3)).round(1), [*"abc" * 10, *"x" * 30]
    similarities[np.arange(30), np.arange(30) % 3] += 0.2
    ranked = RankedProbes.from_similarities(similarities, list("abc"), probes)
    figure = Figure()
    identification.draw_tpir(figure, [ranked])
    [line] = figure.axes[0].get_lines()
    assert line.get_drawstyle() == "steps-post"
    fpirs, tpirs = line.get_data()
    for fpir in np.arange(1, 31) / 30:
        pairs = [rates_at(ranked, threshold) for threshold in [*ranked.best, 2]]
        best = max(tpir for tpir, measured in pairs if measured <= fpir)
        assert tpirs[np.searchsorted(fpirs, fpir, side="right") - 1] == best
    assert fpirs[0] == 1 / 30


def test_the_hardest_probes_are_shown(made):
    scores, _, _ = made

    def jpeg(grey):
        return cv2.imencode(".png", np.full((112, 112, 3), grey, np.uint8))[1].tobytes()

    results = tuple(
        dataclasses.replace(scores.results[0], path=path, person=person, rank=rank, own=own, nearest=nearest)
        for path, person, rank, own, nearest in [
            ("a", "A", 1, 0.5, (Candidate("A", 0.5),)),
            ("b", "B", 2, 0.6, (Candidate("A", 0.7),)),
            ("c", "C", 1, 0.4, (Candidate("C", 0.4),)),
            ("d", "D", 1, None, ()),
            ("x", "X", 0, None, (Candidate("B", 0.1),)),
            ("y", "Y", 0, None, (Candidate("B", 0.3),)),
            ("z", "Z", 0, None, (Candidate("B", 0.2),)),
        ]
    )
    faces = Faces({path: jpeg(10) for path in "abcxyz"}, {person: jpeg(200) for person in "ABC"})
    mated, unknown = hardest_probes(dataclasses.replace(scores, results=results), faces)
    assert [(pair.first, pair.second, pair.distances, pair.verdict) for pair in mated.pairs] == [
        ("b", "A", ["0.7000"], "wrong"),
        ("c", "C", ["0.4000"], None),
        ("a", "A", ["0.5000"], None),
    ]
    assert [pair.first for pair in unknown.pairs] == ["y", "z"]  # B occurs twice
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(mated.pairs[0].jpeg), np.uint8), cv2.IMREAD_COLOR)
    assert abs(int(picture[50, 50, 0]) - 10) < 5 and abs(int(picture[50, -50, 0]) - 200) < 5


def test_the_rank_curve_shows_the_fraction_found():
    ranked = RankedProbes.from_similarities(np.array([[0.9, 0.1], [0.5, 0.4]]), ["a", "b"], ["a", "b"])
    figure = Figure()
    identification.draw_ranks(figure, [ranked])
    [line] = figure.axes[0].get_lines()
    assert [values.tolist() for values in line.get_data()] == [[1, 2], [0.5, 1]]
