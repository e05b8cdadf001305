import json

import numpy as np
import pytest
import tensorflow as tf

from benchmarks.step_as_hlo import _check_parameters, parse_arguments, write_step
from tests.training.small_trainer import IDENTITIES, make_trainer

RATE = 0.01


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Writes the step of a trainer. Returns the trainer and the folder."""
    folder = tmp_path_factory.mktemp("hlo") / "step"
    args = parse_arguments(
        ["--out", str(folder), "--identities", str(IDENTITIES), "--batch_size=8", "--values"]
    )
    trainer = make_trainer(tf.distribute.get_strategy(), RATE, weight_decay=0.0)
    write_step(trainer, args)
    return trainer, folder


def test_outputs_equal_loss_and_gradients_of_a_step_without_xla(exported):
    trainer, folder = exported
    settings = json.loads((folder / "parameters.json").read_text())
    values = np.load(folder / "values.npz")
    outputs = {name: values[f"output_{number}"] for number, name in enumerate(settings["outputs"])}
    variables = trainer.backbone.trainable_variables + trainer.head.trainable_variables
    before = [variable.numpy() for variable in variables]
    terms = trainer.train_step(tf.constant(values["parameter_0"]), tf.constant(values["parameter_1"]))
    for name in ("loss", "accuracy", "cosine"):
        np.testing.assert_allclose(outputs[name], terms[name], rtol=1e-5)
    # The first step with momentum subtracts the gradient times the learning rate.
    for number, (old, variable) in enumerate(zip(before, variables, strict=True)):
        gradient = (old - variable.numpy()) / RATE
        np.testing.assert_allclose(outputs[f"gradient {number}"], gradient, rtol=1e-3, atol=1e-3)


def test_parameters_are_images_identities_and_all_variables(exported):
    trainer, folder = exported
    settings = json.loads((folder / "parameters.json").read_text())
    values = np.load(folder / "values.npz")
    kinds = [each["kind"] for each in settings["parameters"]]
    assert kinds == ["images", "identities"] + ["variable"] * (len(kinds) - 2)
    variables = {v.path: v for v in [*trainer.backbone.variables, *trainer.head.variables]}
    assert {each["name"] for each in settings["parameters"][2:]} == set(variables)
    for number, each in enumerate(settings["parameters"]):
        value = values[f"parameter_{number}"]
        assert (each["shape"], each["dtype"]) == (list(value.shape), value.dtype.name)
        if each["kind"] == "variable":
            assert value.shape == variables[each["name"]].shape
            np.testing.assert_allclose((each["mean"], each["std"]), (value.mean(), value.std()), atol=1e-6)
    assert settings["batch"] == 8 and settings["image_size"] == [16, 16]
    assert len((folder / "step.hlo.pb").read_bytes()) > 50_000


def test_a_parameter_in_the_wrong_place_is_refused():
    text = "entry_computation_layout={(f32[8,3]{1,0}, /*index=1*/s32[]{:T(128)})->(f32[])}"
    image, count = {"dtype": "float32", "shape": [8, 3]}, {"dtype": "int32", "shape": []}
    _check_parameters([image, count], text)
    with pytest.raises(RuntimeError, match="s32"):
        _check_parameters([count, image], text)
