import json
from types import SimpleNamespace

import numpy as np
import pytest

from eval import test_identify as program
from eval.embedding.engines import Engine
from eval.embedding.model_card import ModelCard
from eval.report import identification
from eval.report.charts import Charts
from eval.scoring.calibration import calibrate
from eval.scoring.evaluation_run import Bootstrap
from eval.scoring.open_set import RankedProbes, open_set_intervals, open_set_metrics
from tests.eval.fake_tracks import make_found, make_track
from tests.eval.html_page import check_stands_alone, parse, rows_of
from tests.portrait import write_picture

DIM = 8
NO_FACE = "no face"


def direction(name):
    """Returns a direction for each name, far from the others."""
    rng = np.random.default_rng(list(name.encode()))
    vector = rng.normal(size=DIM)
    return vector / np.linalg.norm(vector)


def template_of(path):
    """Returns the template of a file: mostly the direction of the person after whom its folder is named."""
    mixed = direction(path.parent.name) + 0.9 * direction(str(path.relative_to(path.parents[2])))
    return mixed / np.linalg.norm(mixed)


@pytest.fixture
def score(tmp_path, monkeypatch, capsys):
    """Runs the program on files with made-up faces, and returns what it prints."""

    def find(path, embedder, options=None):
        content = path.read_text()
        if content.startswith(NO_FACE):
            return make_found(path)
        if content.startswith("damaged"):
            raise ValueError(f"{path}: expected a video, received a file that FFmpeg cannot read")
        return make_found(path, make_track(template_of(path), frames=(0, 5, 10, 15), left_out=(5,)))

    def load(path, *, flip, engine):
        score.flips.append(flip)
        return SimpleNamespace(path=path, sha256="f" * 64, engine=Engine("numpy"))

    model = tmp_path / "face.onnx"
    model.write_bytes(b"")

    def score(gallery, probes, *flags, card=None, expect=None):
        for folder, files in (("gallery", gallery), ("probes", probes)):
            for name in files:
                path = tmp_path / folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(files[name] if isinstance(files, dict) else f"{folder} {name}")
        monkeypatch.setattr(program, "read_card", lambda _: card or ModelCard())
        argv = [
            f"--gallery={tmp_path / 'gallery'}",
            f"--probes={tmp_path / 'probes'}",
            f"--model_path={model}",
        ]
        argv += [f"--output={tmp_path / 'run'}", *flags]
        if expect is None:
            program.main(argv)
        else:
            with pytest.raises(SystemExit, match=expect) as ended:
                program.main(argv)
            assert isinstance(ended.value.code, str)  # Python prints it and exits with 1.
            assert not (tmp_path / "run").exists()
        return capsys.readouterr().out

    score.flips = []
    monkeypatch.setattr(program, "Bootstrap", lambda: Bootstrap(20))
    monkeypatch.setattr(identification, "draw_identification_charts", lambda *_: Charts({}, [], []))
    monkeypatch.setattr(program, "load_embedder", load)
    monkeypatch.setattr(program, "find_tracks", find)
    return score


@pytest.fixture
def scores(tmp_path):
    return lambda: json.loads((tmp_path / "run" / "scores.json").read_text())


GALLERY = [f"{name}/1.jpg" for name in "ABCDEFG"]
PROBES = [f"{name}/{number}.mkv" for name in "ABCDEFGXYZ" for number in (2, 3, 4, 5)]


def test_scores_equal_those_of_the_parts(score, scores, tmp_path):
    text = score(GALLERY, PROBES)
    found = scores()
    gallery = [template_of(tmp_path / "gallery" / name) for name in GALLERY]
    probes = [template_of(tmp_path / "probes" / name) for name in PROBES]
    similarities = np.clip(np.array(probes) @ np.array(gallery).T, -1, 1)
    people = [name[0] for name in PROBES]
    for kind, repeats in (("templates", 1), ("frames", 3)):  # The fourth face is rejected.
        rows = np.repeat(similarities, repeats, axis=0)
        ranked = RankedProbes.from_similarities(rows, list("ABCDEFG"), np.repeat(people, repeats).tolist())
        metrics, thresholds = open_set_metrics(ranked)
        assert 0 < metrics["tpir@fpir=0.1"] < metrics["rank-1"] < 1
        one = found["kinds"][kind]
        assert one["metrics"] == pytest.approx(metrics)
        assert one["thresholds"] == pytest.approx(thresholds)
        intervals = open_set_intervals(ranked, num_resamples=20)
        assert one["intervals"].keys() == intervals.keys()
        for name, interval in intervals.items():
            assert one["intervals"][name] == pytest.approx(interval)
        assert (one["num_probes"], one["num_mated"], one["num_unknown"]) == (
            40 * repeats,
            28 * repeats,
            12 * repeats,
        )
        assert one["at_threshold"] is None
        rank_1 = f"{metrics['rank-1']:.4f} [{one['intervals']['rank-1'][0]:.4f}"
        label = {"templates": "Templates", "frames": "Single frames"}[kind]
        [row] = [line for line in text.splitlines() if line.startswith(f"{label} ")]
        assert rank_1 in row
    assert found["unknown_people"] == ["X", "Y", "Z"]
    result = found["results"][0]
    assert (result["path"], result["person"], result["num_frames"]) == ("A/2.mkv", "A", 3)
    assert result["own"] == pytest.approx(similarities[0, 0])
    assert result["nearest"][0] == {"person": "A", "similarity": pytest.approx(similarities[0].max())}
    assert found["results"][-1]["own"] is None and found["results"][-1]["rank"] == 0
    assert "tpir@fpir=0.01 of templates, which needs 100 unknown probes; there are 12" in text
    assert score.flips == [False]


