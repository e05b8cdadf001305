"""Runs the benchmarks of the table in benchmarks/README.md one after another.

python -m benchmarks [NAME ...]
"""

import argparse
import subprocess
import sys
import time

from benchmarks.comparison import heading, machine

# The programs that fill the table, in its order.
PROGRAMS = (
    "training_step",
    "mixed_precision",
    "batch_norm",
    "margin_head",
    "input_pipeline",
    "sampling",
    "conversion",
    "opening",
    "extraction",
    "embedding",
    "verification",
    "training_memory",
    "start_up",
    "first_step",
    "many_records",
)
# These print tables for other pages, and run only if you name them.
OTHERS = ("mobilefacenet", "nets")


def main(argv=None):
    """Runs the benchmarks. Returns the exit code: 1 if one failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument(
        "names",
        nargs="*",
        choices=[*PROGRAMS, *OTHERS, []],
        metavar="NAME",
        help="benchmarks to run (default: all)",
    )
    names = parser.parse_args(argv).names or PROGRAMS
    print(f"{machine()}\n\n{heading()}", flush=True)
    start = time.monotonic()
    failed = [name for name in names if not run(name)]
    print(f"\n{len(names)} programs in {(time.monotonic() - start) / 60:.1f} minutes", flush=True)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def run(name):
    """Runs one benchmark in its own process and prints its rows. Returns whether it succeeded."""
    command = [sys.executable, "-m", f"benchmarks.{name}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if name in OTHERS or (line.startswith("| ") and not heading().startswith(line.rstrip())):
                print(line, end="", flush=True)
    return process.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
