import hashlib
import importlib.metadata
import json
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest

from dataset.pairs.image_pairs import read_pairs
from eval import test_lfw
from eval.embedding.engines import EngineOptions
from eval.embedding.extractor import embed_pairs
from eval.embedding.face_model import FaceModel
from eval.report.page import comparison_page
from eval.report.run_folder import default_output
from eval.scoring.distances import pair_distances
from eval.scoring.evaluation_run import read_run
from eval.scoring.insightface_protocol import evaluate_insightface
from eval.scoring.verification import evaluate_pairs, even_folds, original_folds
from export.saved_model import export_saved_model
from nets.backbone import Backbone
from nets.importers.model_files import model_sha256
from tests.eval.html_page import check_stands_alone, parse, rows_of

PAIRS = Path(__file__).parents[1] / "golden" / "pairs"


@pytest.fixture(scope="module")
def net():
    return Backbone("ir8", image_size=(112, 96), seed=4)


@pytest.fixture(scope="module")
def model_path(net, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "saved_model"
    export_saved_model(net, path, (112, 112))
    return path


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The folder that runs without `--output` write to."""
    monkeypatch.chdir(tmp_path)


def expected_result(net, distance, rule):
    pairs = read_pairs(PAIRS / "pairs_py3.bin")
    cropped = pairs.batch(0, 2 * len(pairs))[:, :, 8:104, ::-1].astype(np.float32)
    parts = np.split((cropped - 127.5) / 128, 10)  # all at once would take 2 GB
    embeddings = np.concatenate([net(part, training=False) for part in parts])
    return evaluate_pairs(pair_distances(embeddings[0::2], embeddings[1::2], distance), pairs.is_same, rule)


@pytest.mark.parametrize("name", ["pairs_py2.bin", "pairs_py3.bin"])
@pytest.mark.parametrize(("distance", "rule"), [("cosine", "best"), ("cosine", "crossing"), ("L2", "best")])
def test_the_line_of_the_original_is_printed(net, model_path, name, distance, rule, tmp_path, capsys):
    output = tmp_path / "scores" / "lfw.json"
    test_lfw.main(
        [
            f"--data={PAIRS / name}",
            f"--model_path={model_path}",
            f"--distance={distance}",
            f"--threshold={rule}",
            f"--output={output}",
            "--name=lfw",
            "--batch_size=7",
        ]
    )
    expected = expected_result(net, distance, rule)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"Precision on lfw : {expected.accuracy:.5f}+-{expected.std:.5f}"
    assert printed[1].startswith(f"Threshold ({distance}, {rule}) : ")
    assert float(printed[1].split()[-1]) == pytest.approx(
        expected.threshold, abs=2e-4 if distance == "cosine" else 0.02
    )
    content = json.loads(output.read_text())
    scores = content["sets"]["lfw"]
    assert (scores["metrics"]["accuracy"], scores["num_pairs"]) == (expected.accuracy, 40)
    assert scores["data"]["sha256"] == hashlib.sha256((PAIRS / name).read_bytes()).hexdigest()
    assert content["model"]["sha256"] == model_sha256(model_path)
    low, high = scores["intervals"]["accuracy"]
    assert low <= expected.accuracy <= high


def test_np_files_score_like_bin_files(model_path, capsys):
    lines = []
    for name in ("pairs_py2.np", "pairs_py3.np"):
        test_lfw.main([f"--data={PAIRS / name}", f"--model_path={model_path}"])
        lines.append(capsys.readouterr().out.splitlines()[1])
    assert lines[0] == lines[1]


def options(**values):
    return test_lfw.LfwOptions(model_path=Path("model"), engine=EngineOptions(), **values)


class TestConfig:
    """Without `--data`, `[lfw]` of the config file names the set."""

    @pytest.fixture
    def config(self, tmp_path):
        def write(lines):
            (tmp_path / "config.ini").write_text(f"[records]\ntfrecords = records\n[lfw]\n{lines}\n")
            return tmp_path / "config.ini"

        return write

    def test_the_config_gives_set_and_order(self, config, tmp_path):
        path = config("npdata = a.np\nnpdata_order = bgr")
        completed = options(config=path).completed()
        assert (completed.data, completed.order) == ((tmp_path / "a.np",), "bgr")
        assert options(config=path, order="rgb").completed().order == "rgb"

    def test_flags_win_over_the_config(self, config):
        completed = options(
            config=config("npdata = a.np\nnpdata_order = bgr"), data=(Path("b.np"),)
        ).completed()
        assert (completed.data, completed.order) == ((Path("b.np"),), "rgb")

    def test_a_set_must_be_given(self, config, tmp_path):
        with pytest.raises(FileNotFoundError, match=f"--data .*{tmp_path}/nowhere.ini"):
            options(config=tmp_path / "nowhere.ini").completed()
        with pytest.raises(ValueError, match=r"config.ini, \[lfw\]: .*npdata.* --data"):
            options(config=config("")).completed()

    def test_the_program_scores_the_set_of_the_config(self, model_path, config, capsys):
        config(f"npdata = {PAIRS / 'pairs_py3.np'}")
        for flags in ([], [f"--data={PAIRS / 'pairs_py3.np'}"]):
            test_lfw.main([f"--model_path={model_path}", *flags])
        printed = capsys.readouterr().out.splitlines()
        assert printed[0].startswith("Precision on pairs_py3 : ") and printed[:3] == printed[4:7]


def test_several_sets_are_scored_in_one_run(model_path, tmp_path, capsys):
    data = [str(PAIRS / name) for name in ("pairs_py3.bin", "pairs_py2.np")]
    output = tmp_path / "scores.json"
    test_lfw.main(["--data", *data, f"--model_path={model_path}", f"--output={output}"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Precision on ")]
    assert [line.split()[2] for line in lines] == ["pairs_py3", "pairs_py2"]
    sets = json.loads(output.read_text())["sets"]
    assert list(sets) == ["pairs_py3", "pairs_py2"]
    version = importlib.metadata.version("tensorflow")
    assert sets["pairs_py2"]["engine"] == {"name": "tensorflow", "precision": "float32", "version": version}
    with pytest.raises(SystemExit):
        test_lfw.main(["--data", data[0], str(PAIRS / "pairs_py3.np"), f"--model_path={model_path}"])
    assert "--data: two sets have the same name: pairs_py3, pairs_py3" in capsys.readouterr().err


def test_faithful_scores_like_the_original(net, model_path, tmp_path, capsys):
    # Fewer positives than negatives, so that the folds differ, and pairs on the wrong side, so that the
    # distances cross.
    positives, negatives = pickle.loads((PAIRS / "pairs_py3.np").read_bytes())
    path = tmp_path / "uneven.np"
    path.write_bytes(pickle.dumps((positives[:12] + negatives[:5], negatives[5:] + positives[12:])))

    def expected(order="bgr", rule="crossing", make_folds=original_folds):
        pairs = read_pairs(path, order)
        first, second = embed_pairs(FaceModel.from_backbone(net, pairs.image_size), pairs)
        distances = pair_distances(first, second, "cosine")
        return evaluate_pairs(distances, pairs.is_same, rule, folds=make_folds(pairs.is_same))

    faithful = expected()
    others = [expected(order="rgb"), expected(rule="best"), expected(make_folds=even_folds)]
    assert min(abs(other.threshold - faithful.threshold) for other in others) > 1e-4
    test_lfw.main([f"--data={path}", f"--model_path={model_path}", "--faithful"])
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == faithful.summary("uneven")
    assert printed[1].startswith("Threshold (cosine, crossing)")
    assert float(printed[1].split()[-1]) == pytest.approx(faithful.threshold, abs=2e-5)


@pytest.mark.parametrize("protocol", ["folds", "insightface"])
def test_flip_adds_the_mirror_image(net, model_path, tmp_path, capsys, protocol):
    # InsightFace's sets have both kinds of pairs in every fold.
    images, is_same = pickle.loads((PAIRS / "pairs_py3.bin").read_bytes())
    order = np.stack([np.flatnonzero(is_same), np.flatnonzero(~np.array(is_same))], axis=1).ravel()
    images = [image for pair in order for image in images[2 * pair : 2 * pair + 2]]
    (tmp_path / "mixed.bin").write_bytes(pickle.dumps((images, [is_same[pair] for pair in order])))
    pairs = read_pairs(tmp_path / "mixed.bin")
    faces = pairs.batch(0, 2 * len(pairs))
    model = FaceModel.from_backbone(net, pairs.image_size)
    embeddings = model.embed(faces) + model.embed(faces[:, :, ::-1])
    given = ["--flip"] if protocol == "folds" else ["--protocol=insightface"]
    data = f"--data={tmp_path / 'mixed.bin'}"
    test_lfw.main([data, f"--model_path={model_path}", "--output=scores.json", *given])
    printed = capsys.readouterr().out
    content = json.loads((tmp_path / "scores.json").read_text())
    scores = content["sets"]["mixed"]
    assert content["flip"] is True
    test_lfw.main([data, f"--model_path={model_path}", "--output=run", *given])
    run = read_run(tmp_path / "run")
    assert run.line.fold_accuracies == tuple(scores["fold_accuracies"])
    assert run.scores.inputs.frames.flip
    assert capsys.readouterr().out == f"{printed}Report : run/report/index.html\n"
    if protocol == "folds":
        expected = evaluate_pairs(pair_distances(embeddings[0::2], embeddings[1::2], "cosine"), pairs.is_same)
        assert scores["fold_accuracies"] == list(expected.fold_accuracies)
        assert scores["threshold"] == pytest.approx(expected.threshold, rel=1e-2)
    else:
        expected = evaluate_insightface(embeddings, pairs.is_same)
        assert scores["fold_accuracies"] == list(expected.fold_accuracies)
        assert scores["val"]["tar"] == expected.val
        assert "VAL on mixed : " in printed
        assert run.method.metrics["val"] == expected.val
        assert (run.scores.method, run.scores.rule) == ("squared L2", "insightface")
        accuracies = [(run.verdicts("none")[4 * fold : 4 * fold + 4] == "right").mean() for fold in range(10)]
        assert accuracies == pytest.approx(expected.fold_accuracies)
        assert "VAL at FAR 0.001" in (tmp_path / "run" / "report" / "index.html").read_text()


class TestRun:
    def test_pairs_become_a_report(self, net, model_path, tmp_path, capsys):
        test_lfw.main([f"--data={PAIRS / 'pairs_py3.bin'}", f"--model_path={model_path}", "--name=lfw"])
        folder = tmp_path / default_output("lfw", model_path, faithful=False)
        report = default_output("lfw", model_path, faithful=False) / "report" / "index.html"
        assert capsys.readouterr().out.splitlines()[-1] == f"Report : {report}"
        run = read_run(folder)
        pairs = read_pairs(PAIRS / "pairs_py3.bin")
        expected = expected_result(net, "cosine", "best")
        assert [line.name for line in run.named_lines.values()] == ["lfw"]
        assert run.line.fold_accuracies == expected.fold_accuracies
        assert run.line.folds == tuple(range(1, 11))
        assert list(run.method.intervals) == ["accuracy"]
        np.testing.assert_array_equal(run.pairs.is_same, pairs.is_same)
        assert run.scores.inputs.model.sha256 == model_sha256(model_path)
        assert run.scores.model.net == "ir8"
        wrong = np.flatnonzero(run.verdicts("none") == "wrong")
        pictures = sorted(int(path.name.split("_")[2]) for path in (folder / "errors").iterdir())
        assert pictures == wrong.tolist()
        hardest = run.scores.hardest.genuine[0]
        assert hardest.pair == np.where(pairs.is_same, run.distances, -1).argmax()
        picture = cv2.imread(str(folder / hardest.picture))[..., ::-1]
        for column, number in (
            (picture[:, :112], 2 * hardest.pair),
            (picture[:, 116:], 2 * hardest.pair + 1),
        ):
            assert np.abs(column.astype(int) - pairs.batch(number, number + 1)[0]).mean() < 8  # of noise

        text = (folder / "report" / "index.html").read_text()
        page = parse(text)
        check_stands_alone(page, text)
        assert page.find("title")[0].text.startswith("saved_model (ir8, ")
        sections = [heading.text for heading in page.find("h2")]
        assert sections == ["Scores", "Curves", "Hardest pairs", "Inputs"]
        assert [box.find("dt")[0].text for box in page.find("dl", class_="lines")] == ["lfw"]
        assert "None" not in page.text and "ideo" not in page.text.replace("video_", "")

    def test_two_models_are_compared(self, model_path, tmp_path):
        """A run of other scores on the same pairs can be compared with the first."""
        runs = []
        for flip in ([], ["--flip"]):
            output = tmp_path / f"run{len(runs)}"
            data = f"--data={PAIRS / 'pairs_py3.bin'}"
            test_lfw.main([data, f"--model_path={model_path}", f"--output={output}", *flip])
            runs.append(read_run(output))
        page = parse(comparison_page(runs))
        numbers = rows_of(page, "Numbers of pairs by both verdicts")
        assert sum(int(cell) for cells in numbers.values() for cell in cells) == 40
        table = page.find("div", **{"aria-label": "Settings and inputs that differ"})[0]
        assert [head.text for head in table.find("thead")[0].find("th")] == ["Run", "Frames"]
        assert "SHA-256 of the splits" not in page.text

    def test_several_sets_share_an_output_folder(self, model_path, tmp_path):
        data = [str(PAIRS / name) for name in ("pairs_py3.bin", "pairs_py2.np")]
        test_lfw.main(["--data", *data, f"--model_path={model_path}", f"--output={tmp_path / 'runs'}"])
        names = [path.name for path in sorted((tmp_path / "runs").iterdir())]
        assert names == ["pairs_py2", "pairs_py3"]
        assert [read_run(tmp_path / "runs" / name).scores.set for name in names] == names

    def test_a_folder_with_other_content_is_left_alone(self, model_path, tmp_path):
        (tmp_path / "precious.txt").write_text("mine")
        data = f"--data={PAIRS / 'pairs_py3.bin'}"
        with pytest.raises(SystemExit, match="--output"):
            test_lfw.main([data, f"--model_path={model_path}", f"--output={tmp_path}"])
        assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]

    def test_only_a_json_file_is_written(self, model_path, tmp_path):
        data = f"--data={PAIRS / 'pairs_py3.bin'}"
        test_lfw.main([data, f"--model_path={model_path}", "--output=scores.json"])
        assert [path.name for path in tmp_path.iterdir()] == ["scores.json"]


def test_channel_order_matters(net):
    faces = read_pairs(PAIRS / "pairs_py3.np").batch(0, 4)
    swapped = read_pairs(PAIRS / "pairs_py3.np", "bgr").batch(0, 4)
    np.testing.assert_array_equal(faces, swapped[..., ::-1])
    model = FaceModel.from_backbone(net, (112, 112))
    assert np.abs(model.embed(faces) - model.embed(swapped)).max() > 1e-2


@pytest.mark.parametrize("batch_size", [1, 3, 64, 80, 1000])
def test_the_batch_size_does_not_matter(net, batch_size):
    pairs = read_pairs(PAIRS / "pairs_py3.bin")
    model = FaceModel.from_backbone(net, pairs.image_size)
    first, second = embed_pairs(model, pairs, batch_size)
    assert first.shape == second.shape == (40, 512)
    whole = model.embed(pairs.batch(0, 80))
    np.testing.assert_allclose(first, whole[0::2], atol=1e-4)
    np.testing.assert_allclose(second, whole[1::2], atol=1e-4)


def test_embeddings_that_are_not_finite_are_refused():
    pairs = read_pairs(PAIRS / "pairs_py3.bin")

    class Broken:
        def embed(self, faces):
            return np.full((len(faces), 4), np.nan, np.float32)

    with pytest.raises(ValueError, match="image 0: "):
        embed_pairs(Broken(), pairs)


class Hostile:
    def __reduce__(self):
        return Path.touch, (self.path,)


def test_bad_input_ends_with_one_line(model_path, tmp_path):
    Hostile.path = tmp_path / "was_here"
    (tmp_path / "hostile.np").write_bytes(pickle.dumps((Hostile(), [])))
    (tmp_path / "cut.bin").write_bytes((PAIRS / "pairs_py3.bin").read_bytes()[:5000])
    for name, message in (
        ("hostile.np", "would run code"),
        ("cut.bin", "cut.bin"),
        ("missing.bin", "missing.bin"),
    ):
        with pytest.raises(SystemExit, match=message) as stopped:
            test_lfw.main([f"--data={tmp_path / name}", f"--model_path={model_path}"])
        assert "\n" not in str(stopped.value)
    assert not Hostile.path.exists()
    with pytest.raises(SystemExit, match=r"eval.test_lfw: "):
        test_lfw.main([f"--data={PAIRS / 'pairs_py3.bin'}", f"--model_path={tmp_path / 'nothing'}"])
