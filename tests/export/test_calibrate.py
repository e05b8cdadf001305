import json
import pickle
import shutil

import cv2
import numpy as np
import pytest

from dataset.pairs.video_pairs import write_video_pairs
from eval.embedding.model_card import card_path, read_card, write_card
from eval.scoring.calibration import calibrate
from eval.scoring.templates import pool
from eval.scoring.verification import evaluate_pairs
from export import calibrate as program
from export.calibrate import main
from nets.importers.model_files import model_sha256
from tests.eval.file_nets import expected, write_net

NUM_PEOPLE = 12
SIZE = (12, 10)


def png(face):
    return cv2.imencode(".png", face[..., ::-1])[1].tobytes()


def faces_of_people(rng, num_faces, size=SIZE):
    """Returns faces `(NUM_PEOPLE, num_faces, *size, 3)`: noise around one colour for each person."""
    colours = rng.integers(0, 256, (NUM_PEOPLE, 1, 1, 1, 3))
    noise = rng.normal(0, 60, (NUM_PEOPLE, num_faces, *size, 3))
    return np.clip(colours + noise, 0, 255).astype(np.uint8)


IS_SAME = np.repeat([True, False], NUM_PEOPLE)


def write_pairs(path, faces, is_same=IS_SAME):
    """Writes genuine pairs of each person's first two faces, and impostor pairs with the next person."""
    first, second = faces[:, 0], faces[:, 1]
    images = [np.concatenate([first, first]), np.concatenate([second, np.roll(second, -1, axis=0)])]
    stored = [png(image) for pair in zip(*images, strict=True) for image in pair]
    path.write_bytes(pickle.dumps((stored[: 2 * len(is_same)], list(is_same))))
    return images


def write_videos(folder, faces):
    """Writes two videos of each person, one of the even and one of the odd frames."""
    for person, frames in enumerate(faces):
        for number, frame in enumerate(frames):
            path = folder / "frames" / f"P{person}" / str(number % 2) / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(frame))
    people = [*range(NUM_PEOPLE)] * 2
    others = [*range(NUM_PEOPLE), *range(1, NUM_PEOPLE), 0]
    pairs = [(p % 3, f"P{p}/0", f"P{o}/1", p == o) for p, o in zip(people, others, strict=True)]
    write_video_pairs(folder / "splits.txt", pairs)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    write_net(folder / "net.onnx", ours=True)
    rng = np.random.default_rng(0)
    faces = faces_of_people(rng, 6)
    return folder, write_pairs(folder / "lfw.bin", faces), faces, write_videos(folder, faces)


@pytest.fixture
def model(made, tmp_path):
    return shutil.copy(made[0] / "net.onnx", tmp_path)


@pytest.fixture
def video_flags(made, tmp_path):
    folder = made[0]
    values = {
        "splits": folder / "splits.txt",
        "prefix": folder / "frames",
        "features": tmp_path / "features",
    }
    return [f"--{name}={value}" for name, value in values.items()]


def units(embeddings):
    return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)


def embed(faces, flip=False):
    embeddings = expected(faces, plain=True)
    return embeddings + expected(faces[:, :, ::-1], plain=True) if flip else embeddings


def assert_close(received, similarities, **values):
    """Compares thresholds with a reference; the embeddings of the model are float32."""
    reference = calibrate(similarities, IS_SAME, **values)
    np.testing.assert_allclose(received.curve.threshold, reference.curve.threshold, atol=1e-6)
    assert received.curve.tar == reference.curve.tar
    assert [row.tar for row in received.table] == [row.tar for row in reference.table]
    for name in ("kind", "set", "flip", "pooling", "num_genuine", "num_impostor", "resampled"):
        assert getattr(received, name) == getattr(reference, name)


@pytest.mark.parametrize("flip", [False, True])
def test_pairs_of_images_give_thresholds_for_single_images(made, model, flip, capsys):
    folder, images, *_ = made
    digest = model_sha256(model)
    write_card(model, {"step": 7, "scores": {"other": {"accuracy": 0.5}}})
    main([model, f"--pairs={folder / 'lfw.bin'}", *["--flip"] * flip, "--batch_size=7"])
    first, second = (units(embed(side, flip)) for side in images)
    similarities = (first * second).sum(axis=1)
    card = read_card(model)
    calibration = card.calibration("single")
    assert_close(calibration, similarities, kind="single", name="lfw", flip=flip)
    assert calibration.files == {"lfw.bin": card["scores"]["lfw"]["protocol"]["files"]["lfw.bin"]}
    # The card keeps its other values, and the model file is unchanged.
    assert (card["step"], card["scores"]["other"]) == (7, {"accuracy": 0.5})
    assert model_sha256(model) == digest
    score = card["scores"]["lfw"]
    assert score["accuracy"] == evaluate_pairs(1 - similarities, IS_SAME).accuracy
    assert score["interval"][0] <= score["accuracy"] <= score["interval"][1]
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == f"Model card : {card_path(model)}"
    assert [float(value) for value in printed[2].split()[:3]] == pytest.approx(
        [0.1, calibration.table[0].threshold, calibration.table[0].tar], abs=1e-5
    )


