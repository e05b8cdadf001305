"""Tests the checks that run before TensorFlow is imported."""

import json
import logging
import shutil
from pathlib import Path

import pytest

from common.files import file_sha256
from training.input_checks import find_input_problems, log_start_of_resumed_run, start_record
from training.options import parse_centre_options, parse_triplet_options
from training.run_record import recorded

NET = {"architecture": "ir50", "image_size": [112, 96], "embedding_size": 512, "keep_prob": 0.4, "seed": 0}
ROOT = Path(__file__).parents[2]
PAIRS = ROOT / "tests" / "golden" / "pairs" / "pairs_py3.bin"
EXAMPLE = ROOT / "config.ini.example"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with a config, a converted source, and two models."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.ini").write_text(
        f"[records]\ntfrecords = records\n[vgg]\nmxrec = gone\n[lfw]\nenable = true\nnpdata = {PAIRS}\n"
    )
    (tmp_path / "records" / "vgg").mkdir(parents=True)
    (tmp_path / "records" / "vgg" / "manifest.json").write_text("{}")
    for name in ("a.keras", "b.keras"):
        (tmp_path / name).write_text("")
    return tmp_path


def problems_of(parse, *given):
    return list(find_input_problems(parse([*given, "--source=vgg"])))


def write_checkpoint(folder, first, step=5, **changed):
    """Writes a checkpoint, without weights, of a run whose first start had the options `first`."""
    record = {} if first is None else {"started_from": start_record(first)}
    target = folder / f"step_{step:08d}"
    target.mkdir(parents=True)
    manifest = {"version": 1, "step": step, "loss": "triplet", "net": NET, "sha256": {}, **record, **changed}
    (target / "checkpoint.json").write_text(json.dumps(manifest))
    return target


@pytest.mark.parametrize("flag", ["--model_path", "--init_from"])
@pytest.mark.parametrize("has_checkpoint", [False, True])
def test_a_model_has_to_exist(folder, flag, has_checkpoint):
    if has_checkpoint:
        write_checkpoint(folder / "output" / "ckpt", None, loss="angular_centre")
    (problem,) = problems_of(parse_centre_options, f"{flag}=nowhere")
    assert problem.startswith(f"{flag}: nowhere ")
    (folder / "nowhere.index").write_text("")
    (folder / "nowhere.data-00000-of-00001").write_text("")
    assert problems_of(parse_centre_options, f"{flag}=nowhere") == []


def test_the_same_command_resumes(folder, monkeypatch):
    given = ["--model_path=a.keras"]
    write_checkpoint(folder / "output/vgg-triplet/ckpt", parse_triplet_options(given))
    assert problems_of(parse_triplet_options, *given) == []
    assert problems_of(parse_triplet_options, f"--model_path={folder}/a.keras") == []
    assert problems_of(parse_triplet_options) == []  # A run with a checkpoint needs no model.
    # All folders were moved.
    moved = shutil.copytree(folder, folder.with_name(f"{folder.name}_moved"))
    monkeypatch.chdir(moved)
    assert problems_of(parse_triplet_options, *given) == []


@pytest.mark.parametrize(
    ("parse", "first", "second", "names"),
    [
        (parse_triplet_options, "--model_path=a.keras", "--model_path=b.keras", ("a.keras", "b.keras")),
        (parse_triplet_options, "--from_scratch", "--model_path=b.keras", ("random weights", "b.keras")),
        (parse_triplet_options, "--model_path=a.keras", "--from_scratch", ("a.keras", "--from_scratch")),
        (parse_centre_options, "--init_from=a.keras", "--init_from=b.keras", ("a.keras", "b.keras")),
        (parse_centre_options, "--init_from=a.keras", "--model_path=a.keras", ("--init_from a.keras",)),
        (parse_centre_options, None, "--model_path=b.keras", ("random weights", "b.keras")),
    ],
)
def test_another_start_model_than_that_of_the_run_is_refused(folder, parse, first, second, names):
    ckpt = f"--ckpt_path={folder / 'ckpt'}"
    loss = parse([]).loss_name
    write_checkpoint(folder / "ckpt", parse([first] if first else []), loss=loss)
    (problem,) = problems_of(parse, second, ckpt)
    for part in (*names, str(folder / "ckpt"), "step 5", "--output NEW", f"Leave out {second.split('=')[0]}"):
        assert part in problem


