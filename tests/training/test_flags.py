"""Tests that the flags of docs/fidelity.md change a run as their rows say, and `--faithful` sets them."""

import importlib
import inspect
import math
import re

import numpy as np
import pytest

import dataset.sampling.by_identity
import dataset.sampling.shuffled
import train_centre
import train_triplet
from common.options import flag_values
from losses.variants import LOSSES
from nets.importers.tf1_weights import tf1_variables
from tests.dataset.samples import make_images
from tests.small_runs import PAIRS, data, flags
from training import schedules, session, validation
from training.options import FAITHFUL, parse_centre_options, parse_triplet_options

__all__ = ["data"]  # the fixture

# The flag of each row, with its default.
ROWS = {
    1: ("lr_counts_per_step", 1),
    3: ("mirror", True),
    5: ("dense_decay", "every_depth"),
    7: ("random_final_gamma", False),
    12: ("reshuffle", True),
    13: ("with_replacement", False),
    18: ("threshold", "best"),
    24: ("lfw_as_stored", False),
    25: ("list_order", "bgr"),
    41: ("epoch", 20),
}
PROGRAMS = {
    parse_centre_options: {**FAITHFUL, "reshuffle": False},
    parse_triplet_options: {**FAITHFUL, "with_replacement": True},
}


@pytest.mark.parametrize("parse", PROGRAMS)
def test_faithful_sets_every_flag_of_the_ledger(parse):
    plain, faithful = (flag_values(parse(given)) for given in ([], ["--faithful"]))
    changed = {name for name in plain if name != "faithful" and plain[name] != faithful[name]}
    assert changed == PROGRAMS[parse].keys()
    assert {name: faithful[name] for name in changed} == PROGRAMS[parse]
    assert changed | {"reshuffle", "with_replacement"} == {name for name, _ in ROWS.values()}
    for name, default in ROWS.values():
        assert plain.get(name, default) == default


def test_given_flag_wins_over_faithful():
    options = parse_triplet_options(["--mirror", "--faithful", "--threshold=best", "--no-squared"])
    data = options.data
    assert (data.mirror, options.validation.threshold, options.triplet.squared) == (True, "best", False)
    assert data.list_order == "rgb"
    assert parse_triplet_options([]).data.list_order == "bgr"  # The defaults of the next run are not changed.


@pytest.fixture
def run_of(data, monkeypatch):
    """Returns a function that sets up a run and returns the arguments of watched calls.

    The data are several sources, including an image list, and an `.np` file of pairs.
    """
    (data / "images").mkdir()
    lines = []
    for number, (encoded, label) in enumerate(make_images()[:30]):
        (data / "images" / f"{number}.jpg").write_bytes(encoded)
        lines.append(f"{number}.jpg {label}\n")
    (data / "list.txt").write_text("".join(lines))
    config = (data / "config.ini").read_text().replace(str(PAIRS), str(PAIRS.with_suffix(".np")))
    (data / "config.ini").write_text(config + "[WebFace]\ntrain_list = ./list.txt\nprefix = ./images\n")

    seen = {}

    def watch(holder, name):
        watched = getattr(holder, name)

        def call(*args, **kwargs):
            bound = inspect.signature(watched).bind(*args, **kwargs)
            bound.apply_defaults()
            seen[name] = bound.arguments
            return watched(*args, **kwargs)

        monkeypatch.setattr(holder, name, call)

    for name in ("TrainingBatches", "Trainer"):
        watch(session, name)
    watch(schedules.schedules, "PiecewiseConstantDecay")
    for name in ("evaluate_pairs", "read_pairs"):
        watch(validation, name)
    # The programs import these classes when they run.
    watch(dataset.sampling.shuffled, "ShuffledSampler")
    watch(dataset.sampling.by_identity, "IdentitySampler")

    def only_validate(loop):
        for validator in loop.validators:
            validator.score()
        return 0

    # Skips training: all watched calls happen before it.
    monkeypatch.setattr(session.TrainingLoop, "run", only_validate)

    def run(program, *given, **values):
        arguments = [*flags(data, max_steps=1, **values), *given, "--source", "vgg", "WebFace"]
        if program is train_triplet:
            arguments.append("--from_scratch")
        assert program.main(arguments) == 0
        return seen

    return run


