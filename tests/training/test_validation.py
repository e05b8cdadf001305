import pickle

import cv2
import numpy as np
import pytest

from common.files import file_sha256
from dataset.config import read_config
from dataset.pairs.video_pairs import write_video_pairs
from eval.embedding.face_model import FaceModel
from eval.scoring.calibration import calibrate
from eval.scoring.templates import pool
from eval.scoring.verification import evaluate_pairs, original_folds
from nets.backbone import Backbone
from nets.inference import in_float32
from training.options import ValidationOptions
from training.validation import make_validators

NUM_PEOPLE, NUM_VIDEOS, NUM_FRAMES = 12, 2, 5


@pytest.fixture(scope="module")
def net():
    return Backbone("ir8", image_size=(16, 16), seed=1)


@pytest.fixture
def config(tmp_path):
    """Videos of noise pictures. Their splits are not in the order of the lines of the file."""
    rng = np.random.default_rng(0)
    for person in range(NUM_PEOPLE):
        for video in range(NUM_VIDEOS):
            folder = tmp_path / "frames" / f"P{person}" / str(video)
            folder.mkdir(parents=True)
            for frame in range(NUM_FRAMES):
                picture = rng.integers(0, 256, (20, 20, 3), np.uint8)
                (folder / f"{frame}.png").write_bytes(cv2.imencode(".png", picture)[1].tobytes())
    pairs = []
    for person in range(NUM_PEOPLE):
        other = (person + 1) % NUM_PEOPLE
        pairs.append((person % 4, f"P{person}/0", f"P{person}/1", True))
        pairs.append((person % 4, f"P{person}/0", f"P{other}/1", False))
    write_video_pairs(tmp_path / "splits.txt", pairs)
    path = tmp_path / "config.ini"
    path.write_text("[records]\ntfrecords = x\n[ytf]\nsplits = splits.txt\nprefix = frames\n")
    return read_config(path)


def open_validators(net, config, **given):
    options = ValidationOptions(**{"validate_videos": 2, **given})
    return make_validators(net, config, options, 7)


def expected_distances(net, folder, numbers, pooling="normalised_mean"):
    def template(person, video):
        frames = [cv2.imread(str(folder / f"P{person}" / str(video) / f"{number}.png")) for number in numbers]
        cropped = np.stack(frames)[:, 2:18, 2:18].astype(np.float32)
        return pool(net((cropped - 127.5) / 128, training=False).numpy(), pooling)

    first = [template(person, 0) for person in range(NUM_PEOPLE)]
    second = [template(person, 1) for person in range(NUM_PEOPLE)]
    pairs = [(first[p], second[q % NUM_PEOPLE]) for p in range(NUM_PEOPLE) for q in (p, p + 1)]
    return np.array([1 - one @ other for one, other in pairs])


@pytest.mark.parametrize(("num_frames", "numbers"), [(2, [1, 3]), (9, range(5))])
@pytest.mark.parametrize("rule", ["best", "crossing"])
def test_videos_are_scored_by_their_templates(net, config, num_frames, numbers, rule):
    (validator,) = open_validators(net, config, validate_videos=num_frames, threshold=rule)
    assert (validator.name, validator.threshold) == ("ytf_videos", 0.94)
    is_same = np.tile([True, False], NUM_PEOPLE)
    folds = original_folds(is_same) if rule == "crossing" else np.repeat(np.arange(NUM_PEOPLE) % 4, 2)
    expected = evaluate_pairs(expected_distances(net, config.ytf.prefix, numbers), is_same, rule, folds=folds)
    result, embeddings = validator.score()
    assert len(embeddings) == NUM_PEOPLE * NUM_VIDEOS * len(numbers)
    assert result.fold_accuracies == expected.fold_accuracies
    np.testing.assert_allclose(result.fold_thresholds, expected.fold_thresholds, rtol=1e-3)
    measured = validator.calibrate(embeddings)
    similarities = 1 - expected_distances(net, config.ytf.prefix, numbers, "mean")
    reference = calibrate(similarities, is_same, kind="template", name="splits", pooling="mean")
    assert (measured.set, measured.pooling, measured.max_frames) == ("splits", "mean", num_frames)
    assert (measured.kind, measured.resampled) == ("template", "identities")
    np.testing.assert_allclose(measured.curve.threshold, reference.curve.threshold, rtol=1e-3)


