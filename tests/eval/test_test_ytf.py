import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from dataset.config import YtfConfig
from dataset.pairs.video_frames import find_frames
from dataset.pairs.video_pairs import read_video_pairs, read_wrong_videos
from dataset.synthetic import draw_frame, write_videos
from eval import test_ytf
from eval.embedding.embedder import load_embedder
from eval.embedding.engines import Engine
from eval.embedding.feature_store import FeatureStore
from eval.report.run_folder import default_output, held_output
from eval.scoring.evaluation_run import read_run
from eval.scoring.verification import evaluate_pairs
from eval.scoring.video_distances import METHODS, video_distances
from export.saved_model import export_saved_model
from nets.backbone import Backbone
from nets.importers.model_files import model_sha256
from tests.eval.file_nets import write_net
from tests.eval.html_page import parse
from tests.eval.video_sets import flags, precisions, write_golden_set

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "verification"


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """12 people with 3 videos of 2 drawn frames each, and a net with random weights."""
    folder = tmp_path_factory.mktemp("videos")

    def draw(jobs, _name):
        return (draw_frame(0, *job) for job in jobs)

    write_videos(folder / "ytf", draw, range(12), 3, 2, np.random.default_rng(0))
    export_saved_model(Backbone("ir8", image_size=(112, 96), seed=4), folder / "model")
    return folder


def test_frames_become_a_report(videos, tmp_path, capsys):
    test_ytf.main(flags(videos, output=tmp_path / "run", batch_size=7))
    printed = precisions(capsys.readouterr().out)
    run = read_run(tmp_path / "run")

    # The same, step by step.
    pairs = read_video_pairs(videos / "ytf" / "splits.txt")
    frames = find_frames(videos / "ytf" / "112x112", pairs.videos)
    net = Backbone("ir8", image_size=(112, 96), seed=4)
    faces = (frames.decode(0, len(frames))[:, :, 8:104, ::-1].astype(np.float32) - 127.5) / 128
    embeddings = np.concatenate([net(part, training=False).numpy() for part in np.split(faces, 9)])
    distances = video_distances(embeddings, frames.offsets, pairs.first, pairs.second)
    for method in METHODS:
        # Random weights put all faces close together.
        np.testing.assert_allclose(run.pairs.distances[method], distances[method], rtol=1e-3, atol=1e-5)
    expected = evaluate_pairs(run.pairs.distances["normalised_mean"], pairs.is_same, folds=pairs.splits)
    assert printed == dict.fromkeys(printed, f"{expected.accuracy:.5f}+-{expected.std:.5f}")
    assert list(printed) == ["YTF", "YTF-corrected (both)", "YTF-corrected (positives)"]

    assert run.scores.inputs.model.sha256 == model_sha256(videos / "model")
    assert run.scores.inputs.frames.sha256 == frames.sha256
    assert run.scores.coverage.frames == 72
    wrong = (run.pairs.distances["normalised_mean"] < np.repeat(expected.fold_thresholds, 6)) != pairs.is_same
    pictures = list((tmp_path / "run" / "errors").iterdir())
    assert len(pictures) == wrong.sum() > 0
    picture = cv2.imread(str(pictures[0]))[..., ::-1]
    assert picture.shape == (112 + 24, 2 * 112 + 4, 3)
    pair = int(pictures[0].name.split("_")[2])
    for column, side in ((picture[:112, :112], pairs.first), (picture[:112, 116:], pairs.second)):
        start = frames.offsets[side[pair]]
        assert np.abs(column.astype(int) - frames.decode(start, start + 1)[0]).mean() < 3
    hardest = run.scores.hardest.genuine
    assert cv2.imread(str(tmp_path / "run" / hardest[0].picture)).shape == (3 * 112, 2 * 112 + 4, 3)
    # Both columns show three faces. A video has two frames, so the second one comes twice.
    picture = cv2.imread(str(tmp_path / "run" / hardest[0].picture))[..., ::-1]
    for column, side in ((picture[:, :112], pairs.first), (picture[:, 116:], pairs.second)):
        start = frames.offsets[side[hardest[0].pair]]
        shown = np.concatenate([frames.decode(number, number + 1)[0] for number in start + [0, 1, 1]])
        assert np.abs(column.astype(int) - shown).mean() < 3
    genuine = np.where(pairs.is_same, run.pairs.distances["normalised_mean"], -1)
    assert hardest[0].pair == genuine.argmax()
    page = parse((tmp_path / "run" / "report" / "index.html").read_text())
    assert page.find("p", class_="model")[0].text.startswith("ir8 · ")
    # None of the wrong videos is in this set, so the three lines are the same.
    assert [box.find("dt")[0].text for box in page.find("dl", class_="lines")] == ["YTF"]


