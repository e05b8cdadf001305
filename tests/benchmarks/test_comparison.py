import contextlib
import re
from pathlib import Path

from benchmarks.__main__ import PROGRAMS
from benchmarks.comparison import Row, heading, interleaved, medians
from benchmarks.running_pipeline import RunningPipeline

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_ways_take_turns_in_both_orders():
    calls = []
    ways = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    seconds = interleaved(ways, rounds=3, warm_up=1)
    assert "".join(calls) == "ba" + "ab" + "ba" + "ab"
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3}
    assert all(second >= 0 for times in seconds.values() for second in times)


def test_a_way_runs_inside_its_context_manager():
    calls = []

    @contextlib.contextmanager
    def around():
        calls.append("in")
        yield
        calls.append("out")

    ways = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    for _ in range(2):  # with a new context manager each time, because it can be used only once
        interleaved(ways, rounds=1, warm_up=0, around={"b": around()})
    assert calls == ["a", "in", "b", "out"] * 2


def test_a_running_pipeline_warms_up_in_every_round():
    taken = []

    class Batches:
        def __iter__(self):
            for k in range(9):
                taken.append(k)
                yield k

    ways = {"ours": RunningPipeline(Batches(), 3, warm_up=4)}
    interleaved(ways, rounds=2, warm_up=0, around=ways)
    assert taken == [0, 1, 2, 3, 4, 5, 6] * 2


def test_each_way_has_its_median():
    assert medians({"a": [3.0, 1.0, 100.0], "b": [2.0]}) == {"a": 3.0, "b": 2.0}


def test_rows_fit_the_heading():
    row = str(Row("step", "plain", "images/s", 1234.5, 20.0, 0.97123, "at least 0.97"))
    assert row == "| step | plain | images/s | 1,234 | 20 | 0.971 | at least 0.97 |"
    reported = str(Row("start", "", "s", 0.25))
    assert {row.count("|"), reported.count("|")} == {heading().splitlines()[0].count("|")}


def test_all_programs_of_the_table_exist():
    assert all((BENCHMARKS / f"{name}.py").is_file() for name in PROGRAMS)


def test_the_page_names_all_programs():
    page = (BENCHMARKS / "README.md").read_text()
    programs = {path.stem for path in BENCHMARKS.glob("*.py") if "def main(" in path.read_text()}
    assert programs - {"__main__"} <= set(re.findall(r"`(\w+)`", page))
