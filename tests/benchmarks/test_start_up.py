import subprocess

import pytest

from benchmarks.start_up import programs, rows, run


def test_all_programs_are_found():
    found = programs()
    assert {"benchmarks", "benchmarks.start_up", "dataset.convert", "train_centre"} <= set(found)
    assert not [name for name in found if name.startswith("tests.") or "__main__" in name]


def test_rows_show_the_slowest_or_every_program():
    names = ["benchmarks", "dataset.convert"]
    (slowest,) = rows(names, 1, every=False)
    # Either program can be slower on a busy machine.
    assert any(f"of 2 programs, `{name}`" in slowest.what for name in names)
    assert slowest.ratio == slowest.ours / slowest.reference_value
    first, second = rows(names, 1, every=True)
    assert first.ours >= second.ours


def test_a_program_that_fails_is_an_error():
    with pytest.raises(subprocess.CalledProcessError):
        run("-c", "raise SystemExit(3)")
