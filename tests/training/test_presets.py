"""Presets as the program takes them, and a run of each recipe from records to a model."""

import re
import shutil

import numpy as np
import pytest
import tensorflow as tf

import train_centre
from nets.backbone import Backbone, load_backbone
from nets.importers.training_checkpoint import newest_checkpoint
from tests.test_train_centre import are_equal, data, flags, log, state
from training import session
from training.optimizers import check_recipe
from training.options import FAITHFUL, PRESETS, describe_preset

__all__ = ["data"]  # the fixture

RECIPE = [
    *("--optimizer=adamw", "--schedule=cosine", "--lr=0.01", "--warmup_steps=2", "--ema=0.9"),
    *(f"--augment_{kind}=0.5" for kind in ("crop", "occlusion", "colour", "low_resolution", "jpeg")),
    *("--label_smoothing=0.1", "--keep_prob=0.9"),
]


def parse(*given):
    return train_centre._parse_arguments(list(given))


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_sets_flags_that_there_are(name):
    plain, args = vars(parse()), vars(parse("--preset", name))
    assert args.keys() == plain.keys() >= PRESETS[name].keys()
    assert {flag: args[flag] for flag in PRESETS[name]} == PRESETS[name]
    changed = {flag for flag in args if args[flag] != plain[flag]} - {"preset"}
    assert changed <= PRESETS[name].keys()
    check_recipe(parse("--preset", name))


@pytest.mark.parametrize("name", PRESETS)
def test_what_is_printed_can_be_given(name):
    spelt, preset = (vars(parse(*given)) for given in (describe_preset(name).split(), ["--preset", name]))
    assert {**spelt, "preset": name} == preset


def test_a_flag_that_is_given_wins():
    args = parse("--lr=0.02", "--preset=video", "--augment_jpeg", "0", "--no-mirror")
    assert (args.lr, args.augment_jpeg, args.mirror, args.augment_crop) == (0.02, 0.0, False, 0.2)
    assert parse().augment_crop == 0


def test_upstream_is_faithful_but_for_the_scoring():
    upstream, faithful = vars(parse("--preset=upstream")), vars(parse("--faithful"))
    assert {flag for flag in upstream if upstream[flag] != faithful[flag]} == {
        *("preset", "faithful", "threshold", "lfw_as_stored")
    }
    assert PRESETS["upstream"].keys() < {*FAITHFUL, "reshuffle", "loss"}


def test_not_beside_faithful(capsys):
    with pytest.raises(SystemExit):
        parse("--faithful", "--preset=video")
    assert "--preset: expected it without --faithful, received both; video is" in capsys.readouterr().err


@pytest.mark.long
def test_a_run_with_everything(data, monkeypatch, caplog):
    """Killed after step 2 of 4, as far as its checkpoints can tell, it goes on bit for bit."""
    scored = []
    make = session.make_validators
    monkeypatch.setattr(session, "make_validators", lambda net, *rest: scored.append(net) or make(net, *rest))
    assert train_centre.main([*flags(data), *RECIPE]) == 0
    unbroken = state(data / "ckpt")
    assert any(name.startswith("average/") for name in unbroken)
    shutil.rmtree(data / "ckpt" / "step_00000004")
    assert train_centre.main([*flags(data), *RECIPE]) == 0
    assert "going on from step 2" in log(data)
    assert are_equal(state(data / "ckpt"), unbroken)

    # What is scored, exported, and taken from a checkpoint is the average.
    (model,) = (data / "models").iterdir()
    trained = load_trained(data / "ckpt", scored[1].net)
    average, exported, of_checkpoint = (
        net.get_weights() for net in (scored[1], load_backbone(model), load_backbone(data / "ckpt"))
    )
    for one, two, three in zip(average, exported, of_checkpoint, strict=True):
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(one, three)
    same = [np.array_equal(one, two) for one, two in zip(average, trained, strict=True)]
    assert sum(same) < len(same) / 2

    assert train_centre.main(flags(data)) == 1
    assert "needs recipe = None, the checkpoint has {'optimizer': 'adamw', 'ema': True}" in caplog.text


def load_trained(folder, net):
    """The weights that were trained, beside the average."""
    backbone = Backbone(**net)
    path = newest_checkpoint(folder)[0] / "state"
    tf.train.Checkpoint(backbone=backbone).read(str(path)).expect_partial()
    return backbone.get_weights()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--augment_jpeg=2"], r"--augment_jpeg: expected a probability in \[0, 1\], received 2.0"),
        (["--ema=1"], r"--ema: expected a decay in \(0, 1\), received 1.0"),
        (["--label_smoothing=1"], r"label_smoothing: expected a number in \[0, 1\), received 1.0"),
        (["--schedule=cosine"], "--schedule cosine: expected --lr, received none"),
        (["--preset=video", "--warmup_steps=4"], "--warmup_steps: expected fewer than the run's 4 steps"),
    ],
)
def test_errors_come_before_the_conversion(data, given, message, caplog):
    assert train_centre.main([*flags(data), *given]) == 1
    assert re.search(message, caplog.text)
    assert not (data / "tfrecords").exists()
    if given[0] == "--preset=video":
        assert "--preset video: --loss=angular_centre --optimizer=sgd --momentum=0.9" in log(data)