def test_a_model_file_with_its_own_runtime_is_scored(videos, tmp_path):
    path = write_net(tmp_path / "net.xml", (112, 112), ours=True)
    test_ytf.main(flags(videos, model_path=path, output=tmp_path / "run", features=tmp_path / "features"))
    run = read_run(tmp_path / "run")
    assert run.scores.engine == Engine("openvino") and "openvino" in run.scores.versions
    pairs = read_video_pairs(videos / "ytf" / "splits.txt")
    frames = find_frames(videos / "ytf" / "112x112", pairs.videos)
    embeddings = load_embedder(path).embed(frames.decode(0, len(frames)))
    distances = video_distances(embeddings, frames.offsets, pairs.first, pairs.second)
    np.testing.assert_allclose(run.pairs.distances["mean"], distances["mean"], rtol=1e-3, atol=1e-6)


def test_the_second_run_needs_no_tensorflow(videos, tmp_path):
    test_ytf.main(flags(videos, output=tmp_path / "first"))
    program = """
import sys
from eval import test_ytf
test_ytf.main(sys.argv[1:])
raise SystemExit("loads TensorFlow" if "tensorflow" in sys.modules else 0)
"""
    subprocess.run(
        [sys.executable, "-c", program, *flags(videos, output=tmp_path / "second")],
        check=True,
        cwd=ROOT,
        capture_output=True,
    )
    first, second = (read_run(tmp_path / name) for name in ("first", "second"))
    assert dataclasses.replace(first.scores, command="") == dataclasses.replace(second.scores, command="")


def test_features_are_continued_and_every_engine_has_its_own_features(videos, tmp_path, capsys):
    values = {"features": tmp_path / "features", "output": tmp_path / "run"}
    arguments = flags(videos, **values, batch_size=16)

    class Killed(BaseException):
        pass

    def append(store, rows, append=FeatureStore.append):
        append(store, rows)
        if store.num_done > 32:
            raise Killed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(FeatureStore, "append", append)
        test_ytf.main(arguments)
    (begun,) = (path for path in values["features"].iterdir() if path.is_dir())
    first = (begun / "features.f32").read_bytes()
    capsys.readouterr()
    test_ytf.main(arguments)
    assert "Engine : tensorflow" in capsys.readouterr().out
    assert (begun / "features.f32").read_bytes().startswith(first)
    assert read_run(tmp_path / "run").scores.engine == Engine("tensorflow")
    assert "<dt>Engine</dt>" in (tmp_path / "run" / "report" / "index.html").read_text()
    assert [path for path in values["features"].iterdir() if path.is_dir()] == [begun]

    test_ytf.main([*arguments, "--engine=openvino"])
    assert "Engine : openvino" in capsys.readouterr().out
    (other,) = (path for path in values["features"].iterdir() if path.is_dir() and path != begun)
    received, expected = (np.fromfile(path / "features.f32", "<f4") for path in (other, begun))
    np.testing.assert_allclose(received, expected, rtol=1e-3, atol=1e-4)
    assert (received != expected).any()


def test_progress_is_logged_without_a_terminal(videos, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("common.progress.LOG_SECONDS", 0)
    test_ytf.main(flags(videos, output=tmp_path / "run", features=tmp_path / "features", batch_size=36))
    lines = [line for line in caplog.messages if " of 72 frames, " in line]
    assert [line.split(", ")[0] for line in lines] == [
        *("checking: 72 of 72 frames", "embedding: 36 of 72 frames", "embedding: 72 of 72 frames")
    ]
    assert all(" frames/s, " in line and line.endswith(" left") for line in lines)


def test_flip_has_its_own_features(videos, tmp_path):
    values = {"features": tmp_path / "features"}
    test_ytf.main(flags(videos, output=tmp_path / "run", **values))
    before = {path.name for path in values["features"].iterdir()}
    test_ytf.main([*flags(videos, output=tmp_path / "flipped", **values), "--flip"])
    assert {path.name for path in values["features"].iterdir()} - before
    run, flipped = (read_run(tmp_path / name).pairs.distances["mean"] for name in ("run", "flipped"))
    assert np.abs(run - flipped).max() > 1e-4


def test_cropped_frames_give_the_same_scores(videos, tmp_path):
    for path in (videos / "ytf" / "112x112").glob("*/*/*.jpg"):
        wider = cv2.copyMakeBorder(cv2.imread(str(path)), 4, 4, 6, 6, cv2.BORDER_CONSTANT, value=(255,) * 3)
        to = tmp_path / "frames" / path.relative_to(videos / "ytf" / "112x112").with_suffix(".png")
        to.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(to), wider)
    values = {"features": tmp_path / "features"}
    test_ytf.main(flags(videos, output=tmp_path / "run", **values))
    wider = flags(videos, prefix=tmp_path / "frames", output=tmp_path / "cropped", **values)
    test_ytf.main([*wider, "--crop", "112", "112"])
    run, cropped = (read_run(tmp_path / name) for name in ("run", "cropped"))
    np.testing.assert_array_equal(run.pairs.distances["mean"], cropped.pairs.distances["mean"])
    assert cropped.scores.inputs.frames.crop == (112, 112)
    with pytest.raises(SystemExit, match=r"\(112, 112\).*\(120, 124\)"):
        test_ytf.main(wider)
    with pytest.raises(SystemExit, match=r"--crop 121 112: .* 120x124"):
        test_ytf.main([*wider, "--crop", "121", "112"])