def test_the_report_page_is_complete(score, tmp_path):
    score(GALLERY[:3], [name for name in PROBES if name[0] in "ABX"])
    text = (tmp_path / "run" / "report" / "index.html").read_text(encoding="utf-8")
    page = parse(text)
    check_stands_alone(page, text)
    assert "A/2.mkv" in rows_of(page, "Answers for all templates")
    assert [heading.text for heading in page.find("h3")] == [
        "Probes least like their person",
        "Unknown probes most like a person of the gallery",
    ]
    assert len(page.find("img")) >= 4


def test_an_earlier_run_is_replaced(score, tmp_path):
    score(GALLERY[:2], PROBES[:2])
    score(GALLERY[:2], PROBES[:2])
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["report", "scores.json"]


def test_scores_at_the_threshold_of_identify(score, scores):
    is_same = np.arange(2000) < 1000
    similarities = np.random.default_rng(0).normal(np.where(is_same, 0.8, 0.0), 0.1)
    calibration = calibrate(similarities, is_same, kind="template", name="pairs", pooling="mean", flip=True)
    text = score(GALLERY[:2], PROBES, "--fpir", "0.1", card=ModelCard().with_calibration(calibration))
    found = scores()
    threshold = calibration.threshold_for_fpir(0.1, 2).threshold
    assert found["threshold"]["value"] == threshold
    best = [result["nearest"][0]["similarity"] for result in found["results"] if not result["rank"]]
    assert found["kinds"]["templates"]["at_threshold"]["fpir"] == np.mean(np.array(best) >= threshold)
    assert f"Threshold of eval.identify for FPIR 0.1 : {threshold:.4f}" in text
    assert found["flip"] is True and score.flips == [True]


def test_tpir_is_not_measured_without_unknown_people(score, scores):
    text = score(GALLERY, PROBES[:28])
    assert "Not measured : TPIR" in text
    one = scores()["kinds"]["templates"]
    assert one["metrics"]["tpir@fpir=0.1"] is None and one["metrics"]["rank-1"] is not None


def test_probes_without_a_face_count_as_not_found(score, scores, tmp_path):
    """People of the gallery without a usable face are still known. Probes of them are not found."""
    gallery = {name: f"gallery {name}" for name in GALLERY} | {"A/1.jpg": f"{NO_FACE} 1"}
    probes = {name: f"probes {name}" for name in PROBES} | {
        "B/2.mkv": "damaged", "X/2.mkv": NO_FACE, "B/3.mkv": f"{NO_FACE} 2"
    }  # fmt: skip
    score(gallery, probes)
    found = scores()
    results = {result["path"]: result for result in found["results"]}
    assert found["unknown_people"] == ["X", "Y", "Z"]
    assert results["A/2.mkv"]["rank"] == 7 and results["A/2.mkv"]["own"] == -1
    for path, rank in (("B/2.mkv", 7), ("B/3.mkv", 7), ("X/2.mkv", 0)):
        assert (results[path]["rank"], results[path]["nearest"], results[path]["own"]) == (rank, [], None)
    templates, frames = (found["kinds"][kind] for kind in ("templates", "frames"))
    assert templates["num_mated"] == 28 and frames["num_mated"] == 3 * 26
    assert templates["metrics"]["rank-1"] <= 22 / 28
    assert frames["metrics"]["rank-1"] <= 22 / 26
    best = [-1.0 if not one["nearest"] else one["nearest"][0]["similarity"] for one in results.values()]
    *_, second, first = sorted(b for b, one in zip(best, results.values(), strict=True) if not one["rank"])
    assert second < templates["thresholds"]["tpir@fpir=0.1"] <= first  # One of the twelve may get a name.
    problems = found["probes"]["problems"]
    assert len(problems) == 3
    assert problems[0].startswith(str(tmp_path / "probes" / "B" / "2.mkv"))
    assert any(str(tmp_path / "gallery" / "A") in problem for problem in found["gallery"]["problems"])


