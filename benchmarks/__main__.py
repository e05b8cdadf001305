"""All benchmarks of the table in benchmarks/README.md, one after the other.

python -m benchmarks [NAME ...]
"""

import argparse
import subprocess
import sys
import time

from benchmarks.comparison import heading, machine

# In the order of the table.
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
# With tables of their own, which fill other pages. They run only if they are named.
OTHERS = ("mobilefacenet", "nets")


def main(argv=None):
    """The program; returns the exit code, 1 where a benchmark failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument(
        "names", nargs="*", choices=[*PROGRAMS, *OTHERS, []], metavar="NAME", help="of some only"
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
    """Runs one in a process of its own and prints its rows; whether it succeeded."""
    command = [sys.executable, "-m", f"benchmarks.{name}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if name in OTHERS or (line.startswith("| ") and not heading().startswith(line.rstrip())):
                print(line, end="", flush=True)
    return process.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