def test_every_pair_is_scored(net, tmp_path, monkeypatch):
    """Row 10 of docs/fidelity.md: the original scored 64 pairs, with dropout, in one batch of 3000 images."""
    num_pairs = 70
    pictures = np.random.default_rng(1).integers(0, 256, (2 * num_pairs, 16, 16, 3), np.uint8)
    is_same = np.tile([True, False], num_pairs // 2)
    stored = [cv2.imencode(".png", picture)[1].tobytes() for picture in pictures]
    (tmp_path / "lfw.bin").write_bytes(pickle.dumps((stored, is_same.tolist())))
    (tmp_path / "config.ini").write_text("[records]\ntfrecords = x\n[lfw]\nenable = true\nnpdata = lfw.bin\n")
    (validator,) = open_validators(net, read_config(tmp_path / "config.ini"), validate_videos=None)
    embeddings = net((pictures.astype(np.float32) - 127.5) / 128, training=False).numpy()
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    distances = 1 - (unit[0::2] * unit[1::2]).sum(axis=1)
    embed, batches = FaceModel.embed, []
    monkeypatch.setattr(FaceModel, "embed", lambda *call: batches.append(len(call[1])) or embed(*call))
    result, received = validator.score()
    assert batches == [7] * 20  # the batch size of `open_validators`
    assert sorted(received[:, 0]) == pytest.approx(sorted(embeddings[:, 0]), rel=1e-3, abs=1e-4)
    assert result.fold_accuracies == evaluate_pairs(distances, is_same, "best").fold_accuracies
    measured = validator.calibrate(received)
    assert (measured.kind, measured.set, measured.resampled) == ("single", "lfw", "pairs")
    assert measured.files == {"lfw.bin": file_sha256(tmp_path / "lfw.bin")}
    reference = calibrate(1 - distances, is_same, kind="single", name="lfw")
    np.testing.assert_allclose(measured.curve.threshold, reference.curve.threshold, rtol=1e-3)


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_the_config_decides_the_channel_order(net, tmp_path, order):
    """Row 24 of docs/fidelity.md."""
    bgr = np.random.default_rng(2).integers(0, 256, (40, 16, 16, 3), np.uint8)
    stored = (bgr if order == "bgr" else bgr[..., ::-1]).reshape(2, 10, 2, 16, 16, 3)
    (tmp_path / "lfw.np").write_bytes(pickle.dumps([[list(pair) for pair in kind] for kind in stored]))
    (tmp_path / "config.ini").write_text(
        f"[records]\ntfrecords = x\n[lfw]\nenable = true\nnpdata = lfw.np\nnpdata_order = {order}\n"
    )
    (validator,) = open_validators(net, read_config(tmp_path / "config.ini"), validate_videos=None)
    _, received = validator.score()
    expected = net((bgr.astype(np.float32) - 127.5) / 128, training=False).numpy()
    np.testing.assert_allclose(received, np.concatenate([expected[0::2], expected[1::2]]), atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_scores_are_those_of_the_float32_net(config, dtype):
    """Exported nets compute in float32, whatever the precision of training."""
    trained = Backbone("ir8", image_size=(16, 16), seed=1, dtype=dtype)
    (validator,) = open_validators(trained, config, validate_videos=1)
    for seed in (2, 3):  # the weights change between validations
        trained.set_weights(Backbone("ir8", image_size=(16, 16), seed=seed).get_weights())
        _, received = validator.score()
        (reference,) = open_validators(in_float32(trained), config, validate_videos=1)
        np.testing.assert_array_equal(received, reference.score()[1])
    assert validator.protocol == {
        "pairs": 2 * NUM_PEOPLE,
        "threshold": "best",
        "file": "splits.txt",
        "sha256": file_sha256(config.ytf.splits),
        "prefix": str(config.ytf.prefix),
        "frames_per_video": 1,
        "pooling": "normalised_mean",
        "compare_with": "eval.test_ytf, which takes all frames",
    }


def test_videos_are_off_by_default(net, config):
    assert open_validators(net, config, validate_videos=None) == []


@pytest.mark.parametrize("key", ["splits", "prefix"])
def test_missing_keys_of_the_config_are_named(net, config, key):
    lines = config.path.read_text().splitlines()
    config.path.write_text("\n".join(line for line in lines if not line.startswith(key)))
    with pytest.raises(ValueError, match=rf"config.ini, \[ytf\]: --validate_videos .*'{key}'"):
        open_validators(net, read_config(config.path))


def test_error_names_a_missing_video(net, config):
    for path in sorted((config.ytf.prefix / "P3" / "1").iterdir()):
        path.unlink()
    with pytest.raises(ValueError, match=r"(?s)--validate_videos.* P3/1"):
        open_validators(net, config)
