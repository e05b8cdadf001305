"""Times our code and a reference in turns, and prints the results as rows of a table."""

import contextlib
import dataclasses
import os
import platform
import statistics
import time
from pathlib import Path

_HEADINGS = ("what", "reference", "unit", "ours", "reference's", "ratio", "goal")
_FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        what: what is measured.
        reference: what it is compared with; empty if nothing.
        unit: unit of the two numbers, such as `"images/s"`.
        ours: our measurement.
        reference_value: the measurement of the reference, or `None`.
        ratio: the result of the comparison, or `None`. If `goal` starts with "at least", more is better.
        goal: the ratio or value to reach, such as `"at least 0.97"`; empty if there is no goal.
    """

    what: str
    reference: str
    unit: str
    ours: float
    reference_value: float | None = None
    ratio: float | None = None
    goal: str = ""

    def __str__(self):
        numbers = [_format_number(number) for number in (self.ours, self.reference_value, self.ratio)]
        return "| " + " | ".join([self.what, self.reference, self.unit, *numbers, self.goal]) + " |"


def interleaved(ways, rounds=5, warm_up=1, around=None):
    """Times several ways to do the same work, in turns, so that other load on the machine slows all of them.

    Args:
        ways: dict from name to a function without arguments that returns when its work is done.
        rounds: int > 0, number of timed rounds. Every other round runs the ways in reverse order.
        warm_up: int >= 0, number of rounds that run first and are not timed.
        around: dict from the name of a way to a context manager that is entered for each of its rounds.
            Entering and leaving it is not timed.

    Returns:
        dict from name to a list of seconds, one for each round.
    """
    seconds = {name: [] for name in ways}
    for number in range(-warm_up, rounds):
        for name in list(ways)[:: -1 if number % 2 else 1]:
            with (around or {}).get(name) or contextlib.nullcontext():
                start = time.perf_counter()
                ways[name]()
                taken = time.perf_counter() - start
            if number >= 0:
                seconds[name].append(taken)
    return seconds


def medians(seconds):
    """Returns the median of each list: dict from name to float."""
    return {name: statistics.median(times) for name, times in seconds.items()}


def heading():
    """Returns the first two lines of the table."""
    return "| " + " | ".join(_HEADINGS) + " |\n" + "|---" * len(_HEADINGS) + "|"


def machine():
    """Describes the machine in one line: processor, cores, memory, versions. Leaves out the host name."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    fields = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    fields = {name.strip(): value.strip() for name, value in fields.items()}
    flags = set(fields.get("flags", "").split())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return ", ".join(
        [
            fields.get("model name", platform.processor() or platform.machine()),
            f"{os.cpu_count()} cores",
            *(feature.upper() for feature in _FEATURES if feature in flags),
            f"{memory:.0f} GiB",
            f"{platform.system()}, Python {platform.python_version()}",
        ]
    )


def report(rows):
    """Prints a line about the machine, then the table.

    Args:
        rows: iterable of `Row`. Each is printed as soon as it is measured.
    """
    print(f"{machine()}\n\n{heading()}", flush=True)
    for row in rows:
        print(row, flush=True)


def _format_number(number):
    if number is None:
        return ""
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.3g}"
