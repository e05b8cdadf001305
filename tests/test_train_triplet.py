"""Tests `train_triplet` as a user runs it, on a small made-up set."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import train_centre
import train_triplet
from nets.backbone import load_backbone
from nets.importers.keras_file import save_keras_file
from nets.importers.tf1_weights import tf1_variables
from nets.importers.training_checkpoint import newest_checkpoint
from tests.golden.weight_rule import golden_weight
from tests.nets.tf1_writer import write_tf1_checkpoint
from tests.small_runs import are_equal, data, flags, log, make_data, state
from training.options import parse_triplet_options

__all__ = ["data"]  # the fixture

GOLDEN = Path(__file__).parent / "golden" / "nets" / "ir32_112x96.json"


def without(arguments, *names):
    """Returns the arguments without some flags."""
    start = 3 if "image_size" in names else 0
    return [given for given in arguments[start:] if given.lstrip("-").split("=")[0] not in names]


def triplet_flags(data, **given):
    """Returns flags of a run in its own folder, whose net comes from `model_path`."""
    paths = {name: data / "triplet" / name for name in ("summary_path", "ckpt_path", "saved_model_path")}
    arguments = flags(data, **{"sample_per_class": 2, "source": "vgg", **paths, **given})
    return without(arguments, "image_size", "backbone")


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory):
    """A data folder after two steps of `train_centre`."""
    folder = make_data(tmp_path_factory.mktemp("trained"))
    assert train_centre.main(flags(folder, max_steps=2)) == 0
    return folder


@pytest.fixture
def trained(trained_once, tmp_path):
    """A copy of the folder of `trained_once`."""
    return shutil.copytree(trained_once, tmp_path / "data")


def test_the_whole_net_is_restored(trained):
    """Row 11 of docs/fidelity.md."""
    (model,) = (trained / "models").iterdir()
    start = load_backbone(model)
    # The original would not have restored these, because they are not trainable.
    start.get_layer("bn0").moving_mean.assign([50.0] * 64)
    start.get_layer("E_BN2").gamma.assign([2.0] * 512)
    path = trained / "start.keras"
    save_keras_file(start, path)
    # The rate is so small that the weights stay the same, so a difference means that a weight was not
    # restored.
    arguments = triplet_flags(trained, model_path=path, max_steps=1, lr_values=1e-30)
    assert train_triplet.main([*arguments, "--lr_steps"]) == 0
    assert "ir8. Optimizer and step start fresh." in log(trained)
    tuned = load_backbone(trained / "triplet" / "ckpt_path")
    assert tuned.net == start.net
    for one, two in zip(tuned.trainable_variables, start.trainable_variables, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-20, err_msg=one.path)
    np.testing.assert_array_equal(tuned.get_layer("E_BN2").gamma, start.get_layer("E_BN2").gamma)
    # The statistics moved by a tenth towards those of a batch near 0.
    np.testing.assert_allclose(tuned.get_layer("bn0").moving_mean, [45.0] * 64, atol=1)
    manifest = newest_checkpoint(trained / "triplet" / "ckpt_path")[1]
    assert (manifest["step"], manifest["loss"]) == (1, "triplet")


def test_records_become_a_scored_model(trained):
    arguments = triplet_flags(trained, model_path=trained / "ckpt")
    assert train_triplet.main(arguments) == 0
    (model,) = (trained / "triplet" / "saved_model_path").iterdir()
    assert re.fullmatch(r"iter_4_lfw_[01]\.\d{5}", model.name)
    for term in ("triplet", "hardest_positive", "hardest_negative", "active", "weight_decay", "total"):
        assert re.search(rf"step 4/4 .* {term} \d", log(trained)), term
    assert "60 images of 4 identities; ir8" in log(trained)


@pytest.mark.long
def test_killed_run_resumes_bit_for_bit_without_its_start_model(trained):
    arguments = triplet_flags(trained, model_path=trained / "ckpt")
    assert train_triplet.main(arguments) == 0
    checkpoints = trained / "triplet" / "ckpt_path"
    unbroken = state(checkpoints)
    shutil.rmtree(checkpoints / "step_00000004")  # as if the kill had come before it
    shutil.rmtree(trained / "ckpt")
    assert train_triplet.main([given for given in arguments if "model_path=" not in given]) == 0
    assert "Resuming from step 2" in log(trained)
    assert are_equal(state(checkpoints), unbroken)


@pytest.mark.long
def test_trains_on_two_replicas(trained, two_replicas):
    options = parse_triplet_options(triplet_flags(trained, model_path=trained / "ckpt"))
    assert train_triplet.train(options, two_replicas) == 0
    assert newest_checkpoint(trained / "triplet" / "ckpt_path")[1]["step"] == 4


@pytest.mark.long
def test_training_starts_from_a_tensorflow_1_checkpoint(data):
    checkpoint = write_tf1_checkpoint(GOLDEN, data / "tf1" / "iter_258000.ckpt", num_identities=6)
    arguments = triplet_flags(data, model_path=checkpoint, max_steps=1)
    assert train_triplet.main(arguments) == 0
    tuned = load_backbone(data / "triplet" / "ckpt_path")
    assert tuned.net["image_size"] == [112, 96]
    name = "resnet_v1_32/E_BN2/gamma"  # not trainable: the original would have lost it
    np.testing.assert_array_equal(tf1_variables(tuned)[name], golden_weight(name, (512,)))

    # train_centre also takes the centres if they fit.
    arguments = without(flags(data, model_path=checkpoint, max_steps=1), "image_size", "backbone")
    assert train_centre.main(arguments) == 0
    assert f"centres of 6 identities from {checkpoint}" in log(data)
    centres = state(data / "ckpt")["head/centres/.ATTRIBUTES/VARIABLE_VALUE"]
    expected = golden_weight("arc_loss/embedding_weights", (512, 6))
    assert np.abs(centres - expected).max() < 0.1 * np.abs(expected).max()


def test_init_from_takes_only_the_net(trained):
    # The rate is so small that the weights stay the same.
    arguments = flags(trained, source="vgg", ckpt_path=trained / "other", max_steps=1, lr_values=1e-30)
    assert train_centre.main([*arguments, "--lr_steps", f"--init_from={trained / 'ckpt'}"]) == 0
    assert "The centres of 4 identities start fresh." in log(trained)
    one, two = (load_backbone(trained / name) for name in ("ckpt", "other"))
    for weight, expected in zip(two.trainable_variables, one.trainable_variables, strict=True):
        np.testing.assert_allclose(weight, expected, atol=1e-20, err_msg=expected.path)
    # The step moved the statistics.
    assert np.any(two.get_layer("bn0").moving_mean != one.get_layer("bn0").moving_mean)
    assert state(trained / "other")["head/centres/.ATTRIBUTES/VARIABLE_VALUE"].shape == (512, 4)


@pytest.mark.parametrize("program", [train_centre, train_triplet])
def test_models_that_do_not_fit_are_refused(trained, program, caplog, capsys):
    given = {"model_path": trained / "ckpt", "ckpt_path": trained / "new"}
    if program is train_centre:
        # A training checkpoint is resumed with its centres.
        assert train_centre.main([*flags(trained, source="vgg", **given), "--allow_changes"]) == 1
        assert "this run needs num_identities = 4, the checkpoint has 6" in caplog.text
        (model,) = (trained / "models").iterdir()
        assert train_centre.main(flags(trained, **{**given, "model_path": model})) == 1
        assert "expected centres of shape (512, 6), received none. To take only the net" in caplog.text
    else:
        arguments = [*triplet_flags(trained, **given), "--backbone=se_ir32"]
        assert train_triplet.main(arguments) == 1
        expected = "the flags ask for architecture = se_ir32, the model has ir8. Leave out these flags"
        assert expected in caplog.text
        # A run with another loss is not resumed by mistake.
        with pytest.raises(SystemExit):
            train_triplet.main(triplet_flags(trained, ckpt_path=trained / "ckpt"))
        assert "has the loss angular_centre" in capsys.readouterr().err
    assert not (trained / "new").exists()


@pytest.mark.parametrize(
    ("given", "flag"),
    [
        ({"sample_per_class": 1}, "--sample_per_class is 1"),
        ({"sample_per_class": 3}, "--batch_size is 4. Give a multiple of --sample_per_class, 3"),
        ({"triplet_margin": -1}, "--triplet_margin is -1.0"),
        ({"read": "sequential"}, "--read is sequential"),
    ],
)
def test_wrong_flags_are_named(data, given, flag, capsys):
    with pytest.raises(SystemExit) as end:
        train_triplet.main(triplet_flags(data, **given))
    assert end.value.code == 2
    assert flag in capsys.readouterr().err


def test_another_model_on_the_second_run_is_refused(trained, capsys):
    """A flag that names a model is never silently ignored."""
    (model,) = (trained / "models").iterdir()
    arguments = triplet_flags(trained, model_path=model, max_steps=1)
    assert train_triplet.main(arguments) == 0
    assert train_triplet.main(arguments) == 0
    assert "is not read again: this run resumes from" in log(trained)
    other = shutil.copytree(model, trained / "other")
    with pytest.raises(SystemExit) as end:
        train_triplet.main(triplet_flags(trained, model_path=other, max_steps=1))
    shown = capsys.readouterr().err
    assert end.value.code == 1 and str(model) in shown and str(other) in shown
    # The checkpoints have not changed.
    assert newest_checkpoint(trained / "triplet" / "ckpt_path")[1]["step"] == 1


def test_a_model_or_from_scratch_is_needed(data, capsys):
    for model in ("nowhere", None):
        given = {"model_path": model} if model else {}
        with pytest.raises(SystemExit) as end:
            train_triplet.main(triplet_flags(data, **given))
        assert end.value.code == 1
        assert f"--model_path{': nowhere' if model else ' is not given'}" in capsys.readouterr().err
    assert not (data / "triplet").exists() and not (data / "logs").exists()


def test_flags_of_the_original_keep_their_defaults():
    options = parse_triplet_options([])
    triplet = options.triplet
    assert (triplet.triplet_margin, triplet.triplet_weight, triplet.sample_per_class) == (0.3, 10.0, 4)
    assert options.data.source == ("vgg",)
    assert options.output.ckpt_path == Path("output/vgg-triplet/ckpt")


def test_identities_of_a_batch_are_p_times_k(data, monkeypatch):
    """The loss gets K images of each of P identities."""
    from losses.triplet import TripletLoss

    seen = []
    call = TripletLoss.call

    def spy(self, embeddings, identities, **scheduled):
        tf.numpy_function(lambda values: seen.append(values.copy()), [identities], [])
        return call(self, embeddings, identities, **scheduled)

    monkeypatch.setattr(TripletLoss, "call", spy)
    net = ["--backbone=ir8", "--image_size", "16", "16"]
    assert train_triplet.main([*triplet_flags(data, max_steps=3), *net, "--from_scratch"]) == 0
    assert len(seen) >= 3
    for identities in seen:
        assert identities[0] == identities[1] != identities[2] == identities[3]
