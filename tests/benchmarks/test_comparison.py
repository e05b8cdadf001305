import re
from pathlib import Path

from benchmarks.__main__ import PROGRAMS
from benchmarks.comparison import Row, heading, interleaved, medians

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_ways_take_turns_in_both_orders():
    calls = []
    ways = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    seconds = interleaved(ways, rounds=3, warm_up=1)
    assert "".join(calls) == "ba" + "ab" + "ba" + "ab"
    assert {name: len(of_way) for name, of_way in seconds.items()} == {"a": 3, "b": 3}
    assert all(second >= 0 for of_way in seconds.values() for second in of_way)


def test_medians():
    assert medians({"a": [3.0, 1.0, 100.0], "b": [2.0]}) == {"a": 3.0, "b": 2.0}


def test_rows_fit_the_heading():
    row = str(Row("step", "plain", "images/s", 1234.5, 20.0, 0.97123, "at least 0.97"))
    assert row == "| step | plain | images/s | 1,234 | 20 | 0.971 | at least 0.97 |"
    reported = str(Row("start", "", "s", 0.25))
    assert {row.count("|"), reported.count("|")} == {heading().splitlines()[0].count("|")}


def test_all_programs_of_the_table_are_there():
    assert all((BENCHMARKS / f"{name}.py").is_file() for name in PROGRAMS)


def test_the_page_names_all_programs():
    page = (BENCHMARKS / "README.md").read_text()
    programs = {path.stem for path in BENCHMARKS.glob("*.py") if "def main(" in path.read_text()}
    assert programs - {"__main__"} <= set(re.findall(r"`(\w+)`", page))
