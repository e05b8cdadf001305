"""Tests `train_centre` as a user runs it, on a small made-up set."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

import train_centre
from benchmarks.first_step import LINES
from common.files import folder_lock
from eval import test_lfw
from eval.embedding.model_card import read_card
from losses.build import build_loss
from nets.backbone import load_backbone
from nets.importers.model_files import model_sha256
from nets.importers.training_checkpoint import newest_checkpoint
from tests.dataset.samples import flip_bit
from tests.nets.onnx_mobilefacenet import OnnxMobileFaceNet
from tests.small_runs import PAIRS, are_equal, data, flags, log, state
from tests.torch_state import mobilefacenet_state
from training.options import ScheduleOptions, parse_centre_options, parse_triplet_options
from training.run_record import read_starts

__all__ = ["data"]  # the fixture

ROOT = Path(__file__).parents[1]


def test_records_become_a_scored_model(data, capsys):
    assert train_centre.main(flags(data)) == 0
    assert "90 images of 6 identities; ir8" in log(data)
    (model,) = (data / "models").iterdir()
    assert model.name.startswith("iter_4_lfw_0.")
    test_lfw.main([f"--data={PAIRS}", f"--model_path={model}", f"--output={data / 'lfw'}"])
    scored = float(capsys.readouterr().out.split()[4].split("+-")[0])
    assert scored == float(model.name.split("_")[3])
    # YTF is not scored, so it is not in the name.
    assert model.name == f"iter_4_lfw_{scored:.5f}"
    card = read_card(model)
    (lfw,) = card["scores"].values()
    assert (card["step"], card["net"]["architecture"]) == (4, "ir8")
    assert list(card["run"]["sources"]) == ["vgg", "ms1m"]
    assert card.calibration("single").num_impostor == 20
    assert (lfw["accuracy"], lfw["protocol"]["compare_with"]) == (scored, "eval.test_lfw")


def test_trains_on_two_replicas(data, two_replicas):
    assert train_centre.train(parse_centre_options(flags(data)), two_replicas) == 0
    (model,) = (data / "models").iterdir()
    assert (model / "saved_model.pb").is_file()
    assert newest_checkpoint(data / "ckpt")[1]["step"] == 4
    with pytest.raises(ValueError, match="--batch_size is 5"):
        train_centre.train(parse_centre_options(flags(data, batch_size=5)), two_replicas)


@pytest.mark.long
def test_an_imported_net_is_trained_further(data, capsys):
    """The ONNX net has folded norms and its own pixel scale. It is trained, resumed and exported."""
    weights = mobilefacenet_state(1, (1, 4, 6, 2), (1, 1), 24, separable=True)
    net = OnnxMobileFaceNet(
        weights, 1, (1, 4, 6, 2), folded=True, dense=False, activation="relu6", separable=True
    )
    path = net.save(data / "net.onnx", (16, 16))
    description = {"channels": "rgb", "layout": "nchw", "mean": [120, 110, 100], "scale": [60, 58, 57]}
    (data / "net.onnx.input.json").write_text(json.dumps(description))
    given = [f"--config={data / 'config.ini'}", f"--output={data}", "--batch_size=4", "--save_interval=2"]
    assert train_centre.main([*given, f"--init_from={path}", "--max_steps=2"]) == 0
    assert train_centre.main([*given, "--max_steps=3"]) == 0
    trained = load_backbone(data / "ckpt")
    expected = load_backbone(path).net
    assert {**trained.net, "seed": 0} == expected and expected["pixel_mean"] == [100, 110, 120]
    (model,) = (data / "models").glob("iter_3*")
    images = np.random.default_rng(0).uniform(-1, 1, (2, 16, 16, 3)).astype(np.float32)
    received = load_backbone(model)(images)
    np.testing.assert_allclose(received, trained(images), rtol=1e-5, atol=1e-5)
    assert (np.asarray(received) != np.asarray(load_backbone(path)(images))).any()
    with pytest.raises(SystemExit, match="1"):
        train_centre.main([*given, "--embedding_size=64"])
    assert "--embedding_size is 64 here" in capsys.readouterr().err


def test_a_missing_validation_set_is_found_before_the_conversion(data, capsys):
    config = data / "config.ini"
    config.write_text(config.read_text().replace(str(PAIRS), "nowhere.bin"))
    with pytest.raises(SystemExit):
        train_centre.main(flags(data))
    assert "nowhere.bin" in capsys.readouterr().err
    assert not (data / "tfrecords").exists()


def test_killed_run_resumes_bit_for_bit(data):
    assert train_centre.main(flags(data)) == 0
    unbroken = state(data / "ckpt")
    shutil.rmtree(data / "ckpt" / "step_00000004")  # as if the run had been killed before it
    assert train_centre.main(flags(data)) == 0
    assert "Resuming from step 2" in log(data)
    assert all(line.search(log(data)) for line in LINES.values())  # how long each phase took
    assert are_equal(state(data / "ckpt"), unbroken)
    starts = read_starts(data / "ckpt")
    steps = [(start["first_step"], start["last_step"], start["exit_code"]) for start in starts]
    assert steps == [(0, 4, 0), (2, 4, 0)] and list(starts[0]["sources"]) == ["vgg", "ms1m"]
    assert "changed since the last start" not in log(data)


def test_flags_of_the_original_keep_their_names_and_defaults():
    options = parse_centre_options([])
    defaults = {
        "data": {"config": Path("config.ini"), "batch_size": 64},
        "schedule": {"lr_steps": (40000, 60000, 80000)},
        "optimizer": {"momentum": 0.9, "weight_decay": 1e-4},
        "output": {
            "summary_path": Path("output/summary"),
            "ckpt_path": Path("output/ckpt"),
            "log_file_path": Path("output/logs"),
            "saver_maxkeep": 100,
            "summary_interval": 300,
            "ckpt_interval": 20000,
            "validate_interval": 2000,
            "show_info_interval": 20,
        },
        "start": {"model_path": None},
    }
    for group, expected in defaults.items():
        assert {name: getattr(getattr(options, group), name) for name in expected} == expected
    net = options.net.arguments(seed=0)
    assert (net["architecture"], net["image_size"]) == ("ir50", (112, 96))
    assert build_loss(options.loss.loss, 9).centre_weight == 0.3
    assert parse_centre_options(["--weight_deacy", "0.5"]).optimizer.weight_decay == 0.5
    assert parse_centre_options(["--lr_steps", "1", "2", "3"]).schedule.lr_steps == (1, 2, 3)


@pytest.mark.parametrize("parse", [parse_centre_options, parse_triplet_options])
def test_a_run_ends_without_flags(parse):
    """Row 41 of docs/fidelity.md. InsightFace's arcface_torch also trains for 20 epochs."""
    assert parse([]).length.num_steps(steps_per_epoch=100.5) == 2010
    assert parse(["--faithful"]).length.num_steps(100.5) == 10_050_000
    assert parse(["--schedule=cosine", "--lr=0.1"]).length.num_steps(100.5) == 2010