class TestCoverage:
    @pytest.fixture
    def incomplete(self, videos, tmp_path):
        """The set without one video, with an empty one and with a damaged frame in a third."""
        prefix = tmp_path / "frames"
        pairs = read_video_pairs(videos / "ytf" / "splits.txt")
        for number, video in enumerate(pairs.videos):
            if number == 0:
                continue
            (prefix / video).mkdir(parents=True)
            for path in sorted((videos / "ytf" / "112x112" / video).iterdir())[: 0 if number == 1 else None]:
                (prefix / video / path.name).write_bytes(path.read_bytes()[: 900 if number == 2 else None])
                number = -1  # damage one only
        return pairs, prefix

    def test_missing_frames_stop_the_program(self, videos, incomplete, tmp_path, capsys):
        pairs, prefix = incomplete
        with pytest.raises(SystemExit, match="--allow_missing"):
            test_ytf.main(flags(videos, prefix=prefix, output=tmp_path / "run"))
        printed = capsys.readouterr().out
        assert "36 named, 34 found, 1 missing, 1 empty" in printed
        assert f"missing: {pairs.videos[0]}" in printed
        assert f"empty: {pairs.videos[1]}" in printed
        assert f"unusable: {pairs.videos[2]}/" in printed
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize("given", [["--allow_missing"], ["--faithful"]])
    def test_allow_missing_scores_the_other_pairs(self, videos, incomplete, tmp_path, given):
        pairs, prefix = incomplete
        arguments = flags(videos, prefix=prefix, output=tmp_path / "run", features=tmp_path / "features")
        if "--faithful" in given:
            # The original's folds need as many negatives as positives.
            arguments.append("--folds=official")
        test_ytf.main([*arguments, *given])
        run = read_run(tmp_path / "run")
        left_out = np.isin([pairs.first, pairs.second], [0, 1]).any(axis=0)
        assert run.scores.coverage.pairs_left_out == left_out.sum() > 0
        assert len(run.pairs) == len(pairs) - left_out.sum()
        assert run.scores.coverage.frames == 72 - 4 - 1


@pytest.mark.parametrize(
    ("name", "num_wrong"),
    [("verification", 0), ("verification_separable", 0), ("verification_unequal", 13)],
)
def test_faithful_prints_what_the_original_does(tmp_path, capsys, name, num_wrong):
    expected, arguments = write_golden_set(tmp_path, name, num_wrong, model="ckpt")
    test_ytf.main([*arguments, "--faithful"])
    printed = precisions(capsys.readouterr().out)
    line = f"{expected['accuracy']:.5f}+-{expected['std']:.5f}"
    assert printed["YTF-corrected (positives)"] == line
    assert (printed["YTF"] == line) == (num_wrong == 0)
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert scores["lines"][2]["fold_accuracies"] == expected["fold_accuracies"].tolist()
    assert scores["methods"]["normalised_mean"]["metrics"]["accuracy"] == expected["accuracy"]
    # The name is the checkpoint's, not that of the folder of checkpoints.
    assert scores["name"] == scores["model"]["name"] == "ir32, step 7"


def test_a_second_run_stops_before_it_computes_anything(tmp_path):
    _, arguments = write_golden_set(tmp_path, "verification")
    (tmp_path / "link").symlink_to(tmp_path / "run")
    with held_output(tmp_path / "run"):
        assert not (tmp_path / "run").exists()
        for output in ("run", "link"):
            with pytest.raises(SystemExit, match=rf"{tmp_path}/run: process {os.getpid()} on "):
                test_ytf.main([*arguments, "--faithful", f"--output={tmp_path / output}"])
    test_ytf.main([*arguments, "--faithful"])
    assert not list(tmp_path.glob(".run*"))


def test_an_output_that_is_a_link_is_followed(tmp_path):
    _, arguments = write_golden_set(tmp_path, "verification_unequal")
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to("disk")
    for method in ("normalised_mean", "mean"):
        test_ytf.main([*arguments, "--faithful", f"--pooling={method}"])
    assert (tmp_path / "run").is_symlink() and read_run(tmp_path / "disk").scores.method == "mean"


