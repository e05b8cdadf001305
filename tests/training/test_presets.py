"""Tests presets, and a run with all flags of the recipes from records to a model."""

import shutil

import numpy as np
import pytest
import tensorflow as tf

import train_centre
from common.options import flag_values
from nets.backbone import Backbone, load_backbone
from nets.importers.training_checkpoint import newest_checkpoint
from nets.layers.counters import save_counters_as_int32
from tests.small_runs import are_equal, data, flags, log, state
from training import session
from training.options import PRESETS, describe_preset, parse_centre_options

__all__ = ["data"]  # the fixture

RECIPE = [
    *("--optimizer=adamw", "--schedule=cosine", "--lr=0.01", "--warmup_steps=2", "--ema=0.9"),
    *(f"--augment_{kind}=0.5" for kind in ("crop", "occlusion", "colour", "low_resolution", "jpeg")),
    *("--label_smoothing=0.1", "--keep_prob=0.9"),
]


def parse(*given):
    return flag_values(parse_centre_options(given))


@pytest.mark.parametrize("name", PRESETS)
def test_preset_sets_existing_flags(name):
    plain, preset = parse(), parse("--preset", name)
    assert preset.keys() == plain.keys() >= PRESETS[name].keys()
    assert {flag: preset[flag] for flag in PRESETS[name]} == PRESETS[name]
    changed = {flag for flag in preset if preset[flag] != plain[flag]} - {"preset"}
    assert changed <= PRESETS[name].keys()


@pytest.mark.parametrize("name", PRESETS)
def test_log_line_of_a_preset_parses_as_flags(name):
    spelt, preset = (parse(*given) for given in (describe_preset(name).split(), ["--preset", name]))
    assert {**spelt, "preset": name} == preset


def test_given_flag_wins_over_the_preset():
    values = parse("--lr=0.02", "--preset=video", "--augment_jpeg", "0", "--no-mirror")
    expected = {"lr": 0.02, "augment_jpeg": 0.0, "mirror": False, "augment_crop": 0.2}
    assert expected.items() <= values.items()
    assert parse()["augment_crop"] == 0


def test_preset_with_faithful_is_refused(capsys):
    with pytest.raises(SystemExit):
        parse("--faithful", "--preset=video")
    assert "--preset and --faithful" in capsys.readouterr().err


@pytest.mark.long
def test_a_run_with_all_recipe_flags_resumes_bit_for_bit(data, monkeypatch, capsys):
    """Its last checkpoint is removed, as if it had been killed after step 2 of 4."""
    scored = []
    make = session.make_validators
    monkeypatch.setattr(session, "make_validators", lambda net, *rest: scored.append(net) or make(net, *rest))
    assert train_centre.main([*flags(data), *RECIPE]) == 0
    unbroken = state(data / "ckpt")
    assert any(name.startswith("average/") for name in unbroken)
    shutil.rmtree(data / "ckpt" / "step_00000004")
    assert train_centre.main([*flags(data), *RECIPE]) == 0
    assert "Resuming from step 2" in log(data)
    assert are_equal(state(data / "ckpt"), unbroken)

    # The average is scored, exported, and read from a checkpoint.
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

    with pytest.raises(SystemExit):
        train_centre.main(flags(data))
    shown = capsys.readouterr().err
    assert "Give --optimizer adamw" in shown and "--ema is (not given)" in shown


def load_trained(folder, net):
    """Returns the weights that were trained, not their average."""
    backbone = Backbone(**net)
    save_counters_as_int32(backbone)
    path = newest_checkpoint(folder)[0] / "state"
    tf.train.Checkpoint(backbone=backbone).read(str(path)).expect_partial()
    return backbone.get_weights()


@pytest.mark.parametrize(
    ("given", "flag"),
    [
        (["--augment_jpeg=2"], "--augment_jpeg is 2.0"),
        (["--ema=1"], "--ema is 1.0"),
        (["--label_smoothing=1"], "--label_smoothing is 1.0"),
        (["--schedule=cosine"], "--schedule cosine needs --lr"),
        (["--preset=video", "--warmup_steps=4", "--max_steps=4"], "--warmup_steps is 4"),
        (["--preset=upstream"], "--preset"),
    ],
)
def test_wrong_values_of_a_recipe_name_their_flag(given, flag, capsys):
    with pytest.raises(SystemExit) as end:
        parse(*given)
    assert end.value.code == 2
    assert flag in capsys.readouterr().err