def test_learning_rate_boundaries_scale_with_the_batch_size():
    options = ScheduleOptions(lr_steps=(40000, 60000))
    assert options.boundaries(64) == [320000, 480000]
    assert options.boundaries(512) == options.boundaries(1024) == [40000, 60000]
    # Row 1 of docs/fidelity.md.
    assert ScheduleOptions(lr_steps=(40000, 60000), lr_counts_per_step=2).boundaries(64) == [160000, 240000]


@pytest.mark.parametrize(
    ("given", "flag"),
    [
        ({"lr_values": 0.1}, "--lr_values has 1 rate(s) and --lr_steps 3 step(s)"),
        ({"validate_interval": 0}, "--validate_interval is 0"),
        ({"source_weights": 0.5}, "--source_weights has 1 number(s) for 2 source(s)"),
        (
            {"loss": "arcface", "centre_weight": 1},
            "--centre_weight does not apply to --loss arcface, which takes --margin, --scale.",
        ),
        ({"loss": "softmax", "margin_warmup_steps": 9}, "--margin_warmup_steps"),
        ({"max_minutes": 0}, "--max_minutes is 0.0"),
        ({"max_bad_images": -1}, "--max_bad_images is -1"),
        ({"net_depth": 50}, "--backbone names the whole net. Leave out --net_depth"),
        ({"model_path": "a", "init_from": "b"}, "--model_path and --init_from"),
        ({"sample_rate": 0}, "--sample_rate is 0.0"),
    ],
)
def test_wrong_flags_are_named(data, given, flag, capsys):
    with pytest.raises(SystemExit) as end:
        train_centre.main(flags(data, **given))
    assert end.value.code == 2
    assert flag in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"config": "nowhere.ini"}, "nowhere.ini: no such file. Copy config.ini.example"),
        ({"source": "webface"}, "there is no source [webface]. Known sources: vgg, ms1m."),
        ({"model_path": "nowhere"}, "--model_path: nowhere does not exist"),
    ],
)
def test_missing_files_are_named(data, given, message, capsys):
    with pytest.raises(SystemExit) as end:
        train_centre.main(flags(data, **given))
    assert end.value.code == 1 and message in capsys.readouterr().err
    assert sorted(path.name for path in data.iterdir()) == ["config.ini", "ms1m", "vgg"]


