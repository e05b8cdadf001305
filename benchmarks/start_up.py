"""Times `--help` of every program, and compares it with a Python process that only imports argparse.

python -m benchmarks.start_up
"""

import argparse
import ast
import functools
import subprocess
import sys
from pathlib import Path

from benchmarks.comparison import Row, interleaved, medians, report

ROOT = Path(__file__).parents[1]
_REFERENCE = 'python -c "import argparse"'
_MAX_SECONDS = 0.5
# Folders without programs of the project: tests, and build results in a working copy.
_IGNORED_FOLDERS = ("tests", "build", "dist")


def main(argv=None):
    """Runs the program."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.start_up", description=__doc__.splitlines()[0]
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="modules to start (default: all programs)")
    parser.add_argument(
        "--rounds", type=int, default=3, metavar="N", help="number of measurements (default: %(default)s)"
    )
    parser.add_argument(
        "--all", action="store_true", help="print a row for every program, not only the slowest"
    )
    args = parser.parse_args(argv)
    report(rows(args.names or programs(), args.rounds, args.all))


def programs():
    """Finds all programs of the project. Returns the names of their modules, as `python -m` takes them."""
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[0] not in _IGNORED_FOLDERS and not parts[0].startswith(".") and _is_program(path):
            found.append(".".join(parts).removesuffix(".__main__"))
    return found


def rows(names, rounds, every):
    """Yields the row of the slowest program, or with `every` one for each, slowest first."""
    ways = {_REFERENCE: functools.partial(run, "-c", "import argparse")}
    ways |= {name: functools.partial(run, "-m", name, "--help") for name in names}
    seconds = medians(interleaved(ways, rounds))
    reference = seconds.pop(_REFERENCE)
    slowest = sorted(seconds, key=seconds.get, reverse=True)
    for name in slowest if every else slowest[:1]:
        what = f"`python -m {name} --help`"
        if not every:
            what = f"start-up: `--help` of the slowest of {len(names)} programs, `{name}`"
        limit = f"under {_MAX_SECONDS} s"
        yield Row(what, f"`{_REFERENCE}`", "s", seconds[name], reference, seconds[name] / reference, limit)


def run(*arguments):
    """Runs Python in the project's folder. Raises `CalledProcessError` if it fails."""
    subprocess.run([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)


def _is_program(path):
    """Returns whether a file has an `if __name__ == "__main__":`."""
    tests = [node.test for node in ast.parse(path.read_bytes()).body if isinstance(node, ast.If)]
    return any(ast.unparse(test) == "__name__ == '__main__'" for test in tests)


if __name__ == "__main__":
    main()
