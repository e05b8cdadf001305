"""Ours against a reference: interleaved measurements, and the rows of a table that they make."""

import contextlib
import dataclasses
import os
import platform
import statistics
import time
from pathlib import Path

_HEADINGS = ("what", "reference", "unit", "ours", "reference's", "ratio", "to reach")
_FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        what: str, what is measured.
        reference: str, what it is compared with; empty for none.
        unit: str, of the two numbers, such as `"images/s"`.
        ours: float.
        reference_value: float, or `None`.
        ratio: float, such that more is better where `to_reach` starts with "at least"; or `None`.
        to_reach: str, such as `"at least 0.97"`; empty where it is only reported.
    """

    what: str
    reference: str
    unit: str
    ours: float
    reference_value: float | None = None
    ratio: float | None = None
    to_reach: str = ""

    def __str__(self):
        numbers = [_shown(number) for number in (self.ours, self.reference_value, self.ratio)]
        return "| " + " | ".join([self.what, self.reference, self.unit, *numbers, self.to_reach]) + " |"


def interleaved(ways, rounds=5, warm_up=1, around=None):
    """Times several ways to do the same, in turns, so that what else the machine does meets all of them.

    Args:
        ways: dict from names to functions without arguments, which return when the work is done.
        rounds: int > 0, how often each is timed; every other round runs them in the opposite order.
        warm_up: int >= 0, rounds before, which are not timed.
        around: dict from names of some ways to context managers that each of their rounds runs in; to enter
            and to leave them is not timed.

    Returns:
        dict from names to the seconds of each round.
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
    """The median of each list: dict from names to float."""
    return {name: statistics.median(of_way) for name, of_way in seconds.items()}


def heading():
    """The first two lines of the table."""
    return "| " + " | ".join(_HEADINGS) + " |\n" + "|---" * len(_HEADINGS) + "|"


def machine():
    """What this was measured on: processor, cores, memory, versions; no name of it."""
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
    """Prints a table under the machine's line.

    Args:
        rows: iterable of `Row`; each is printed as soon as it is there.
    """
    print(f"{machine()}\n\n{heading()}", flush=True)
    for row in rows:
        print(row, flush=True)


def _shown(number):
    if number is None:
        return ""
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.3g}"