@pytest.mark.parametrize("flag", ["ckpt_path", "saved_model_path", "summary_path"])
def test_a_second_run_in_the_same_folder_writes_nothing(data, flag, caplog):
    used = data / "used"
    with folder_lock(used):
        before = sorted(data.rglob("*"))
        assert train_centre.main(flags(data, **{flag: used})) == 1
        assert sorted(data.rglob("*")) == before
    assert f"{used}: process {os.getpid()} on " in caplog.text


@pytest.mark.parametrize("flag", ["ckpt_path", "saved_model_path", "summary_path", "log_file_path"])
def test_an_output_folder_that_cannot_be_written_is_found_first(data, flag, caplog, monkeypatch):
    """It is found before the conversion, which can take hours, and leaves no files."""
    (data / "file").touch()
    before = sorted(data.rglob("*"))
    arguments = flags(data, **{flag: data / "file" / "folder"})
    for given in (arguments, [*arguments, "--check"]):
        assert train_centre.main(given) == 1
        (error,) = caplog.messages
        assert f"--{flag} {data / 'file' / 'folder'}: cannot write to this folder" in error
        assert sorted(data.rglob("*")) == before
        caplog.clear()


def test_a_start_that_fails_leaves_nothing(data):
    before = sorted(data.rglob("*"))
    no_model = data / "vgg"
    assert train_centre.main(flags(data, output=data / "new" / "run", init_from=no_model)) == 1
    assert sorted(data.rglob("*")) == before
    # Files that were there before are kept.
    (data / "new" / "logs").mkdir(parents=True)
    (data / "new" / "logs" / "mine").touch()
    assert train_centre.main(flags(data, output=data / "new", init_from=no_model)) == 1
    assert [path.name for path in (data / "new").iterdir()] == ["logs"]
    assert len(list((data / "new" / "logs").iterdir())) == 2  # the other is the log of this start


def test_a_start_that_resumes_from_another_run_leaves_nothing(data):
    assert train_centre.main(flags(data, max_steps=1)) == 0
    before = sorted(data.rglob("*"))
    start = {"model_path": data / "ckpt", "output": data / "new"}
    assert train_centre.main([*flags(data, source="vgg", **start), "--allow_changes"]) == 1
    assert sorted(data.rglob("*")) == before


def test_a_run_may_use_one_folder_for_everything(data):
    one = dict.fromkeys(("ckpt_path", "saved_model_path", "summary_path"), data / "one")
    assert train_centre.main(flags(data, max_steps=1, **one)) == 0
    assert (data / "one" / "step_00000001").is_dir() and not (data / "one" / ".lock").exists()


def test_an_image_size_above_that_of_the_data_is_an_error(data, caplog):
    arguments = flags(data)
    arguments[1:3] = ["160", "160"]
    assert train_centre.main(arguments) == 1
    assert "expected faces of at least (160, 160), received (112, 112)" in caplog.text


def test_image_size_is_compared_before_a_teacher_embeds_all_images(data, caplog, monkeypatch):
    config = data / "config.ini"
    config.write_text(config.read_text().replace("enable = true", "enable = false"))
    teacher = mock.Mock(path=config, sha256="a" * 64)
    monkeypatch.setattr("training.session.load_teacher", lambda path: teacher)
    monkeypatch.setattr("training.session.teacher_targets", lambda *given: pytest.fail("too early"))
    arguments = flags(data, loss="distillation", teacher=config)
    arguments[1:3] = ["160", "160"]
    assert train_centre.main(arguments) == 1
    assert "images are 112x112, too small for an image size of 160x160" in caplog.text


def test_a_checkpoint_of_another_net_is_refused(data, capsys):
    assert train_centre.main(flags(data, max_steps=1)) == 0
    before = state(data / "ckpt")
    with pytest.raises(SystemExit):
        train_centre.main(flags(data, backbone="ir32"))
    assert "--backbone is ir32 here, but the run in" in capsys.readouterr().err
    assert are_equal(state(data / "ckpt"), before)