def test_only_the_newest_checkpoint_of_the_run_itself_is_accepted(folder):
    ckpt = folder / "output" / "ckpt"
    older, newest = (
        write_checkpoint(ckpt, parse_centre_options([]), step, loss="angular_centre") for step in (4, 5)
    )
    assert problems_of(parse_centre_options, f"--model_path={newest}") == []
    assert problems_of(parse_centre_options, "--model_path=output/ckpt") == []
    (problem,) = problems_of(parse_centre_options, f"--model_path={older}")
    assert str(older) in problem and "step 5" in problem


def test_an_old_checkpoint_resumes_with_a_warning(folder, caplog):
    caplog.set_level(logging.INFO)
    ckpt = folder / "output" / "ckpt"
    options = parse_centre_options(["--init_from=b.keras"])
    newest = write_checkpoint(ckpt, None, loss="angular_centre")
    assert problems_of(parse_centre_options, "--init_from=b.keras") == []
    log_start_of_resumed_run(options, newest, json.loads((newest / "checkpoint.json").read_text()))
    log_start_of_resumed_run(options, newest, {"started_from": start_record(options)})
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert all("--init_from b.keras" in message and str(newest) in message for message in caplog.messages)


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--net_depth=32"], ("--net_depth is ir32 here", "trains ir50", "Leave --net_depth out")),
        (["--backbone=se_ir32"], ("--backbone is se_ir32 here", "trains ir50")),
        (["--image_size", "16", "16"], ("--image_size is 16 16 here", "trains 112 96")),
        (["--embedding_size=128"], ("--embedding_size is 128 here", "trains 512")),
        (["--embedding_size=128"], ("--embedding_size is 128 here", "trains 512")),
        (["--optimizer=adamw"], ("--optimizer is adamw", "Give --optimizer sgd")),
        (["--ema=0.9"], ("--ema is 0.9", "no average")),
        (
            ["--random_final_gamma"],
            ("--random_final_gamma is on", "has off", "Leave out --random_final_gamma", "--allow_changes"),
        ),
        (["--loss=arcface"], ("--loss is arcface", "has angular_centre", "--allow_changes")),
        (["--keep_prob=0.9"], ("--keep_prob is 0.9", "has 0.4", "--allow_changes")),
        (["--seed=1"], ("--seed is 1", "Give --seed 0", "--allow_changes")),
        (["--batch_size=32"], ("--batch_size is 32", "Give --batch_size 64", "--allow_changes")),
        (["--source", "ms1m"], ("--source is ms1m", "has vgg", "--allow_changes")),
    ],
)
def test_changes_that_prevent_a_resume_are_named(folder, flags, parts):
    first = parse_centre_options(["--source=vgg"])
    ckpt = folder / "output" / "ckpt"
    write_checkpoint(ckpt, first, loss="angular_centre")
    with recorded(ckpt, first, {}):
        pass
    (folder / "config.ini").write_text((folder / "config.ini").read_text() + "[ms1m]\nmxrec = records\n")
    assert list(find_input_problems(first)) == []
    given = [*([] if "--source" in flags else ["--source=vgg"]), *flags]
    (problem,) = find_input_problems(parse_centre_options(given))
    for part in (*parts, "output/ckpt", "--output NEW"):
        assert part in problem
    allowed = list(find_input_problems(parse_centre_options([*given, "--allow_changes"])))
    assert allowed == ([] if "--allow_changes" in parts else [problem])