def test_long_names_and_names_that_are_not_utf8_work(tmp_path, capsys):
    """Two names of 80 letters of three bytes each are too long for one file name."""
    person = "語" * 80
    _, arguments = write_golden_set(tmp_path, "verification", person=person, model="net\udcff.keras")
    (tmp_path / "frames" / f"{person}0000" / "a" / "bad\udcfe.jpg").write_bytes(b"no picture")
    test_ytf.main([*arguments, "--faithful", f"--output={tmp_path / 'run'}\udcff"])
    folder = Path(f"{tmp_path / 'run'}\udcff")
    assert "bad\\udcfe.jpg: " in capsys.readouterr().out
    scores = read_run(folder).scores
    assert scores.name == "net\ufffd.keras" and scores.command.endswith("run\ufffd'")
    assert list(scores.coverage.unusable) == [f"{person}0000/a/bad\ufffd.jpg"]
    page = (folder / "report" / "index.html").read_text("utf-8")
    assert "net\ufffd.keras" in page and person in page
    names = [path.name for path in (folder / "errors").iterdir()]
    assert names and all("_語語語" in name and name.endswith(".jpg") for name in names)


def test_paths_come_from_the_config(videos, tmp_path, monkeypatch, capsys):
    (tmp_path / "wrong.txt").write_text("\n")
    (tmp_path / "config.ini").write_text(
        f"[records]\ntfrecords = records\n[ytf]\nsplits = {videos}/ytf/splits.txt\n"
        f"prefix = {videos}/ytf/112x112\nytf_error = wrong.txt\n"
    )
    monkeypatch.chdir(tmp_path)
    test_ytf.main([f"--model_path={videos / 'model'}", f"--features={videos / 'features'}"])
    run = read_run(default_output("ytf", videos / "model", faithful=False))
    assert run.scores.inputs.ytf_error.path.endswith("wrong.txt")
    # A second run replaces the folder.
    test_ytf.main([f"--model_path={videos / 'model'}", f"--features={videos / 'features'}", "--pooling=mean"])
    assert read_run(default_output("ytf", videos / "model", faithful=False)).scores.method == "mean"


class TestWrongVideos:
    """The list of the original is the default, and a path replaces it."""

    def test_the_default_list_is_the_original_s(self):
        names = read_wrong_videos(YtfConfig().ytf_error)
        assert len(names) == 35 and {"Alma_Powell/2", "JK_Rowling/5", "Paul_Schrader/4"} < set(names)

    @pytest.mark.parametrize("key", ["", "ytf_error = mine.txt"])
    @pytest.mark.parametrize("given", [{}, {"ytf_error": Path("given.txt")}])
    def test_a_path_replaces_the_list(self, tmp_path, key, given):
        config = tmp_path / "config.ini"
        config.write_text(f"[records]\ntfrecords = records\n[ytf]\nprefix = a\nsplits = b\n{key}\n")
        expected = given.get("ytf_error", tmp_path / "mine.txt" if key else YtfConfig().ytf_error)
        assert test_ytf.DataOptions(config=config, **given).completed().ytf_error == expected
        flags = {"splits": Path("a"), "prefix": Path("b"), **given}  # The config file may not exist.
        expected = given.get("ytf_error", YtfConfig().ytf_error)
        assert test_ytf.DataOptions(config=Path("nowhere"), **flags).completed().ytf_error == expected

    def test_a_set_without_these_videos_is_scored(self, tmp_path, capsys):
        _, arguments = write_golden_set(tmp_path, "verification")
        arguments = [argument for argument in arguments if not argument.startswith("--ytf_error")]
        test_ytf.main([*arguments, "--faithful"])
        printed = capsys.readouterr().out
        assert "0 listed as wrong" in printed and len(set(precisions(printed).values())) == 1
        assert read_run(tmp_path / "run").scores.inputs.ytf_error.path.endswith("dataset/ytf-error.txt")


def test_a_folder_with_other_content_is_left_alone(videos, tmp_path):
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(SystemExit, match="--output"):
        test_ytf.main(flags(videos, output=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("model_path", "nowhere", "nowhere: no such model"),
        ("splits", "nowhere.txt", "nowhere.txt: no such file"),
        ("prefix", "nowhere", "nowhere: no such folder"),
        ("ytf_error", "nowhere.txt", "nowhere.txt: no such file"),
    ],
)
def test_bad_input_ends_with_one_line(videos, tmp_path, flag, value, message):
    with pytest.raises(SystemExit, match=message) as stopped:
        test_ytf.main(flags(videos, **{"output": tmp_path / "run", flag: tmp_path / value}))
    assert "\n" not in str(stopped.value)