@pytest.mark.parametrize("faithful", [False, True])
def test_flags_change_a_run_as_documented(run_of, faithful):
    rates = ["--lr_steps", "40", "--lr_values", "1e-4", "1e-5"]
    seen = run_of(train_centre, *rates, *(["--faithful"] if faithful else []))
    names = {id(v): name for name, v in tf1_variables(seen["Trainer"]["backbone"]).items()}
    decayed = {names.get(id(variable), "centres") for variable in seen["Trainer"]["decayed_variables"]}
    gamma = seen["Trainer"]["backbone"].get_layer("E_BN2").gamma.numpy()
    # With 4 images per step each of lr_steps stands for 512 / 4 steps.
    assert seen["PiecewiseConstantDecay"]["boundaries"] == [40 * 128 // (2 if faithful else 1)]
    assert seen["TrainingBatches"]["options"].mirror is not faithful
    assert ("resnet_v1_8/E_DenseLayer/W" in decayed) is not faithful
    assert "centres" in decayed and "resnet_v1_8/conv1/W_conv2d" in decayed
    assert (gamma.std() > 0) == faithful
    assert seen["ShuffledSampler"]["reshuffle"] is not faithful
    assert seen["evaluate_pairs"]["rule"] == ("crossing" if faithful else "best")
    folds = seen["evaluate_pairs"]["folds"]
    assert folds is None if not faithful else np.bincount(folds).tolist() == [4] * 10
    assert seen["read_pairs"]["order"] == ("bgr" if faithful else "rgb")
    assert tuple(seen["TrainingBatches"]["options"].rgb_sources) == ((1,) if faithful else ())


@pytest.mark.parametrize("faithful", [False, True])
def test_flags_change_a_triplet_run_as_documented(run_of, faithful):
    seen = run_of(train_triplet, *(["--faithful"] if faithful else []), sample_per_class=2)
    assert seen["IdentitySampler"]["with_replacement"] is faithful
    assert seen["IdentitySampler"]["images_per_identity"] == 2
    assert tuple(seen["TrainingBatches"]["options"].rgb_sources) == ((1,) if faithful else ())


def test_dense_decay_depends_on_depth_50_only(run_of):
    seen = run_of(train_centre, "--faithful", backbone="ir50")
    dense = seen["Trainer"]["backbone"].get_layer("E_DenseLayer").kernel
    assert any(variable is dense for variable in seen["Trainer"]["decayed_variables"])


def net_of(*given, base=None):
    options = parse_centre_options(given)
    return options.net.arguments(options.data.seed, base)


def test_flags_choose_the_net():
    assert net_of() == {"architecture": "ir50", "image_size": (112, 96), "seed": 0}
    assert net_of("--net_type=se_ir")["architecture"] == "se_ir50"
    assert net_of("--net_depth=100")["architecture"] == "ir100"
    net = net_of("--backbone=iresnet50", "--image_size", "112", "112", "--faithful", "--keep_prob=0.9")
    assert net == {"architecture": "iresnet50", "image_size": [112, 112], "seed": 0, "keep_prob": 0.9}
    assert net_of("--faithful")["random_final_gamma"] is True
    assert net_of("--embedding_size=64")["embedding_size"] == 64


@pytest.mark.parametrize("parse", PROGRAMS)
def test_help_is_short_and_help_all_shows_every_flag(parse, capsys):
    lengths, shown = [], []
    for flag in ("--help", "--help-all"):
        with pytest.raises(SystemExit):
            parse([flag])
        text = capsys.readouterr().out
        lengths.append(len(text.splitlines()))
        shown.append(set(re.findall(r"(?<=^  )--(?!help)\w+", text, re.MULTILINE)))
    short, complete = shown
    first = "config source batch_size epoch max_steps backbone strategy precision output model_path check"
    assert {f"--{name}" for name in first.split()} < short < complete
    assert complete == {f"--{name}" for name in flag_values(parse([]))}
    assert lengths[0] < 55


def test_xla_alone_means_on():
    given = ([], ["--xla"], ["--xla", "--batch_size=8"], ["--xla", "off"])
    assert [parse_centre_options(flags).device.xla for flags in given] == ["auto", "on", "on", "off"]


def test_net_of_a_model_wins_over_defaults_but_not_over_flags():
    base = {"architecture": "gn_ir50", "image_size": [64, 64], "keep_prob": 0.5, "seed": 3}
    assert net_of("--seed=7", base=base) == {**base, "seed": 7}
    changed = net_of("--net_depth=32", "--keep_prob=1", base=base)
    assert (changed["architecture"], changed["keep_prob"], changed["image_size"]) == ("ir32", 1.0, [64, 64])
    # Another architecture may not take the further arguments of the model.
    imported = {**base, "architecture": "mobilefacenet", "embedding_size": 128, "norm": "none"}
    assert net_of("--backbone=mobilefacenet", base=imported) == {**imported, "seed": 0}
    assert net_of("--backbone=mbf", base=imported) == {
        **base,
        "architecture": "mbf",
        "embedding_size": 128,
        "seed": 0,
    }


@pytest.mark.parametrize(
    ("given", "problems"),
    [
        (["--batch_size=0"], ["--batch_size is 0. Give a number >= 1."]),
        (["--max_steps=-5"], ["--max_steps is -5. Give a number >= 0."]),
        (
            ["--lr_values", "0.1", "0.01"],
            ["--lr_values has 2 rate(s) and --lr_steps 3 step(s). Give one rate more"],
        ),
        (["--lr_values=-1", "--lr_steps"], ["--lr_values is -1.0. Give a number > 0."]),
        (["--source_weights", "1", "1"], ["--source_weights is 1.0 1.0. Give probabilities that sum to 1."]),
        (["--margin=4"], ["--margin is 4.0. With --loss angular_centre give less than 3.1416."]),
        (["--loss=cosface", "--margin=2"], ["--margin is 2.0. With --loss cosface give less than 2."]),
        (["--scale=0", "--keep_prob=1.5"], ["--scale is 0.0", "--keep_prob is 1.5"]),
        (["--preset=vidoe"], ["--preset is vidoe. Give one of arcface, video. Did you mean video?"]),
        (["--batch_size=10", "--accumulate=4"], ["--batch_size is 10. Give a multiple of --accumulate, 4."]),
        (["--sample_rate=0.1", "--xla"], ["--sample_rate below 1 does not work with --xla on."]),
        (["--xla=yes"], ["--xla is yes. Give one of auto, on, off."]),
        (["--loss=distillation"], ["--loss distillation needs --teacher"]),
        (["--teacher_weight=2"], ["--teacher_weight needs --teacher"]),
        (
            ["--teacher=x.onnx", "--teacher_relation=2", "--accumulate=2"],
            ["--teacher_relation needs the whole"],
        ),
        (["--teacher=x.onnx", "--read=sequential"], ["--read is sequential. --teacher needs --read random."]),
        (
            ["--loss=distillation", "--teacher=x.onnx", "--sample_rate=0.1", "--label_smoothing=0.1"],
            [
                "--sample_rate below 1 does not work with --loss distillation",
                "--label_smoothing needs a loss",
            ],
        ),
        (
            ["--loss=distillation", "--teacher=x.onnx", "--margin=0.1", "--margin_warmup_steps=5"],
            ["--margin does not apply to --loss distillation", "--margin_warmup_steps needs"],
        ),
        (
            ["--loss=distillation", "--teacher=x.onnx", "--margin=9"],
            ["--margin does not apply to --loss distillation, which takes no flags of its own."],
        ),
        (["--shard_centres", "--loss=adaface"], ["--shard_centres does not work with --loss adaface."]),
    ],
)
def test_wrong_values_name_their_flag(given, problems, capsys):
    with pytest.raises(SystemExit) as end:
        parse_centre_options(given)
    shown = capsys.readouterr().err
    assert end.value.code == 2
    assert all(problem in shown for problem in problems), shown
    assert len(shown.splitlines()) == len(problems) + (1 if len(problems) == 1 else 2), shown


def test_the_table_of_losses_agrees_with_the_layers():
    for name, variant in LOSSES.items():
        layer = getattr(importlib.import_module(variant.module, "losses"), variant.layer)
        assert layer.can_be_sharded == variant.can_be_sharded, name
        assert getattr(layer, "margin_limit", math.pi) == variant.margin_limit, name
