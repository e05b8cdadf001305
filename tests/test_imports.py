"""Who imports whom, read from the source; and what must do without TensorFlow."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.start_up import programs

ROOT = Path(__file__).parents[1]
# What each package may import besides itself. The programs at the root may import all of them.
ALLOWED = {
    "dataset": (),
    "nets": (),
    "losses": (),
    "eval": ("dataset", "nets"),
    "training": ("dataset", "nets", "losses", "eval"),
    "export": ("dataset", "nets", "eval"),
}
WITHOUT_TENSORFLOW = [
    *("dataset.config", "dataset.convert", "dataset.manifest", "dataset.pairs", "dataset.recordio"),
    *(
        "dataset.sampler",
        "dataset.tfrecord",
        "eval.distances",
        "eval.templates",
        "eval.verification",
        "nets.variants",
    ),
    *("dataset.identity_sampler", "losses.variants", "nets.tf1_checkpoint", "training.flags"),
    *("eval.extractor", "eval.feature_store", "eval.report", "eval.test_lfw", "eval.test_ytf"),
    *("dataset.align", "dataset.build_pairs", "dataset.video_frames", "nets.model_files"),
    *("train_centre", "train_triplet"),
]

FILES = [*ROOT.glob("*.py"), *(path for package in ALLOWED for path in ROOT.glob(f"{package}/**/*.py"))]
SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): ast.parse(path.read_bytes()) for path in FILES
}
PROGRAMS = {
    name
    for name, tree in SOURCES.items()
    if "." not in name or "main" in [getattr(node, "name", None) for node in tree.body]
}


def imports(name):
    """Yields `(module, what of it, or None for the module itself)`; inside functions, too."""
    for node in ast.walk(SOURCES[name]):
        for alias in getattr(node, "names", ()):
            if isinstance(node, ast.Import):
                yield alias.name, None
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{name}, line {node.lineno}: expected an absolute import"
                module = f"{node.module}.{alias.name}"
                yield (module, None) if module in SOURCES else (node.module, alias.name)


@pytest.mark.parametrize("name", SOURCES)
def test_import_direction(name):
    package = name.split(".")[0]
    for module, imported in imports(name):
        to = module.split(".")[0]
        if package in ALLOWED and to in ALLOWED and to != package:
            assert to in ALLOWED[package], f"{name} imports {module}"
        if module in PROGRAMS:
            # Only a program at the root may call what a program in a package offers.
            assert "." not in name and "." in module and imported not in (None, "main"), f"{name}: {module}"


def test_programs_are_found():
    assert {"train_centre", "dataset.convert", "eval.test_lfw", "export.saved_model"} <= PROGRAMS


def test_what_does_without_tensorflow():
    program = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
    loaded = {"tensorflow", "keras"} & set(sys.modules)
    if loaded:
        raise SystemExit(f"{name} imports {loaded}")
"""
    names = [name for name in WITHOUT_TENSORFLOW if name in SOURCES]
    run = subprocess.run(
        [sys.executable, "-c", program, *names], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr


def test_every_program_answers_help_without_tensorflow():
    """As all of them do by themselves: TensorFlow takes seconds to load."""
    program = """
import contextlib, io, runpy, sys
for name in sys.argv[1:]:
    sys.argv = [name, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        try:
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            if end.code:
                raise SystemExit(f"{name}: exit code {end.code}")
    if "--help" not in shown.getvalue():
        raise SystemExit(f"{name} shows {shown.getvalue()!r}")
    loaded = {"tensorflow", "keras", "torch"} & set(sys.modules)
    if loaded:
        raise SystemExit(f"{name} imports {loaded}")
"""
    names = programs()
    assert set(names) >= PROGRAMS and {"benchmarks", "benchmarks.start_up"} <= set(names)
    run = subprocess.run(
        [sys.executable, "-c", program, *names], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr
