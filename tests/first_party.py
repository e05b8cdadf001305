"""Reads from the source of the project's modules what they import."""

import ast
import functools
from pathlib import Path

ROOT = Path(__file__).parents[1]
_SLOW = ("tensorflow", "keras")


@functools.cache
def loads_tensorflow(path):
    """Returns whether importing a file also imports TensorFlow, directly or through the project's modules.

    Args:
        path: absolute Path of a Python file of the project.

    Returns:
        bool. Imports inside functions do not count.
    """
    seen, waiting = set(), [path]
    while waiting:
        file = waiting.pop()
        if file in seen:
            continue
        seen.add(file)
        for name in _imported_names(file):
            if name.split(".")[0] in _SLOW:
                return True
            waiting += _files(name)
    return False


@functools.cache
def _imported_names(path):
    """Returns the dotted names that a file imports at module level."""
    package = path.relative_to(ROOT).parent.parts
    names = set()
    for node in _module_level(ast.parse(path.read_bytes()).body):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            source = ".".join([*base, *filter(None, [node.module])])
            names |= {source, *(f"{source}.{alias.name}" for alias in node.names)}
    return names


def _module_level(body):
    for node in body:
        if isinstance(node, (ast.Try, ast.With)):
            yield from _module_level(node.body)
        elif not isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            # Imports under `if TYPE_CHECKING:` are left out, because they never run.
            yield node


def _files(name):
    """Yields the project's files that run when a dotted name is imported."""
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        module = ROOT.joinpath(*parts[:count])
        yield from (file for file in (module.with_suffix(".py"), module / "__init__.py") if file.is_file())
