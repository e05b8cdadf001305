import dataclasses

import numpy as np
import pytest

from benchmarks.killed_runs import Kill, torture


def test_steps_after_the_saved_one_are_redone():
    kill = Kill("step", "step", reached=9, saved=6)
    assert kill.redone == 3
    assert dataclasses.replace(kill, reached=0).redone == 0


def test_an_unknown_moment_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"moments: expected some of .*'sigterm'.*, received 'never'"):
        next(torture(["true"], tmp_path, ["never"], np.random.default_rng(0)))
