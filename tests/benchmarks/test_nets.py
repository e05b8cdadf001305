import functools
import json
import os

from benchmarks.nets import BATCH_SIZES, FORMS, run, table, turns


class Clock:
    """A clock that advances only when a timed function calls `wait`."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def wait(self, calls, name, *seconds):
        """Advances the clock by the next of `seconds` for this name; by the last if there are no more."""
        self.now += seconds[min(calls.count(name), len(seconds) - 1)]
        calls.append(name)


def test_ways_take_turns_and_the_fastest_turn_is_reported():
    clock, calls = Clock(), []
    ways = {
        "fast": functools.partial(clock.wait, calls, "fast", 9, 0.5, 0.125, 0.125, 0.25),
        "slow": functools.partial(clock.wait, calls, "slow", 9, 7),
    }
    assert turns(ways, 1.0, num_turns=4, clock=clock) == {"fast": 0.125, "slow": 7}
    # The first call of each function is not timed. The slow function gets only one turn.
    assert calls == ["fast", "slow", "fast", "slow", "fast", "fast", "fast"]


def stage(name, folder):
    if name == "bad":
        raise ValueError("no such layer")
    if name == "killed":
        os._exit(9)
    return {"name": name}


def test_results_are_saved_and_the_next_call_continues(tmp_path, capfd):
    run(["bad", "killed", "good"], {"count": stage}, tmp_path, minutes=5)
    assert [path.name for path in tmp_path.iterdir()] == ["good.json"]
    assert "bad: count: ValueError: no such layer" in capfd.readouterr().err
    (tmp_path / "good.json").write_text('{"count": 1}')
    run(["good"], {"count": stage}, tmp_path, minutes=5)
    assert json.loads((tmp_path / "good.json").read_text()) == {"count": 1}
    run(["late"], {"count": stage}, tmp_path, minutes=-1)
    assert not (tmp_path / "late.json").exists()


def test_nets_with_equal_cells_share_a_row_and_each_machine_has_its_own_speeds():
    count = {"parameters": 1_003_136, "multiply_adds": 220_965_376, "embedding_size": 128}
    files = {form: {"path": "face", "size": 4_100_000} for form in FORMS[:2]}
    speeds = {f"batch {size}": {form: 12.0 * size for form in FORMS[:2]} for size in BATCH_SIZES}
    results = {
        "mobilefacenet": {
            "count": count,
            "export": files,
            "measure": {"machine": "2 cores", "training": 5.54, **speeds},
        },
        "ir50": {"count": count},
        "ir32": {"count": count, "measure": {"machine": "1 core", "training": 0.5, **speeds}},
    }
    lines = list(table(results))
    assert "| `mobilefacenet` | 1.00 M | 221 M | 128 | 4.1 MB | 4.1 MB |  |  |  |" in lines
    assert "| `ir50`, `ir32` | 1.00 M | 221 M | 128 |  |  |  |  |  |" in lines
    assert [line for line in lines if "core" in line or "| 12 " in line] == [
        *("\n1 core\n", "| `ir32` | 0.5 | 12 / 384 | 12 / 384 |  |  |  |"),
        *("\n2 cores\n", "| `mobilefacenet` | 5.5 | 12 / 384 | 12 / 384 |  |  |  |"),
    ]
