"""What `import losses` offers, and what it does not import."""

import subprocess
import sys
from pathlib import Path

import keras
import pytest

import losses

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
def test_names(name):
    assert getattr(losses, name) is not None
    assert name in dir(losses)


def test_unknown_name():
    with pytest.raises(AttributeError, match="FaceLoss"):
        losses.FaceLoss  # noqa: B018