@pytest.mark.parametrize("pooling", ["mean", "geometric_median"])
def test_pairs_of_videos_give_thresholds_for_templates(made, model, video_flags, pooling, monkeypatch):
    faces = made[2]
    main([model, *video_flags, f"--pooling={pooling}"])
    first, second = (
        np.stack([pool(embed(frames[side::2]), pooling) for frames in faces]) for side in range(2)
    )
    similarities = np.concatenate([first * second, first * np.roll(second, -1, axis=0)]).sum(axis=1)
    calibration = read_card(model).calibration("template")
    identities = np.tile(np.arange(NUM_PEOPLE), 2)
    others = np.concatenate([np.arange(NUM_PEOPLE), np.roll(np.arange(NUM_PEOPLE), -1)])
    values = {"kind": "template", "name": "splits", "pooling": pooling, "identities": (identities, others)}
    assert_close(calibration, similarities, **values)
    # The embeddings are stored, so nothing is embedded again.
    monkeypatch.setattr(program, "embed_into", None)
    main([model, *video_flags])
    assert read_card(model).calibration("template").pooling == "mean"


def test_both_kinds_are_calibrated_at_once(made, model, video_flags):
    main([model, f"--pairs={made[0] / 'lfw.bin'}", *video_flags])
    assert list(read_card(model)["calibrations"]) == ["single", "template"]


def test_a_net_with_a_smaller_input_uses_the_centre_of_faces(tmp_path):
    faces = faces_of_people(np.random.default_rng(1), 2, (112, 112))
    model = write_net(tmp_path / "net.onnx", (112, 96), ours=True)
    thresholds = []
    for part in (faces, faces[..., 8:104, :]):
        write_pairs(tmp_path / "lfw.bin", part)
        main([str(model), f"--pairs={tmp_path / 'lfw.bin'}"])
        thresholds.append(read_card(model).calibration("single").curve)
    assert thresholds[0] == thresholds[1]


@pytest.mark.parametrize("size", [(24, 20), (12, 11), (6, 5)])
def test_faces_of_another_size_are_refused(model, tmp_path, size, capsys):
    write_pairs(tmp_path / "lfw.bin", faces_of_people(np.random.default_rng(2), 2, size))
    with pytest.raises(SystemExit, match=rf"lfw\.bin: .*{size[0]}x{size[1]}.*12x10"):
        main([model, f"--pairs={tmp_path / 'lfw.bin'}"])
    assert not card_path(model).exists()


@pytest.mark.parametrize(
    ("is_same", "shown"),
    [
        ([True] * 24, "24 and 0"),
        ([False] * 24, "0 and 24"),
        ([True] * 15 + [False] * 9, "15 and 9"),
    ],
)
def test_too_few_pairs_are_refused_at_once(made, model, tmp_path, is_same, shown, monkeypatch):
    monkeypatch.setattr(program, "embed_images", None)  # A call would fail.
    write_pairs(tmp_path / "few.bin", made[2], is_same)
    with pytest.raises(SystemExit, match=rf"few\.bin: .*{shown}"):
        main([model, f"--pairs={tmp_path / 'few.bin'}"])


def test_missing_frames_are_refused_unless_allowed(made, model, video_flags, tmp_path, capsys):
    frames = shutil.copytree(made[0] / "frames", tmp_path / "frames")
    shutil.rmtree(frames / "P3" / "1")
    flags = [*video_flags, f"--prefix={frames}"]
    with pytest.raises(SystemExit, match=r"frames: .*--allow_missing"):
        main([model, *flags])
    assert "missing: P3/1" in capsys.readouterr().out
    main([model, *flags, "--allow_missing"])
    calibration = read_card(model).calibration("template")
    assert (calibration.num_genuine, calibration.num_impostor) == (11, 11)


def test_a_damaged_or_foreign_card_is_refused_and_kept(made, model):
    for text in ("{", json.dumps({"sha256": "of another model"})):
        card_path(model).write_text(text)
        with pytest.raises(SystemExit, match=r"net\.onnx\.model_card\.json: "):
            main([model, f"--pairs={made[0] / 'lfw.bin'}"])
        assert card_path(model).read_text() == text


@pytest.mark.parametrize("flags", [[], ["--splits=splits.txt"], ["--pairs=lfw.bin", "--prefix=frames"]])
def test_missing_flags_are_named(flags, capsys):
    with pytest.raises(SystemExit) as error:
        main(["net.onnx", *flags])
    assert error.value.code == 2
    assert "--splits" in capsys.readouterr().err