def test_a_second_copy_is_left_out(score, scores):
    probes = {"A/1.mkv": "one", "A/2.mkv": "two", "A/3.mkv": "one", "X/1.mkv": "three"}
    score(GALLERY, probes)
    assert [result["path"] for result in scores()["results"]] == ["A/1.mkv", "A/2.mkv", "X/1.mkv"]


def test_a_folder_without_files_is_not_a_person(score, scores):
    score(GALLERY, ["A/2.mkv", "X/1.mkv", "Y/notes.txt"])
    assert scores()["unknown_people"] == ["X"]
    assert scores()["probes"]["num_people"] == 2


@pytest.mark.parametrize(
    ("gallery", "probes", "expect"),
    [
        ({"A/1.jpg": "one", "B/1.jpg": "two"}, {"A/2.mkv": "two"}, "probes/A/2.mkv: .*gallery/B/1.jpg"),
        ({"A/1.jpg": "one"}, {"A/1.jpg": "one"}, "probes/A/1.jpg: .*gallery/A/1.jpg"),
        ({"A/1.jpg": "one"}, {"A/2.mkv": "two", "X/2.mkv": "two"}, "A/2.mkv and .*X/2.mkv"),
        ({"A/1.jpg": "one", "B/1.jpg": "one"}, {"A/2.mkv": "two"}, "A/1.jpg and .*B/1.jpg"),
        ({"A/1.jpg": "one"}, {"X/1.jpg": "two"}, "nobody"),
        ({"Ann/1.jpg": "one", "B/1.jpg": "2"}, {"ann/1.jpg": "two", "B/2.jpg": "three"}, "ann .*Ann"),
        ({"A/1.jpg": "one"}, {"A/2.jpg": NO_FACE, "X/2.jpg": "x"}, "probes/A/2.jpg"),
        ({"A/1.jpg": NO_FACE}, {"A/2.jpg": "two"}, "gallery: .*A/1.jpg"),
        ({"A/notes.txt": "one"}, {"A/2.jpg": "two"}, "gallery: .*"),
        ({"notes.txt": "one"}, {"A/2.jpg": "two"}, "gallery: "),
        ({"A/1.jpg": "one"}, {"notes.txt": "two"}, "probes: "),
        ({"A/1.jpg": "one"}, {}, "probes: no such folder"),
    ],
)
def test_unusable_folders_are_refused(score, gallery, probes, expect):
    score(gallery, probes, expect=expect)


def test_frames_of_aligned_videos_are_scored(score, scores, tmp_path, monkeypatch):
    """The layout of YouTube Faces: a folder for each video."""

    class FirstPixel:
        path, sha256, engine, face_size = tmp_path / "face.onnx", "", Engine("numpy"), (112, 112)

        def embed(self, faces):
            return faces[:, 0, 0].astype(np.float32) - 100

    monkeypatch.setattr(program, "load_embedder", lambda *_, **__: FirstPixel())
    for number, (video, colours) in enumerate({
        "gallery/A/0": [(200, 100, 100)], "gallery/B/0": [(100, 200, 100)],
        "probes/A/1": [(200, 110, 100), (160, 100, 100)], "probes/B/1": [(100, 150, 100)],
        "probes/X/0": [(100, 110, 200), (100, 100, 130)],
    }.items()):  # fmt: skip
        for frame, colour in enumerate(colours):
            picture = np.full((112, 112, 3), number, np.uint8)  # No two files are the same.
            picture[0, 0] = colour
            write_picture(tmp_path / video / f"{frame}.png", picture)
    score({}, {}, "--aligned")
    found = scores()
    assert [result["path"] for result in found["results"]] == ["A/1", "B/1", "X/0"]
    assert [result["num_frames"] for result in found["results"]] == [2, 1, 2]
    assert found["results"][0]["own"] == pytest.approx(160 / np.hypot(160, 10), abs=1e-3)
    assert found["kinds"]["frames"]["num_probes"] == 5
    assert found["aligned"] is True
    # A frame that is in the gallery, too.
    (tmp_path / "probes" / "A" / "1" / "2.png").write_bytes((tmp_path / "gallery/A/0/0.png").read_bytes())
    with pytest.raises(SystemExit, match=r"probes/A/1/2.png: .*gallery/A/0/0.png"):
        score({}, {}, "--aligned")


@pytest.mark.parametrize("flags", [["--fpir", "0"], ["--every", "0"]])
def test_wrong_flags_end_with_code_2(flags):
    with pytest.raises(SystemExit) as ended:
        program.main(["--gallery", "a", "--probes", "b", "--model_path", "m", *flags])
    assert ended.value.code == 2
