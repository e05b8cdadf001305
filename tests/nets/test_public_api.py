"""Tests the public names of `nets`, and what `import nets` does not import."""

import doctest
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import nets

ROOT = Path(__file__).parents[2]


def test_names_are_importable_and_listed():
    for name in nets.__all__:
        assert name in dir(nets) and getattr(nets, name).__module__.startswith("nets.")
    with pytest.raises(AttributeError, match="NoSuchNet"):
        nets.NoSuchNet  # noqa: B018
    with pytest.raises(ImportError):
        from nets import NoSuchNet  # noqa: F401


def test_examples_of_the_docstrings_run():
    finder, runner = doctest.DocTestFinder(recurse=False), doctest.DocTestRunner()
    for example in (
        example for name in nets.__all__ for example in finder.find(getattr(nets, name), globs={})
    ):
        assert runner.run(example).failed == 0, example.name
    assert runner.tries > 10


def test_losses_and_nets_have_the_same_lazy_layers():
    """They may not import each other, so each has a copy."""
    copies = [(ROOT / package / "lazy_layers.py").read_bytes() for package in ("losses", "nets")]
    assert copies[0] == copies[1]


def run(program, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_package_imports_neither_tensorflow_nor_keras():
    run("import sys, nets\nassert not {'tensorflow', 'keras'} & set(sys.modules)")


@pytest.mark.parametrize("imports", ["import keras, nets", "import nets, keras"])
def test_keras_loads_models_in_either_order_of_imports(imports, tmp_path):
    images = keras.Input((8, 8, 4))
    x = nets.PReLU("ones")(nets.BatchRenorm()(images))
    model = keras.Model(images, nets.GroupNorm()(nets.Dropout()(nets.BatchNorm()(x))))
    path = tmp_path / "model.keras"
    model.save(path)
    faces = np.random.default_rng(0).normal(size=(2, 8, 8, 4)).astype(np.float32)
    np.save(tmp_path / "faces.npy", faces)
    program = f"""
import sys
{imports}
import numpy as np
assert not any(name.startswith("nets.layers") for name in sys.modules)
model = keras.saving.load_model(sys.argv[1])
np.save(sys.argv[3], model(np.load(sys.argv[2])))
"""
    run(program, path, tmp_path / "faces.npy", tmp_path / "result.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "result.npy"), model(faces))
