"""Runs the code in docs/keras.md, which uses losses and nets in ordinary Keras programs."""

import re
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.tensorflow
INTRODUCTION, *SECTIONS = (Path(__file__).parents[1] / "docs/keras.md").read_text().split("\n## ")
SECTIONS = dict(section.split("\n", 1) for section in SECTIONS)


def run(title, folder, monkeypatch):
    """Runs the code blocks of a section after those of the introduction. Returns the variables."""
    monkeypatch.chdir(folder)
    code = re.findall(r"```python\n(.*?)```", INTRODUCTION + SECTIONS[title], re.DOTALL)
    assert len(code) > 1
    variables = {}
    exec("\n".join(code), variables)
    return variables


@pytest.mark.parametrize("loss", ["a margin loss", "the triplet loss"])
def test_losses_fall_and_saved_models_reload(loss, tmp_path, monkeypatch):
    variables = run(f"Train with {loss} in model.fit", tmp_path, monkeypatch)
    losses = variables["history"].history["loss"]
    assert losses[-1] < losses[0]
    for name, values in variables["saved_terms"].items():
        np.testing.assert_array_equal(variables["restored_terms"][name], values, err_msg=name)
    # Training continues from the saved state.
    assert variables["later"].history["loss"][-1] < losses[0]
    if "similarities" in variables:
        assert variables["similarities"].shape == (64, 64)


def test_reported_loss_is_the_mean_of_the_layer(tmp_path, monkeypatch):
    variables = run("Train with the triplet loss in model.fit", tmp_path, monkeypatch)
    model, inputs = variables["model"], variables["inputs"]
    expected = model.predict(inputs, batch_size=32, verbose=0)["loss"].mean()
    assert model.evaluate(inputs, batch_size=32, verbose=0) == pytest.approx(expected, rel=1e-5)


def test_a_backbone_learns_with_another_head(tmp_path, monkeypatch):
    variables = run("Put your own head on a backbone", tmp_path, monkeypatch)
    losses = variables["history"].history["loss"]
    assert losses[-1] < losses[0]


def test_a_custom_training_loop_runs(tmp_path, monkeypatch):
    variables = run("Use a loss in a custom training loop", tmp_path, monkeypatch)
    assert 0 < float(variables["loss"]) < 1
    assert 0 <= float(variables["active"]) <= 1


def test_the_page_lists_all_losses_and_hardnet_runs(tmp_path, monkeypatch):
    variables = run("All losses", tmp_path, monkeypatch)
    assert variables["terms"]["accuracy"].shape == (16,)
    import losses

    classes = [name for name in losses.__all__ if name.endswith("Loss")]
    assert set(classes) <= set(re.findall(r"`(\w+Loss)`", SECTIONS["All losses"]))
