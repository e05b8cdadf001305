"""Tests the public names of `losses`, and what `import losses` does not import."""

import doctest
import subprocess
import sys
from pathlib import Path

import keras
import pytest

import losses
from losses.loss_layer import LossLayer

ROOT = Path(__file__).parents[2]

WITHOUT_TENSORFLOW = """
import sys, importlib.util
import losses
assert importlib.util.find_spec("keras")  # finding Keras is not importing it
assert len(losses.LOSSES) == 10 and "ArcFaceLoss" in dir(losses)
assert not {"tensorflow", "keras"} & set(sys.modules)
import keras
"""
INSTALLED = "import keras, margin_centre_face.losses"
LOAD = """
import sys
assert not any("Hook" in str(finder) for finder in sys.meta_path)
assert PACKAGE + ".arcface" not in sys.modules
model = keras.saving.load_model("model.keras")
kinds = [type(layer).__module__ for layer in model.layers[2:]]
assert kinds == [PACKAGE + ".arcface", PACKAGE + ".triplet"], kinds
"""


@pytest.mark.parametrize(
    ("package", "imports"), [("losses", WITHOUT_TENSORFLOW), ("margin_centre_face.losses", INSTALLED)]
)
def test_keras_loads_layers_whose_modules_are_not_imported(package, imports, tmp_path):
    embeddings, identities = keras.Input((6,)), keras.Input((), dtype="int32")
    terms = [layer(embeddings, identities) for layer in (losses.ArcFaceLoss(5), losses.TripletLoss())]
    keras.Model([embeddings, identities], terms).save(tmp_path / "model.keras")
    (tmp_path / "margin_centre_face").mkdir()
    (tmp_path / "margin_centre_face" / "losses").symlink_to(ROOT / "losses")
    paths = [str(ROOT), str(tmp_path)]
    program = f"import sys; sys.path[:0] = {paths}; PACKAGE = {package!r}\n{imports}{LOAD}"
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("name", losses.__all__)
def test_every_public_name_can_be_imported(name):
    assert getattr(losses, name) is not None
    assert name in dir(losses)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="FaceLoss"):
        losses.FaceLoss  # noqa: B018


def test_examples_of_the_docstrings_run():
    documented = [LossLayer, *(getattr(losses, name) for name in losses.__all__ if name != "LOSSES")]
    finder, runner = doctest.DocTestFinder(recurse=False), doctest.DocTestRunner()
    for example in (example for item in documented for example in finder.find(item, globs={})):
        assert runner.run(example).failed == 0, example.name
    assert runner.tries > 20
