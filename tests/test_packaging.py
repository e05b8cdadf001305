"""Tests that `pip install .` installs losses and nets, and the packages that they import."""

import ast
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LIBRARY = ("losses", "nets")


def third_party_imports():
    """Returns the packages that the library imports at module level (key `True`) and elsewhere (`False`)."""
    found = {True: set(), False: set()}
    for path in (path for package in LIBRARY for path in (ROOT / package).rglob("*.py")):
        tree = ast.parse(path.read_bytes())
        for node in ast.walk(tree):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            found[node in tree.body] |= {name.split(".")[0] for name in names}
    return {level: names - sys.stdlib_module_names for level, names in found.items()}


def requirement_names(requirements):
    return {re.match(r"[\w-]+", requirement)[0] for requirement in requirements}


def test_all_folders_are_listed_as_packages():
    setuptools = PYPROJECT["tool"]["setuptools"]
    folders = {path.parent for package in LIBRARY for path in (ROOT / package).rglob("*.py")}
    expected = {f"margin_centre_face.{'.'.join(folder.relative_to(ROOT).parts)}" for folder in folders}
    assert set(setuptools["packages"]) == expected
    assert setuptools["package-dir"] == {f"margin_centre_face.{package}": package for package in LIBRARY}


def test_all_folders_have_an_init_file():
    for package in LIBRARY:
        for path in (ROOT / package).rglob("*.py"):
            assert (path.parent / "__init__.py").is_file(), path


def test_dependencies_list_the_imports():
    imports = third_party_imports()
    extra = PYPROJECT["project"]["optional-dependencies"]["onnx"]
    assert (
        requirement_names(PYPROJECT["project"]["dependencies"])
        == imports[True]
        == {
            "h5py",
            "keras",
            "numpy",
            "tensorflow",
        }
    )
    optional = {"protobuf" if name == "google" else name for name in imports[False] - imports[True]}
    assert requirement_names(extra) == optional == {"onnx", "protobuf"}


def test_versions_equal_those_in_requirements():
    programs = (ROOT / "requirements.txt").read_text().split("\n")
    library = PYPROJECT["project"]["dependencies"] + PYPROJECT["project"]["optional-dependencies"]["onnx"]
    assert set(library) <= set(programs)
