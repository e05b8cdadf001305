import argparse

import numpy as np
import pytest

from benchmarks import identify
from benchmarks.comparison import Row
from eval.embedding.model_card import ModelCard, write_card
from eval.scoring.calibration import calibrate
from tests.eval.colour_net import BLUE, RED, write_onnx
from tests.portrait import moving, write_video


def test_rows_count_known_and_unknown_tracks(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    for name, tint in (("red", RED), ("blue", BLUE)):
        for number in range(2):
            write_video(
                tmp_path / "clips" / name / f"{number}.mkv", moving(11, face=80 + 10 * number, tint=tint)
            )
    model = tmp_path / "face.onnx"
    write_onnx(model)
    similarities, is_same = np.linspace(0, 0.9, 200), np.arange(200) >= 150
    write_card(
        model, ModelCard().with_calibration(calibrate(similarities, is_same, kind="single", name="made up"))
    )
    monkeypatch.setattr(identify, "speed", lambda clips, _args: [Row("speed", "", "", len(clips))])
    rows = list(identify.rows(argparse.Namespace(clips=tmp_path / "clips", model=model, fpir=0.01)))
    assert [(row.ours, row.reference_value) for row in rows[:-1:2]] == [(4, 4), (2, 2), (2, 2)]
    assert 0.9 < rows[1].ours < 1 and rows[1].reference_value < 0.6
    assert rows[-1].ours == 4