@pytest.mark.parametrize(
    ("recorded", "given", "part"),
    [
        ("a", ["--teacher=a.keras"], None),
        (None, [], None),
        ("a", ["--teacher=b.keras"], "--teacher: b.keras is not the teacher of the run in output/ckpt"),
        ("a", [], "--teacher is not given, but the run in output/ckpt has a teacher"),
        (None, ["--teacher=a.keras"], "--teacher is a.keras, but the run in output/ckpt has no teacher"),
    ],
)
def test_another_teacher_than_that_of_the_run_is_refused(folder, recorded, given, part):
    (folder / "b.keras").write_text("another")
    teacher = {} if recorded is None else {"teacher": file_sha256(folder / f"{recorded}.keras")}
    write_checkpoint(folder / "output" / "ckpt", None, loss="angular_centre", **teacher)
    problems = problems_of(parse_centre_options, *given)
    assert len(problems) == (part is not None)
    assert all(part in problem and "--output NEW" in problem for problem in problems)
    assert problems_of(parse_centre_options, *given, "--allow_changes") == []


def test_a_source_without_labels_needs_a_loss_without_labels(folder):
    text = (folder / "config.ini").read_text()
    (folder / "config.ini").write_text(text.replace("mxrec = gone", "folder = records"))
    teacher = "--teacher=a.keras"
    assert problems_of(parse_centre_options, "--loss=distillation", teacher) == []
    for parse, given in ((parse_centre_options, []), (parse_triplet_options, ["--from_scratch"])):
        (problem,) = problems_of(parse, teacher, *given)
        assert problem.startswith("config.ini, [vgg] folder has no labels")


def test_a_teacher_has_to_exist(folder):
    (problem,) = problems_of(parse_centre_options, "--teacher=nowhere")
    assert problem.startswith("--teacher: nowhere does not exist")


def test_a_run_of_the_other_program_is_refused(folder):
    write_checkpoint(folder / "a", parse_triplet_options([]))
    (problem,) = problems_of(parse_centre_options, "--model_path=a")
    assert "the run in a has the loss triplet" in problem and "--init_from" in problem


@pytest.mark.parametrize(
    "changed",
    [
        {"net": {}},
        {"net": {"architecture": "vgg99"}},
        {"started_from": 3},
        {"started_from": {"init_from": "b.keras"}},
    ],
)
@pytest.mark.parametrize("flags", [[], ["--faithful", "--init_from=a.keras"]])
def test_an_odd_manifest_causes_no_traceback(folder, changed, flags):
    """The run itself reports the problem with the checkpoint."""
    options = parse_centre_options([*flags, "--source=vgg"])
    write_checkpoint(folder / "output" / "ckpt", options, **{"loss": "angular_centre", **changed})
    assert len(list(find_input_problems(options))) <= 1


def test_train_triplet_needs_a_model_or_from_scratch(folder):
    (problem,) = problems_of(parse_triplet_options)
    assert "--model_path" in problem and "--from_scratch" in problem
    assert problems_of(parse_triplet_options, "--from_scratch") == []
    with pytest.raises(SystemExit) as end:
        parse_triplet_options(["--from_scratch", "--model_path=a.keras"])
    assert end.value.code == 2


def test_all_files_of_an_unedited_config_are_listed(folder):
    shutil.copy(EXAMPLE, folder / "config.ini")
    text = (folder / "config.ini").read_text().replace("enable = false", "enable = true")
    (folder / "config.ini").write_text(text)
    options = parse_triplet_options(
        ["--source", "vgg", "ms2m", "--validate_videos=3", "--model_path=nowhere"]
    )
    places = [problem.split(": ")[0] for problem in find_input_problems(options)]
    assert places == [
        "config.ini, [vgg] mxrec",
        "config.ini",
        "config.ini, [lfw] npdata",
        "config.ini, [ytf] pairs",
        "config.ini, [ytf] prefix",
        "config.ini, [ytf] splits",
        "--model_path",
    ]
    assert "Did you mean ms1m?" in list(find_input_problems(options))[1]


def test_a_wrong_config_does_not_hide_other_problems(folder):
    (folder / "config.ini").write_text("[records]\n[lfw]\nenable = perhaps\n")
    problems = problems_of(parse_centre_options, "--init_from=nowhere")
    places = ["config.ini, [records] tfrecords ", "config.ini, [lfw] enable ", "--init_from: "]
    for problem, place in zip(problems, places, strict=True):
        assert problem.startswith(place)
    assert "Give the file" in problems_of(parse_centre_options, f"--config={folder}")[0]