def test_too_many_flipped_bits_in_a_shard_stop_the_run(data, caplog):
    assert train_centre.main(flags(data, max_steps=1)) == 0
    (shard,) = (data / "tfrecords" / "vgg").glob("*.tfrecord")
    for offset in range(3000, shard.stat().st_size, 3000):
        flip_bit(shard, offset)
    assert train_centre.main(flags(data, max_steps=9, max_bad_images=0)) == 1
    assert f"{shard}: record at byte" in caplog.text and "checksum" in caplog.text
    assert "changed since the last start: --max_steps 1 -> 9" in caplog.messages
    # The steps before are saved.
    assert newest_checkpoint(data / "ckpt")[1]["step"] >= 1


@pytest.mark.long
def test_killed_run_with_bad_images_resumes_bit_for_bit(data):
    """Row 27 of docs/fidelity.md."""
    assert train_centre.main(flags(data, max_steps=1, ckpt_path=data / "first")) == 0
    (shard,) = (data / "tfrecords" / "vgg").glob("*.tfrecord")
    offsets = np.load(shard.parent / "index.npy")["offset"]
    for offset in offsets[::3].tolist():
        flip_bit(shard, offset + 300)
    assert train_centre.main(flags(data)) == 0
    unbroken = state(data / "ckpt")
    assert "bad image, replaced by another one" in log(data)
    shutil.rmtree(data / "ckpt" / "step_00000004")
    assert train_centre.main(flags(data)) == 0
    assert are_equal(state(data / "ckpt"), unbroken)


@pytest.mark.long
def test_killed_run_with_a_teacher_resumes_bit_for_bit(data, capsys):
    """The teacher has other embeddings than the net, and the loss needs no labels."""
    assert train_centre.main(flags(data, max_steps=1, output=data / "first")) == 0
    teacher, _ = newest_checkpoint(data / "first" / "ckpt")
    given = flags(data, loss="distillation", embedding_size=32)
    assert train_centre.main([*given, f"--teacher={teacher.parent}"]) == 0
    unbroken = state(data / "ckpt")
    assert unbroken["distillation/map/.ATTRIBUTES/VARIABLE_VALUE"].shape == (32, 512)
    shutil.rmtree(data / "ckpt" / "step_00000004")
    assert train_centre.main([*given, f"--teacher={teacher}", "--teacher_weight=10"]) == 0
    assert are_equal(state(data / "ckpt"), unbroken)
    assert read_starts(data / "ckpt")[1]["teacher"] == {"path": str(teacher), "sha256": model_sha256(teacher)}
    (model,) = (data / "models").iterdir()
    assert load_backbone(model).output_shape == (None, 32)
    capsys.readouterr()
    with pytest.raises(SystemExit):
        train_centre.main([*given, f"--teacher={data / 'ckpt'}"])
    assert "is not the teacher of the run" in capsys.readouterr().err


def test_ctrl_c_saves_and_the_same_command_resumes(data):
    """The program runs in its own process."""
    given = {"backbone": "ir32"}
    command = [sys.executable, "-m", "train_centre", *flags(data, max_steps=100_000, **given)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env={**os.environ})
    printed = []
    for line in process.stderr:
        printed.append(line)
        if line.startswith("step 3/"):
            process.send_signal(2)
            break
    printed += process.stderr.readlines()
    assert process.wait() == 130
    assert "Run the same command again to resume." in "".join(printed)
    assert not any("Traceback" in line for line in printed)
    stopped = newest_checkpoint(data / "ckpt")[1]["step"]
    assert stopped >= 3
    assert train_centre.main(flags(data, max_steps=stopped + 1, **given)) == 0
    assert newest_checkpoint(data / "ckpt")[1]["step"] == stopped + 1


@pytest.mark.parametrize(("flag", "shown"), [("--help", "--preset"), ("--help-all", "--centre_weight")])
def test_help_imports_no_tensorflow(flag, shown):
    code = (
        "import sys, train_centre\n"
        f"try:\n    train_centre.main(['{flag}'])\n"
        "except SystemExit as stopped:\n    assert stopped.code == 0\n"
        "assert 'tensorflow' not in sys.modules and 'keras' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert shown in done.stdout


@pytest.mark.long
def test_different_seeds_give_different_weights(data):
    states = []
    for seed in (1, 2):
        assert train_centre.main(flags(data, max_steps=1, seed=seed, ckpt_path=data / f"ckpt{seed}")) == 0
        states.append(state(data / f"ckpt{seed}"))
    assert not are_equal(*states)
